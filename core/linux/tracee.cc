#include "core/linux/tracee.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

// PF_KTHREAD and PF_EXITING, include/linux/sched.h.
constexpr uint32_t kKernelThreadFlag = 0x00200000, kExitingFlag = 0x00000004;

long request(enum __ptrace_request what, Tid tid, void* address, void* data) {
  return ::ptrace(what, tid.value, address, data);
}

void* as_pointer(uint64_t value) {
  return reinterpret_cast<void*>(value);
}

void* place_of_debug_register(int number) {
  return as_pointer(offsetof(struct user, u_debugreg) + static_cast<size_t>(number) * 8);
}

struct Refusal {
  std::string why, help;
};

// Nothing stops a task that is on its way out. The kernel then says EPERM: of a zombie always, of
// one that has given up its memory already where we could not capture everybody's.
bool is_exiting(const ProcStat& stat) {
  return stat.state == 'Z' || stat.state == 'X' || (stat.flags & kExitingFlag);
}

// Why PTRACE_SEIZE said EPERM: the kernel does not tell, /proc does.
Refusal explain_refusal(const ProcDirectory& task, const ProcStat& stat) {
  if (stat.flags & kKernelThreadFlag) return {"it is a kernel thread", ""};

  const ProcFields status(task.read_if_allowed("status").value_or(""));
  if (const auto tracer = static_cast<pid_t>(status.number("TracerPid"))) {
    const auto known = stat_of_if_alive(Tid{tracer});
    return {fmt::format("it is being traced by {} ({})", tracer,
                        known ? printable(known->name) : "gone"),
            "detach that debugger first"};
  }
  const uid_t owner = static_cast<uid_t>(status.number("Uid"));
  if (::geteuid() != 0 && owner != ::geteuid())
    return {fmt::format("it belongs to user {}", owner), "run snapgdb as that user or as root"};
  // Real, effective, saved and file system ids; all four are the same in an ordinary program.
  for (const char* key : {"Uid", "Gid"}) {
    const auto ids = split_blank(status.text(key));
    if (::geteuid() != 0 && std::ranges::adjacent_find(ids, std::not_equal_to()) != ids.end())
      return {"it is a set-user-ID or set-group-ID program",
              "try again once it has ended, or as root"};
  }
  return {"the kernel does not permit it",
          "it may have more privileges than you, be marked not dumpable, or be protected by "
          "kernel.yama.ptrace_scope"};
}

// Interrupts a system call of this thread when the time is over, and every 10 ms from then on,
// since the first may come just before the call.
class Alarm {
 public:
  explicit Alarm(std::chrono::milliseconds patience)
      : deadline_(std::chrono::steady_clock::now() + patience) {
    const auto seconds = patience.count() / 1000, rest = patience.count() % 1000;
    set({.it_interval = {0, 10'000'000}, .it_value = {seconds, rest * 1'000'000}});
  }
  ~Alarm() { set({}); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  bool is_over() const { return std::chrono::steady_clock::now() >= deadline_; }

 private:
  static int signal_number() { return SIGRTMAX - 1; }
  struct Timer {
    timer_t id{};
    Timer() {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      ::sigaction(signal_number(), &action, nullptr);
      sigevent event{};
      event.sigev_notify = SIGEV_THREAD_ID;
      event.sigev_signo = signal_number();
      event._sigev_un._tid = ::gettid();
      if (::timer_create(CLOCK_MONOTONIC, &event, &id) != 0) throw_errno("cannot create a timer");
    }
    ~Timer() { ::timer_delete(id); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
  };
  static void set(const itimerspec& time) {
    thread_local const Timer timer;
    ::timer_settime(timer.id, 0, &time, nullptr);
  }

  std::chrono::steady_clock::time_point deadline_;
};

}  // namespace

bool WaitStatus::gone() const {
  return status_ && (WIFEXITED(*status_) || WIFSIGNALED(*status_));
}
bool WaitStatus::stopped() const {
  return status_ && WIFSTOPPED(*status_);
}
int WaitStatus::signal() const {
  return WSTOPSIG(raw());
}

bool WaitStatus::system_call() const {
  return stopped() && event() == 0 && signal() == (SIGTRAP | 0x80);
}

bool WaitStatus::job_control_stop() const {
  return stopped() && event() == PTRACE_EVENT_STOP && signal() != SIGTRAP;
}

WaitStatus::Report WaitStatus::report() const {
  constexpr std::pair<int, Report> kEvents[] = {
      {PTRACE_EVENT_FORK, Report::kFork},   {PTRACE_EVENT_VFORK, Report::kVfork},
      {PTRACE_EVENT_CLONE, Report::kClone}, {PTRACE_EVENT_VFORK_DONE, Report::kVforkDone},
      {PTRACE_EVENT_EXEC, Report::kExec},   {PTRACE_EVENT_STOP, Report::kStop},
  };
  for (const auto& [event_number, report] : kEvents)
    if (event() == event_number) return report;
  return system_call() ? Report::kSystemCall : Report::kSignal;
}

std::optional<Tracee> Tracee::seize_if_alive(Tid tid, uint64_t options) {
  if (request(PTRACE_SEIZE, tid, nullptr, as_pointer(options)) == 0) return Tracee(tid, options);
  const int error_number = errno;
  if (error_number == ESRCH) return std::nullopt;
  const auto task = ProcDirectory::of_if_alive(Pid{tid.value});  // threads have a /proc/TID too
  if (!task) return std::nullopt;
  const auto stat = task->stat_if_alive();
  if (!stat || is_exiting(*stat)) return std::nullopt;
  const auto tried = fmt::format("cannot stop {}", tid.value);
  if (error_number != EPERM) throw SystemError(tried, error_number);
  const auto [why, help] = explain_refusal(*task, *stat);
  throw Error(tried, why, help);
}

std::optional<Tid> Tracee::next_to_report() {
  constexpr int kAny = WEXITED | WSTOPPED | WNOHANG | __WALL | __WNOTHREAD;
  while (true) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, kAny | WNOWAIT) != 0 || info.si_pid == 0) return std::nullopt;
    if (info.si_code != CLD_STOPPED) return Tid{info.si_pid};
    // A child that nobody traces: what stops it is nothing to us.
    ::waitid(P_PID, static_cast<id_t>(info.si_pid), &info, kAny & ~WEXITED);
  }
}

