#include "core/capture.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/report.h"
#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/say.h"
#include "core/base/strings.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  int pid = 0;
  std::string output;
  bool stop = false, kill = false;
  CaptureOptions options;
};

// The kernel's table of our descriptors grows as numbers get higher; when there are threads by
// then, each time waits for an RCU grace period, 10 ms or more (expand_fdtable(), fs/file.c).
void make_room_for_descriptors() {
  constexpr int kMany = 16 * 1024;
  for (int number = kMany; number > STDERR_FILENO; number /= 2)
    if (const Fd high(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, number - 1)); high.valid()) return;
}

// NAME-PID.snapgdb; a process may call itself anything.
std::string default_name(Pid pid) {
  const auto proc = ProcDirectory::of_if_alive(pid);
  std::string name = proc ? proc->stat().name : "process";
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') c = '_';
  if (name.empty() || name[0] == '.' || name[0] == '-') name.insert(0, "_");
  return fmt::format("{}-{}.snapgdb", name, pid.value);
}

void signal_all(const std::vector<Pid>& processes, int signal) {
  for (const Pid pid : processes)
    if (::kill(pid.value, signal) != 0 && errno != ESRCH)
      throw_errno("cannot send a signal to process {}", pid.value);
}

// Until their numbers are free again, as whoever restores them expects. A parent outside of the
// tree may take its time to wait for its child, or never do it: that is not waited for.
void wait_until_gone(const std::vector<Pid>& processes) {
  using namespace std::chrono;
  const auto wait_for_each = [&](milliseconds patience, auto is_done) {
    const auto end = steady_clock::now() + patience;
    for (const Pid pid : processes)
      while (!is_done(stat_of_if_alive(Tid{pid.value})) && steady_clock::now() < end)
        std::this_thread::sleep_for(milliseconds(1));
  };
  wait_for_each(seconds(5),
                [](const auto& stat) { return !stat || stat->state == 'Z' || stat->state == 'X'; });
  wait_for_each(milliseconds(100), [](const auto& stat) { return !stat; });
}

void end_connections(InetSockets::Ends& connections) {
  connections.prepare();
  if (connections.lock)
    say("snapgdb: connections are locked until snapgdb restore --tcp-established, or: {}\n",
        NetworkLock::command_to_remove(connections.lock->name()));
}

int run(Arguments& arguments) {
  if (arguments.pid <= 0)
    throw Error(fmt::format("cannot capture process {}", arguments.pid), "a PID is above 0", "",
                ExitStatus::kUsage);
  make_room_for_descriptors();
  take_failed_writes_for_errors();
  const Pid pid{arguments.pid};
  if (arguments.output.empty()) arguments.output = default_name(pid);
  refuse_streams(arguments.output, true);

  std::optional<ProgressLine> line(std::in_place, "capturing");
  arguments.options.progress = line->progress();
  arguments.options.network.ends = arguments.kill;
  Capture capture(OutputFile::create(arguments.output), arguments.options);
  Tracees tracees;
  CaptureReport report = capture.take({pid}, tracees, Moment{}, [&] {
    // Sent while all are held: each finds it as soon as it goes on, before any instruction.
    if (arguments.stop) signal_all(tree_below({pid}), SIGSTOP);
    if (!arguments.kill) tracees.clear();
  });
  capture.commit();
  for (TakenQueues& queues : report.terminals) queues.keep();
  line.reset();  // the rest is said below it
  if (arguments.kill) end_connections(report.connections);
  // All of them: also who waits in vfork(2), and is not among the tracees.
  const std::vector<Pid> killed = arguments.kill ? tree_below({pid}) : std::vector<Pid>();
  signal_all(killed, SIGKILL);
  tracees.clear();
  wait_until_gone(killed);
  if (arguments.output != "-") fmt::print("{}\n", capture.path());
  return report_capture(capture, report);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("PID", arguments->pid, "Root of the process tree")->required();
  app.add_option("-o,--output", arguments->output,
                 "Image to write; - is standard output [NAME-PID.snapgdb]")
      ->check(why_not_named);
  auto* stop = app.add_flag("--stop", arguments->stop, "Leave the tree stopped (SIGSTOP)");
  auto* kill = app.add_flag("--kill", arguments->kill, "Kill the tree once the image is complete")
                   ->excludes(stop);
  app.add_flag("--tcp-established", arguments->options.network.keeps_connections,
               "Lock the network of its TCP connections to outside (nftables), until snapgdb "
               "restore --tcp-established: their other ends see a delay (root)")
      ->needs(kill);
  add_write_options(app, arguments->options.write);
  add_memory_options(app, arguments->options.memory);
  return [arguments] { return run(*arguments); };
}

}  // namespace

const Command kCaptureCommand{"capture", "Take a snapshot of a running process tree", define};

}  // namespace snapgdb::cli
