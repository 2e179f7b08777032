#include "core/linux/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/linux/forwarded_signals.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

constexpr uint64_t kFollow =
    PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;

constexpr uint64_t bit(int signal) {
  return uint64_t{1} << (signal - 1);
}

// Default actions by signal(7). Everything in no set terminates.
constexpr uint64_t kCoreSignals = bit(SIGQUIT) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGABRT) |
                                  bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV) | bit(SIGXCPU) |
                                  bit(SIGXFSZ) | bit(SIGSYS);
constexpr uint64_t kHarmlessSignals = bit(SIGCHLD) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGCONT) |
                                      bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);

// In the child: waits until it is traced, then becomes the command.
[[noreturn]] void become(char* const* argv, PipeEnds& start, PipeEnds& failure) {
  start.write.reset();
  char go = 0;
  if (::read(start.read.get(), &go, 1) == 1) {
    ::execvp(argv[0], argv);
    const int error_number = errno;
    if (::write(failure.write.get(), &error_number, sizeof error_number) < 0) ::_exit(126);
  }
  ::_exit(127);
}

Pid process_of(Tid tid) {
  const auto proc = ProcDirectory::of_if_alive(Pid{tid.value});
  const auto status = proc ? proc->read_if_allowed("status") : std::nullopt;
  return Pid{status ? static_cast<pid_t>(ProcFields(*status).number("Tgid")) : tid.value};
}

}  // namespace

bool dumps_core(int signal) {
  return kCoreSignals & bit(signal);
}

Supervisor::Supervisor(const std::vector<std::string>& command) {
  require_proc();
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  PipeEnds start = make_pipe(), failure = make_pipe();
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("cannot start {}", command.front());
  if (pid == 0) become(argv.data(), start, failure);

  root_ = Pid{pid};
  failure.write.reset();
  auto tracee = Tracee::seize_if_alive(leader_of(root_), kFollow);
  if (!tracee) throw Error("cannot start " + command.front(), "it ended before it began");
  tracees_.emplace(leader_of(root_), std::move(*tracee));
  forward_signals_to(root_);
  write_all(start.write.get(), std::as_bytes(std::span("", 1)), "a pipe");

  // The pipe closes as the command begins. It reports a stop at execve first, so we must not wait
  // for the pipe without letting it go on.
  int error_number = 0, status = 0;
  const pid_t reported = ::waitpid(pid, &status, __WALL);
  if (reported == pid && !WIFSTOPPED(status)) {
    tracees_.clear();
    if (::read(failure.read.get(), &error_number, sizeof error_number) != sizeof error_number)
      throw Error("cannot start " + command.front(), "it ended before it began");
    throw SystemError("cannot start " + command.front(), error_number);
  }
  Tracee& root = tracees_.at(leader_of(root_));
  root.set_status(WaitStatus(status));
}

// In the report of execve(2) the kernel has yet to write the call's result to a register.
Tracees& Supervisor::at_start() {
  Tracee& root = tracees_.at(leader_of(root_));
  root.interrupt_if_alive();
  root.resume_if_alive(0);
  constexpr std::chrono::seconds kPatience{10};
  if (!root.wait_stop(kPatience))
    throw Error(fmt::format("cannot hold process {} at its start", root_.value),
                root.status().gone() ? "it was killed" : "it does not stop");
  return tracees_;
}

int Supervisor::run(const OnFatal& on_fatal, const OnUnannounced& on_unannounced) {
  while (true) {
    std::erase_if(tracees_, [](const auto& entry) { return entry.second.status().gone(); });
    // A capture leaves every task stopped; each goes on from the stop it is in.
    for (auto& [tid, tracee] : tracees_)
      if (tracee.is_stopped()) handle(tracee, on_fatal);
    if (std::ranges::any_of(tracees_, [](auto& entry) { return entry.second.is_stopped(); }))
      continue;

    int status = 0;
    const pid_t tid = ::waitpid(-1, &status, __WALL);
    if (tid < 0 && errno == EINTR) continue;
    if (tid < 0) throw_errno("cannot wait for process {}", root_.value);
    const WaitStatus reported(status);
    if (reported.gone()) {
      tracees_.erase(Tid{tid});
      const bool is_thread = threads_.erase(Tid{tid}) > 0;
      // While a process ends of which was told, its threads do so with the same status.
      if (!is_thread && reported_.empty() && WIFSIGNALED(status) && dumps_core(WTERMSIG(status)))
        on_unannounced(Pid{tid}, WTERMSIG(status));
      reported_.erase(Pid{tid});  // another process may have its number from now on
      if (tid == root_.value) return status;
      continue;
    }
    const auto known = tracees_.find(Tid{tid});
    Tracee& tracee =
        known != tracees_.end()
            ? known->second
            : tracees_.emplace(Tid{tid}, Tracee::adopt(Tid{tid}, kFollow)).first->second;
    tracee.set_status(reported);
  }
}

void Supervisor::handle(Tracee& tracee, const OnFatal& on_fatal) {
  const WaitStatus stop = tracee.status();
  if (stop.job_control_stop()) return tracee.listen_if_alive();
  if (stop.event() == PTRACE_EVENT_EXEC) forget_after_exec(tracee);
  if (stop.event() == PTRACE_EVENT_CLONE)
    threads_.insert(Tid{static_cast<pid_t>(tracee.event_message())});
  if (stop.signal_delivery()) {
    const Pid process = process_of(tracee.tid());
    if (is_fatal(tracee, process) && reported_.insert(process).second)
      on_fatal(tracees_, {process, tracee.tid(), stop.signal()});
  }
  tracee.resume_if_alive(tracee.signal_on_its_way());
}

bool Supervisor::is_fatal(const Tracee& tracee, Pid process) const {
  const int signal = tracee.status().signal();
  if (kHarmlessSignals & bit(signal)) return false;
  const auto proc = ProcDirectory::of_if_alive(process);
  if (!proc) return false;
  const ProcFields status(proc->read("status"));
  return !((status.number("SigCgt", 16) | status.number("SigIgn", 16)) & bit(signal));
}

// The thread that called execve(2) goes on under its leader's number; its own is gone without a
// report.
void Supervisor::forget_after_exec(const Tracee& tracee) {
  const Tid former{static_cast<pid_t>(tracee.event_message())};
  const auto gone = tracees_.find(former);
  if (former == tracee.tid() || gone == tracees_.end()) return;
  gone->second.set_status(WaitStatus::exited());
  threads_.erase(former);
}

size_t Supervisor::left_running() const {
  std::set<Pid> left;
  for (const auto& [tid, tracee] : tracees_) {
    const auto stat = stat_of_if_alive(tid);
    if (stat && stat->state != 'Z' && stat->state != 'X') left.insert(process_of(tid));
  }
  left.erase(root_);
  return left.size();
}

std::vector<Pid> Supervisor::processes() const {
  std::vector<Pid> found{root_};
  for (const auto& [tid, tracee] : tracees_) {
    const Pid process = process_of(tid);
    if (!tracee.status().gone() && std::ranges::find(found, process) == found.end())
      found.push_back(process);
  }
  return found;
}

void end_like(int wait_status) {
  if (WIFEXITED(wait_status)) ::_exit(WEXITSTATUS(wait_status));
  const rlimit no_core{0, 0};  // the command has dumped its own, if it was to
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::signal(WTERMSIG(wait_status), SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::raise(WTERMSIG(wait_status));
  ::_exit(128 + WTERMSIG(wait_status));
}

}  // namespace snapgdb