Tracee::Tracee(Tracee&& other) noexcept
    : tid_(std::exchange(other.tid_, {})),
      options_(other.options_),
      wait_channel_(std::move(other.wait_channel_)),
      status_(other.status_),
      known_(std::move(other.known_)) {}

Tracee& Tracee::operator=(Tracee&& other) noexcept {
  std::swap(tid_, other.tid_);
  std::swap(options_, other.options_);
  std::swap(wait_channel_, other.wait_channel_);
  std::swap(status_, other.status_);
  std::swap(known_, other.known_);
  return *this;
}

Tracee::~Tracee() {
  if (tid_.value == 0 || status_.gone()) return;
  // PTRACE_DETACH needs a stop. A task that does not come to one (it sleeps uninterruptibly) is let
  // go by the kernel when this process ends.
  if (!status_.stopped()) interrupt_if_alive();
  const auto wait_a_little = [this] {
    for (int tries = 0; tries < 200 && !poll_stop() && !status_.gone(); ++tries) ::usleep(100);
  };
  wait_a_little();
  if (status_.stopped() && !detach_if_alive(signal_on_its_way())) wait_a_little();
}

void Tracee::interrupt_if_alive() {
  request(PTRACE_INTERRUPT, tid_, nullptr, nullptr);
}

bool Tracee::poll_stop() {
  if (status_.stopped() || status_.gone()) return status_.stopped();
  int status = 0;
  const pid_t got = ::waitpid(tid_.value, &status, __WALL | WNOHANG);
  if (got == tid_.value) status_ = WaitStatus(status);
  // ECHILD: another thread of its process called execve(2), which took this one's number away.
  if (got < 0 && errno == ECHILD) status_ = WaitStatus::exited();
  return status_.stopped();
}

bool Tracee::wait_stop(std::chrono::milliseconds patience) {
  if (poll_stop() || status_.gone()) return status_.stopped();
  // Blocking hands the processor to the tracee at once, which polling would keep from it.
  const Alarm alarm(patience);
  int status = 0;
  pid_t got = -1;
  do {
    got = ::waitpid(tid_.value, &status, __WALL);
  } while (got < 0 && errno == EINTR && !alarm.is_over());
  if (got == tid_.value) status_ = WaitStatus(status);
  if (got < 0 && errno == ECHILD) status_ = WaitStatus::exited();  // as in poll_stop()
  return status_.stopped();
}

std::vector<std::byte> Tracee::register_set(uint32_t note_type) const {
  const bool is_xstate = note_type == NT_X86_XSTATE;
  if (is_xstate && known_.xstate) return *known_.xstate;
  std::array<std::byte, size_t{16} << 10> bytes;  // AMX needs 11 KiB; the kernel says how much
  iovec space{bytes.data(), bytes.size()};
  if (request(PTRACE_GETREGSET, tid_, as_pointer(note_type), &space) != 0)
    throw_errno("cannot read registers of {}", tid_.value);
  std::vector<std::byte> set(bytes.data(), bytes.data() + space.iov_len);
  if (is_xstate) known_.xstate = set;
  return set;
}

void Tracee::set_register_set(uint32_t note_type, std::span<const std::byte> bytes) {
  iovec space{const_cast<std::byte*>(bytes.data()), bytes.size()};
  known_ = {};
  if (request(PTRACE_SETREGSET, tid_, as_pointer(note_type), &space) != 0)
    throw_errno("cannot set registers of {}", tid_.value);
}

