#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/linux/forwarded_signals.h"
#include "core/linux/supervisor.h"
#include "core/linux/terminal.h"
#include "core/restore.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string image;
  bool detach = false, dry_run = false, isolated = false, lazy = false;
  bool tcp_established = false, tcp_close = false;
  std::string scratch = {};
  std::vector<std::string> without = {};
  OpenOptions open = {};
};

// ---- What is said beforehand --------------------------------------------------------------------

std::string line_of(const Obstacle& obstacle) {
  std::string line = obstacle.pid ? fmt::format("process {}: ", obstacle.pid) : std::string();
  line += obstacle.resource + ": " + obstacle.why;
  return obstacle.help.empty() ? line : line + " (" + obstacle.help + ")";
}

void report(const RestorePlan& plan) {
  for (const std::string& note : plan.notes) say("snapgdb: {}\n", note);
  for (const Obstacle& obstacle : plan.obstacles) say("snapgdb: {}\n", line_of(obstacle));
}

// ---- In the foreground --------------------------------------------------------------------------

// The terminal belongs to the tree while it runs, if it is a group of its own; and has the settings
// (of editors, say) that it had then.
class TerminalLoan {
 public:
  TerminalLoan(Pid root, std::string settings)
      : group_(::getpgid(root.value)),
        is_job_(::isatty(STDIN_FILENO) && group_ != ::getpgrp() &&
                ::getsid(root.value) == ::getsid(0)),
        settings_(std::move(settings)) {
    lend();
  }
  ~TerminalLoan() { take_back(); }
  TerminalLoan(const TerminalLoan&) = delete;
  TerminalLoan& operator=(const TerminalLoan&) = delete;

  // As a job of the shell's, of which it knows us only: we stop, too (^Z, or input from the
  // background), and go on together. Where nobody could let us go on, the kernel does not stop us.
  void stop_with_tree() {
    if (!is_job_) return;
    take_back();
    {
      const ForwardingPause pause;  // it goes on when it has the terminal
      ::kill(0, SIGTSTP);
    }
    lend();
    ::kill(-group_, SIGCONT);
  }

 private:
  void lend() {
    if (::tcgetpgrp(STDIN_FILENO) != ::getpgrp()) return;
    lent_settings_.emplace(settings_);
    if (!is_job_) return;
    ::signal(SIGTTOU, SIG_IGN);  // we are in the background afterwards
    lent_ = ::tcsetpgrp(STDIN_FILENO, group_) == 0;
  }
  void take_back() {
    if (std::exchange(lent_, false)) ::tcsetpgrp(STDIN_FILENO, ::getpgrp());
    if (!lent_settings_ || ::tcgetpgrp(STDIN_FILENO) != ::getpgrp()) return;
    settings_ = terminal_settings(STDIN_FILENO);
    lent_settings_.reset();
  }

  pid_t group_;
  bool is_job_, lent_ = false;
  std::string settings_;  // the tree's
  std::optional<LentSettings> lent_settings_;
};

// ---- What an isolated tree wrote ----------------------------------------------------------------

