#include <signal.h>
#include <sys/wait.h>

#include <cerrno>
#include <optional>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/words_option.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/capture.h"
#include "core/inspect/words.h"
#include "core/linux/supervisor.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string output, on = "fatal";
  bool kill = false;
  std::vector<std::string> command = {};
  CaptureOptions options;
};

class Recorder {
 public:
  Recorder(const Arguments& arguments, const Supervisor& supervisor)
      : arguments_(arguments), supervisor_(supervisor) {}

  // The program has not begun: what goes wrong here is an error like any other.
  int at_start(Tracees& tracees) {
    return take(tracees, {"start", supervisor_.root(), leader_of(supervisor_.root())});
  }

  // What goes wrong here must not change how the program ends: it is said, and that is all.
  void on_fatal(Tracees& tracees, const FatalSignal& fatal) {
    if (!wanted(fatal)) return;
    try {
      take(tracees, {fmt::format("{} in {}.{}", signal_name(static_cast<uint32_t>(fatal.signal)),
                                 fatal.process.value, fatal.task.value),
                     fatal.process, fatal.task});
    } catch (const std::exception& error) {
      say("snapgdb: no snapshot: {}\n", words_for(error));
    }
  }

 private:
  // A child killed by its parent is everyday life; a crash is not, and neither is the command's
  // own end.
  bool wanted(const FatalSignal& fatal) const {
    if (arguments_.on == "start") return false;
    if (dumps_core(fatal.signal)) return true;
    return arguments_.on == "fatal" && fatal.process == supervisor_.root();
  }

  int take(Tracees& tracees, const Moment& moment) {
    // Only now: until something happens, no file appears and no thread of ours runs.
    if (!capture_) capture_.emplace(OutputFile::create(arguments_.output), arguments_.options);
    const CaptureReport report = capture_->take(supervisor_.processes(), tracees, moment, [] {});
    capture_->commit();
    say("snapgdb: {}: ", moment.reason);
    return report_capture(*capture_, report);
  }

  const Arguments& arguments_;
  const Supervisor& supervisor_;
  std::optional<Capture> capture_;
};

// Before it has begun.
void end_of(Supervisor& supervisor) {
  if (::kill(supervisor.root().value, SIGKILL) != 0 && errno != ESRCH)
    throw_errno("cannot kill process {}", supervisor.root().value);
  supervisor.run([](Tracees&, const FatalSignal&) {}, [](Pid, int) {});
}

// A command whose start cannot be captured does not run.
int capture_start(Supervisor& supervisor, Recorder& recorder) {
  try {
    return recorder.at_start(supervisor.at_start());
  } catch (const Error&) {
    end_of(supervisor);
    throw;
  }
}

// Once the command has ended, nobody waits for the crash of others. What has killed it may be
// ending them, too.
void say_what_is_left(const Supervisor& supervisor) try {
  if (const size_t left = supervisor.left_running(); left > 0)
    say("snapgdb: {} on unwatched\n", counted(left, "process goes", "processes go"));
} catch (const std::exception& error) {
  say("snapgdb: {}\n", words_for(error));
}

int run(const Arguments& arguments) {
  // Said now, and not when the crash that was waited for is over.
  check_can_be_written(arguments.output);
  int status = 0;
  {
    Supervisor supervisor(arguments.command);
    take_failed_writes_for_errors();  // which are no reason to leave the command
    Recorder recorder(arguments, supervisor);
    if (arguments.on == "start") {
      const int taken = capture_start(supervisor, recorder);
      if (arguments.kill) {
        end_of(supervisor);
        return taken;
      }
    }
    status = supervisor.run(
        [&](Tracees& tracees, const FatalSignal& fatal) { recorder.on_fatal(tracees, fatal); },
        [&](Pid process, int signal) {
          if (arguments.on != "start")
            say("snapgdb: no snapshot: {} ended process {} without notice (a filter of seccomp(2) "
                "does so)\n",
                signal_name(static_cast<uint32_t>(signal)), process.value);
        });
    if (arguments.on != "start" && WIFEXITED(status)) say_what_is_left(supervisor);
  }
  std::fflush(nullptr);
  end_like(status);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("-o,--output", arguments->output, "Image to write if the command crashes")
      ->required()
      ->check(why_not_named);
  app.add_option("--on", arguments->on,
                 "crash: signals that dump core, in any process; fatal: also whatever kills the "
                 "command itself; start: nothing but the command before its first instruction "
                 "[fatal]")
      ->check(CLI::IsMember({"crash", "fatal", "start"}));
  app.add_flag("--kill", arguments->kill,
               "With --on start: the command does not run, except from the image");
  add_write_options(app, arguments->options.write);
  add_memory_options(app, arguments->options.memory);
  add_words(app, "CMD", arguments->command, "Command and its arguments, after --")->required();
  return [arguments] {
    refuse_streams(arguments->output, false);
    if (arguments->kill && arguments->on != "start")
      throw Error("cannot use --kill", "it is about --on start only", "", ExitStatus::kUsage);
    return run(*arguments);
  };
}

}  // namespace

const Command kRunCommand{
    "run", "Run a command; a fatal signal anywhere in its tree is captured before it strikes",
    define};

}  // namespace snapgdb::cli