user_regs_struct Tracee::registers() const {
  if (known_.registers) return *known_.registers;
  user_regs_struct registers{};
  if (request(PTRACE_GETREGS, tid_, nullptr, &registers) != 0)
    throw_errno("cannot read registers of {}", tid_.value);
  known_.registers = registers;
  return registers;
}

void Tracee::set_registers(const user_regs_struct& registers) {
  user_regs_struct copy = registers;
  known_.registers.reset();
  if (request(PTRACE_SETREGS, tid_, nullptr, &copy) != 0)
    throw_errno("cannot set registers of {}", tid_.value);
}

void Tracee::set_signal_mask(uint64_t mask) {
  known_.signal_mask.reset();
  if (request(PTRACE_SETSIGMASK, tid_, as_pointer(sizeof mask), &mask) != 0)
    throw_errno("cannot set the signal mask of {}", tid_.value);
}

void Tracee::set_options(uint64_t options) {
  if (request(PTRACE_SETOPTIONS, tid_, nullptr, as_pointer(options)) != 0)
    throw_errno("cannot set ptrace options of {}", tid_.value);
  options_ = options;
}

uint64_t Tracee::signal_mask() const {
  if (known_.signal_mask) return *known_.signal_mask;
  uint64_t mask = 0;
  if (request(PTRACE_GETSIGMASK, tid_, as_pointer(sizeof mask), &mask) != 0)
    throw_errno("cannot read the signal mask of {}", tid_.value);
  known_.signal_mask = mask;
  return mask;
}

siginfo_t Tracee::siginfo() const {
  siginfo_t info{};
  if (request(PTRACE_GETSIGINFO, tid_, nullptr, &info) != 0)
    throw_errno("cannot read the signal information of {}", tid_.value);
  return info;
}

void Tracee::set_siginfo(const siginfo_t& info) {
  siginfo_t copy = info;
  if (request(PTRACE_SETSIGINFO, tid_, nullptr, &copy) != 0)
    throw_errno("cannot set the signal information of {}", tid_.value);
}

uint64_t Tracee::debug_register(int number) const {
  errno = 0;
  const long value = request(PTRACE_PEEKUSER, tid_, place_of_debug_register(number), nullptr);
  if (errno != 0) throw_errno("cannot read debug register {} of {}", number, tid_.value);
  return static_cast<uint64_t>(value);
}

void Tracee::set_debug_register(int number, uint64_t value) {
  if (request(PTRACE_POKEUSER, tid_, place_of_debug_register(number), as_pointer(value)) != 0)
    throw_errno("cannot set debug register {} of {}", number, tid_.value);
}

std::vector<siginfo_t> Tracee::pending(bool of_process) const {
  std::vector<siginfo_t> queue;
  while (true) {
    std::array<siginfo_t, 32> block{};
    __ptrace_peeksiginfo_args args{queue.size(), 0, static_cast<int32_t>(block.size())};
    if (of_process) args.flags = PTRACE_PEEKSIGINFO_SHARED;
    const long n = request(PTRACE_PEEKSIGINFO, tid_, &args, block.data());
    if (n < 0) throw_errno("cannot read the pending signals of {}", tid_.value);
    if (n == 0) return queue;
    queue.insert(queue.end(), block.begin(), block.begin() + n);
  }
}

std::optional<Tracee::Rseq> Tracee::rseq() const {
  if (known_.rseq) return *known_.rseq;
  __ptrace_rseq_configuration configuration{};
  if (request(PTRACE_GET_RSEQ_CONFIGURATION, tid_, as_pointer(sizeof configuration),
              &configuration) < 0)
    return std::nullopt;
  known_.rseq = Rseq{configuration.rseq_abi_pointer, configuration.rseq_abi_size,
                     configuration.signature, configuration.flags};
  return *known_.rseq;
}

unsigned long Tracee::event_message() const {
  unsigned long message = 0;
  if (request(PTRACE_GETEVENTMSG, tid_, nullptr, &message) != 0)
    throw_errno("cannot read an event of {}", tid_.value);
  return message;
}

bool Tracee::enters_system_call() const {
  __ptrace_syscall_info info{};
  if (request(PTRACE_GET_SYSCALL_INFO, tid_, as_pointer(sizeof info), &info) < 0)
    throw_errno("cannot read the system call of {}", tid_.value);
  return info.op == PTRACE_SYSCALL_INFO_ENTRY;
}

void Tracee::resume_if_alive(int signal, Until until) {
  constexpr std::array kRequests = {PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_SYSCALL};
  request(kRequests[static_cast<size_t>(until)], tid_, nullptr,
          as_pointer(static_cast<uint64_t>(signal)));
  goes_on();
}

void Tracee::listen_if_alive() {
  request(PTRACE_LISTEN, tid_, nullptr, nullptr);
  goes_on();
}

bool Tracee::detach_if_alive(int signal) {
  if (request(PTRACE_DETACH, tid_, nullptr, as_pointer(static_cast<uint64_t>(signal))) != 0) {
    goes_on();
    return false;
  }
  tid_ = {};
  return true;
}

}  // namespace snapgdb
