#include <optional>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/report.h"
#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/capture.h"
#include "core/inspect/words.h"
#include "core/linux/supervisor.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string output, on = "fatal";
  std::vector<std::string> command = {};
  CaptureOptions options;
};

class Recorder {
 public:
  Recorder(const Arguments& arguments, const Supervisor& supervisor)
      : arguments_(arguments), supervisor_(supervisor) {}

  // What goes wrong here must not change how the program ends: it is said, and that is all.
  void on_fatal(Tracees& tracees, const FatalSignal& fatal) {
    if (!wanted(fatal)) return;
    try {
      take(tracees, fatal);
    } catch (const Error& error) {
      fmt::print(stderr, "snapgdb: no snapshot: {}\n", printable(error.what()));
    }
  }

 private:
  // A child killed by its parent is everyday life; a crash is not, and neither is the command's
  // own end.
  bool wanted(const FatalSignal& fatal) const {
    if (dumps_core(fatal.signal)) return true;
    return arguments_.on == "fatal" && fatal.process == supervisor_.root();
  }

  void take(Tracees& tracees, const FatalSignal& fatal) {
    // Only now: until something happens, no file appears and no thread of ours runs.
    if (!capture_) capture_.emplace(OutputFile::create(arguments_.output), arguments_.options);
    const Moment moment{fmt::format("{} in {}.{}", signal_name(static_cast<uint32_t>(fatal.signal)),
                                    fatal.process.value, fatal.task.value),
                        fatal.process, fatal.task};
    const CaptureReport report = capture_->take(supervisor_.processes(), tracees, moment, [] {});
    capture_->commit();
    fmt::print(stderr, "snapgdb: {}: ", moment.reason);
    report_capture(*capture_, report);
  }

  const Arguments& arguments_;
  const Supervisor& supervisor_;
  std::optional<Capture> capture_;
};

int run(const Arguments& arguments) {
  int status = 0;
  {
    Supervisor supervisor(arguments.command);
    Recorder recorder(arguments, supervisor);
    status = supervisor.run(
        [&](Tracees& tracees, const FatalSignal& fatal) { recorder.on_fatal(tracees, fatal); });
  }
  std::fflush(nullptr);
  end_like(status);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("-o,--output", arguments->output, "Image to write if the command crashes")
      ->required();
  app.add_option("--on", arguments->on,
                 "crash: signals that dump core, in any process; fatal: also whatever kills the "
                 "command itself [fatal]")
      ->check(CLI::IsMember({"crash", "fatal"}));
  add_write_options(app, arguments->options.write);
  app.add_option("CMD", arguments->command, "Command and its arguments, after --")->required();
  return [arguments] { return run(*arguments); };
}

}  // namespace

const Command kRunCommand{
    "run", "Run a command; a fatal signal anywhere in its tree is captured before it strikes",
    define};

}  // namespace snapgdb::cli