// Made before anything is restored, so that it is nobody else's; gone again if nothing was written.
class Scratch {
 public:
  explicit Scratch(const Arguments& arguments) {
    if (!arguments.isolated) return;
    path_ = arguments.scratch.empty() ? made_up() : wanted(arguments.scratch);
  }
  ~Scratch() { remove_if_empty(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }  // "": what is written is not isolated
  void remove_if_empty() const {
    if (!path_.empty() && !is_left_) ::rmdir(path_.c_str());
  }
  void leave() { is_left_ = true; }

 private:
  static std::string made_up() {
    const char* const wished = std::getenv("TMPDIR");
    std::string path =
        fmt::format("{}/snapgdb-scratch-XXXXXX", wished && *wished ? wished : "/tmp");
    if (!::mkdtemp(path.data()))
      throw SystemError("cannot make " + printable(path), errno,
                        "set TMPDIR, or name a directory with --scratch");
    return path;
  }
  static std::string wanted(const std::string& name) {
    const auto path = std::filesystem::absolute(name).lexically_normal();
    // Without a slash at its end.
    const std::string plain = path.has_filename() ? path : path.parent_path();
    if (::mkdir(plain.c_str(), 0700) == 0) return plain;
    const bool is_taken = errno == EEXIST;
    throw Error("cannot save what the tree writes in " + printable(name),
                is_taken ? "it exists already" : errno_text(errno),
                is_taken ? "name a directory that does not" : "");
  }

  std::string path_;
  bool is_left_ = false;
};

void report(const Keeper::End& end, const std::string& scratch) {
  if (end.files)
    say("snapgdb: {} file{} that it wrote or removed: see {}\n", end.files,
        end.files == 1 ? "" : "s", printable(scratch));
  if (!end.not_saved.empty()) say("snapgdb: what it wrote is lost: {}\n", end.not_saved);
}

RestorePlan::Connections connections_of(const Arguments& arguments) {
  if (arguments.tcp_established) return RestorePlan::Connections::kKept;
  return arguments.tcp_close ? RestorePlan::Connections::kClosed
                             : RestorePlan::Connections::kRefused;
}

RestoredTree restored(const Snapshot& snapshot, const RestorePlan& plan,
                      const std::string& scratch) {
  ProgressLine line("restoring");
  return restored_whatever_runs(snapshot, plan, scratch, line.progress());
}

int run(const Arguments& arguments) {
  const auto snapshot = open_snapshot(arguments.image, arguments.open);
  const RestorePlan plan =
      plan_restore(*snapshot, {.without = {arguments.without.begin(), arguments.without.end()},
                               .isolated = arguments.isolated,
                               .connections = connections_of(arguments),
                               .lazy = arguments.lazy});
  report(plan);
  if (arguments.dry_run) fmt::print("{}", describe(plan, *snapshot));
  if (!plan.obstacles.empty())
    throw Error("cannot restore " + arguments.image,
                fmt::format("{} {} in the way", plan.obstacles.size(),
                            plan.obstacles.size() == 1 ? "thing is" : "things are"));
  if (arguments.dry_run) return 0;

  Scratch scratch(arguments);
  RestoredTree tree = restored(*snapshot, plan, scratch.path());
  const Pid root = tree.root();
  for (const std::string& note : tree.notes()) say("snapgdb: {}\n", note);
  if (tree.has_own_pids() && !arguments.isolated)
    say("snapgdb: it keeps its process numbers in a pid namespace of its own; from outside "
        "its first process is {}\n",
        root.value);
  if (arguments.detach) {
    // Before it runs: who is not told of it could not end it.
    fmt::print("{}\n", root.value);
    finish_output();
    tree.release(Keeper::We::kGo);
    scratch.leave();
    if (arguments.isolated)
      say("snapgdb: what it writes to files will be in {} when it has ended\n",
          printable(scratch.path()));
    return plan.notes.empty() && tree.notes().empty() ? 0 : 3;
  }
  forward_signals_to(root);
  Keeper::End end;
  {
    TerminalLoan loan(root, terminal_settings_for(plan));
    tree.release(Keeper::We::kWait);
    end = tree.wait([&] { loan.stop_with_tree(); });
  }
  forward_no_signals();
  report(end, scratch.path());
  scratch.remove_if_empty();
  std::fflush(nullptr);
  end_like(end.status);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "Image; IMG@K is its K-th snapshot")->required();
  app.add_flag("--detach", arguments->detach,
               "Return once the tree runs, and print the number of its first process");
  app.add_flag("--dry-run", arguments->dry_run,
               "Say what would be done, and what is in the way; touch nothing");
  const auto isolated = app.add_flag(
      "--isolated", arguments->isolated,
      "Touch nothing outside: writes go to a scratch, the network reaches nothing, and "
      "what cannot be had fails as a lost connection would");
  app.add_option("--scratch", arguments->scratch,
                 "New directory for what an isolated tree has written [in $TMPDIR]")
      ->needs(isolated)
      ->type_name("DIR");
  app.add_flag("--lazy", arguments->lazy,
               "Let it run before its memory is there: pages come as they are touched, the others "
               "later (root)");
  const auto keep = app.add_flag("--tcp-established", arguments->tcp_established,
                                 "Go on with TCP connections to outside, and unlock their network "
                                 "(root)")
                        ->excludes(isolated);
  app.add_flag("--tcp-close", arguments->tcp_close,
               "TCP connections to outside are closed: reading is at its end, writing fails")
      ->excludes(keep);
  app.add_option("--without", arguments->without,
                 "Go without descriptors of these kinds (socket, timerfd, …): using one fails as "
                 "on a lost connection")
      ->delimiter(',')
      ->check(CLI::IsMember(kinds_to_go_without()))
      ->type_name("KIND,…");
  add_open_options(app, arguments->open);
  return [arguments] { return run(*arguments); };
}

}  // namespace

const Command kRestoreCommand{
    "restore", "Run a tree again, from the moment of a snapshot; its exit status is ours", define};

}  // namespace snapgdb::cli
