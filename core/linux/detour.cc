#include "core/linux/detour.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>

#include "core/base/error.h"
#include "core/base/system_call_name.h"
#include "core/linux/remote_memory.h"

namespace snapgdb {
namespace {

constexpr uint64_t kRedZone = 128;             // System V ABI, 3.2.2
constexpr uint64_t kMinimalStack = 64 * 1024;  // what is smaller is no ordinary stack
constexpr uint64_t kAllBlocked = ~uint64_t{0};
constexpr uint64_t kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;  // for calls, one by one

template <typename T>
bool read_from(Tid tid, uint64_t address, T& out) {
  return read_remote(tid, address, std::as_writable_bytes(std::span(&out, 1))) == sizeof out;
}

std::optional<user_regs_struct> begun_anew(const Tracee& task, const user_regs_struct& registers) {
  std::array<std::byte, kCodeBefore> code{};
  if (registers.orig_rax == SYS_restart_syscall)               // otherwise nobody asks for it
    read_from(task.tid(), registers.rip - code.size(), code);  // unreadable: no known code
  return restarted_by_hand(registers, code, task.wait_channel());
}

// rseq(2): a critical section that was interrupted has to go on at its abort handler. The kernel
// looks for that when it returns to user space, and would find the program elsewhere then.
std::optional<uint64_t> rseq_abort(const Tracee& task, const user_regs_struct& registers) {
  const auto rseq = task.rseq();
  if (!rseq || rseq->address == 0) return std::nullopt;
  constexpr uint64_t kSectionAt = 8;  // struct rseq: rseq_cs
  struct {
    uint32_t version, flags;
    uint64_t start, length, abort;
  } section{};
  uint64_t address = 0;
  if (!read_from(task.tid(), rseq->address + kSectionAt, address) || address == 0 ||
      !read_from(task.tid(), address, section) || registers.rip - section.start >= section.length)
    return std::nullopt;
  return section.abort;
}

uint64_t bits(std::initializer_list<int> signals) {
  uint64_t mask = 0;
  for (const int signal : signals) mask |= uint64_t{1} << (signal - 1);
  return mask;
}

uint64_t pending_signals(const Tracee& task) {
  uint64_t mask = 0;
  for (const bool of_process : {false, true})
    for (const siginfo_t& info : task.pending(of_process)) mask |= bits({info.si_signo});
  return mask;
}

bool has_unblocked(const std::vector<siginfo_t>& queue, uint64_t mask) {
  return std::ranges::any_of(
      queue, [mask](const siginfo_t& info) { return !(mask >> (info.si_signo - 1) & 1); });
}

// At this moment: the program says in its memory whether it does.
bool catches_system_calls(const Tracee& task) {
  const auto dispatch = dispatch_of(task);
  constexpr char kAllow = 0;  // SYSCALL_DISPATCH_FILTER_ALLOW
  char selector = kAllow + 1;
  if (dispatch && dispatch->selector) read_from(task.tid(), dispatch->selector, selector);
  return dispatch && selector != kAllow;
}

// By cgroup.freeze: it can be stopped, but sleeps again before it runs, in a function that is part
// of get_signal() (kernel/signal.c) on most kernels.
bool is_frozen(const Tracee& task) {
  const std::string& channel = task.wait_channel();
  return !task.status().job_control_stop() &&
         (channel == "get_signal" || channel == "do_freezer_trap");
}

// Whether the signal that it is being given can be held back, and would come first again.
bool can_be_queued_again(const Tracee& task) {
  if (task.status().signal() == SIGSTOP) return false;
  const uint64_t mask = task.signal_mask();
  const bool is_blocked = mask >> (task.status().signal() - 1) & 1;
  return !is_blocked && !has_unblocked(task.pending(false), mask) &&
         !has_unblocked(task.pending(true), mask);
}

}  // namespace

std::optional<FreeStack> free_stack(const std::vector<ProcMapping>& mappings,
                                    uint64_t stack_pointer) {
  const auto at = std::ranges::find_if(mappings, [&](const ProcMapping& mapping) {
    return mapping.start <= stack_pointer && stack_pointer < mapping.end;
  });
  constexpr uint32_t kWanted = PROT_READ | PROT_WRITE;
  if (at == mappings.end() || at->shared || at->inode != 0 ||
      (at->protection & kWanted) != kWanted || at->end - at->start < kMinimalStack)
    return std::nullopt;
  const bool guarded =
      at != mappings.begin() && (at - 1)->end == at->start && (at - 1)->protection == 0;
  if (at->name != "[stack]" && !guarded) return std::nullopt;
  const uint64_t low = at->start + 4096, high = stack_pointer - kRedZone;
  return high > low ? std::optional(FreeStack{low, high}) : std::nullopt;
}

uint64_t ignored_signals(const ProcFields& status) {
  const uint64_t by_default = bits({SIGCHLD, SIGURG, SIGWINCH});
  // Sending these stops or continues processes.
  const uint64_t job_control = bits({SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGKILL});
  return (status.number("SigIgn", 16) | by_default) & ~status.number("SigCgt", 16) & ~job_control;
}

uint64_t pending_signals(const ProcFields& status) {
  return status.number("SigPnd", 16) | status.number("ShdPnd", 16);
}

std::optional<std::string> Detour::obstacle(const Tracee& task) {
  const WaitStatus stop = task.status();
  if (!stop.stopped()) return "it is not stopped";
  if (stop.signal_delivery() && !can_be_queued_again(task))
    return "it is being given a signal while others are pending";
  if (!stop.signal_delivery() && stop.event() != PTRACE_EVENT_STOP)
    return "it is in the middle of something";
  if (is_frozen(task)) return "its cgroup is frozen (cgroup.freeze): thaw it for a whole image";
  const user_regs_struct registers = task.registers();
  if (registers.cs != kCodeSegment) return "it runs 32-bit code";
  if (catches_system_calls(task))
    return "it catches its own system calls (PR_SET_SYSCALL_USER_DISPATCH)";
  if (!begun_anew(task, registers))
    return "it waits in a system call that would end early if snapgdb were killed";
  return std::nullopt;
}

Detour::Detour(Tracee& task, const Place& place, size_t scratch)
    : task_(task),
      place_(place),
      status_(task.status()),
      options_(task.options()),
      registers_(task.registers()),
      mask_(task.signal_mask()) {
  if (const auto abort = rseq_abort(task, registers_)) registers_.rip = *abort;
  scratch_ = (place.high - kHomeSize - scratch) & ~uint64_t{63};
  home_ = (scratch_ + scratch + sizeof(siginfo_t) + 63) & ~uint64_t{63};
  FrameChain chain(place_.gadgets, home_);
  const auto anew = begun_anew(task, registers_);
  chain.home(anew.value_or(registers_), task.register_set(NT_X86_XSTATE), mask_);
  known_ = task.known();
  known_.registers = registers_;
  if (task.status().signal_delivery()) signal_ = task.siginfo();
  here_.resize(chain.end() - scratch_);
  look();
  memory_ = here_;
  write(home_, chain.bytes());
  if (signal_) keep_signal();
}

void Detour::keep_signal() {
  try {
    queue_signal_again();
  } catch (const Error&) {
    const int signal = std::exchange(signal_, {})->si_signo;
    if (!away_) throw;
    go_home();
    ::syscall(SYS_tkill, task_.tid().value, signal);  // without what came with it
    throw;
  }
}

// Going on from the delivery of a signal loses it. So the task sends it to itself, with everything
// that came with it, before anything else; it stays pending until we are home.
void Detour::queue_signal_again() {
  // Once one of them is made, the signal is nowhere but here.
  for (const long number : {SYS_getpid, SYS_gettid, SYS_rt_tgsigqueueinfo})
    expect_let_pass({number, {0, 0, static_cast<uint64_t>(signal_->si_signo)}});
  const int64_t process = call(SYS_getpid), thread = call(SYS_gettid);
  const uint64_t address = home_ - sizeof(siginfo_t);
  write(address, std::as_bytes(std::span(&*signal_, 1)));
  const int64_t result =
      call(SYS_rt_tgsigqueueinfo, {static_cast<uint64_t>(process), static_cast<uint64_t>(thread),
                                   static_cast<uint64_t>(signal_->si_signo), address});
  if (result != 0) fail("keep a signal", errno_text(static_cast<int>(-result)));
}

Detour::~Detour() {
  try {
    go_home();
  } catch (const Error&) {
    // The task was killed meanwhile; or the kernel refuses what it allowed before, and then the
    // signal frame brings it home as soon as it is let go.
  }
}

// All of it at once: a call for each piece would take as long as the copying of a page.
void Detour::look() {
  if (std::exchange(is_known_, true)) return;
  if (read_remote(task_.tid(), scratch_, here_) != here_.size())
    throw_errno("cannot read memory of {}", task_.tid().value);
}

void Detour::read(uint64_t address, std::span<std::byte> out) {
  look();
  std::memcpy(out.data(), &here_.at(address - scratch_), out.size());
}

void Detour::write(uint64_t address, std::span<const std::byte> bytes) {
  look();
  std::memcpy(&here_.at(address - scratch_), bytes.data(), bytes.size());
  written_ = {std::min(written_.low, address), std::max(written_.high, address + bytes.size())};
}

void Detour::write_to_task() {
  if (written_.high > written_.low)
    write_remote(task_.tid(), written_.low,
                 std::span(here_).subspan(written_.low - scratch_, written_.high - written_.low));
  written_ = {};
  is_known_ = false;
}

// The order matters in case we are killed here: registers that lead home first, then the mask that
// the frame puts right again.
void Detour::leave_with(const user_regs_struct& registers, uint64_t mask) {
  write_to_task();
  task_.set_registers(registers);
  if (!std::exchange(away_, true)) task_.set_signal_mask(mask);
}

void Detour::leave_for(long number, const SystemCallArguments& arguments) {
  leave_with(FrameChain::registers_for(place_.gadgets, registers_, number, arguments, home_),
             kAllBlocked);
  if ((task_.options() & kOptions) != kOptions) task_.set_options(task_.options() | kOptions);
}

void Detour::fail(const char* doing, std::string why) const {
  throw Error(fmt::format("cannot make task {} {}", task_.tid().value, doing), std::move(why));
}

void Detour::expect_stop(const char* doing) {
  if (!task_.wait_stop(kDetourPatience))
    fail(doing, task_.status().gone() ? "it is gone" : "it does not come back");
}

// Stops on the way that are not what was waited for: SIGSTOP, the only signal that cannot be
// blocked, or what a group stop does. It will be stopped by them once it is home.
bool Detour::is_noise() {
  const WaitStatus status = task_.status();
  const bool is_stop = status.signal_delivery() && status.signal() == SIGSTOP;
  if (is_stop) came_ |= bits({SIGSTOP});
  return is_stop || status.event() == PTRACE_EVENT_STOP;
}

// Goes on to the next entry into a system call or exit from one.
void Detour::advance() {
  for (int tries = 0; tries < 100; ++tries) {
    task_.resume_if_alive(0, Tracee::Until::kNextSystemCall);
    expect_stop("perform a system call");
    if (!is_noise()) return;
  }
}

bool Detour::is_let_pass(const SystemCall& call) const {
  if (place_.filters.empty()) return true;
  const auto passes = [&](const SystemCall& tried, uint64_t code, uint64_t size) {
    return let_pass(place_.filters, tried, code + size);
  };
  constexpr uint64_t kSyscall = 2, kShortest = 7, kLongest = 9;  // bytes: forms of Gadgets
  const SystemCall home{.number = SYS_rt_sigreturn};
  const Gadgets& code = place_.gadgets;
  if (!passes(call, code.syscall_return, kSyscall)) return false;
  if (!code.sigreturn) return passes(home, code.syscall_return, kSyscall);
  return passes(home, code.sigreturn, kShortest) && passes(home, code.sigreturn, kLongest);
}

void Detour::expect_let_pass(const SystemCall& call) const {
  if (!is_let_pass(call))
    fail("perform system calls",
         "its seccomp filter might forbid " + system_call_name(static_cast<uint64_t>(call.number)));
}

int64_t Detour::call(long number, const SystemCallArguments& arguments) {
  expect_let_pass({number, arguments});
  leave_for(number, arguments);
  for (int stops = 0; stops < 2; ++stops) {  // entry and exit
    advance();
    if (!task_.status().system_call()) fail("perform a system call", "something came between");
  }
  return static_cast<int64_t>(task_.registers().rax);
}

std::vector<int32_t> Detour::perform(std::span<const SystemCall> calls) {
  begin(calls);
  return finish();
}

// A go for all calls of the same fourth argument, which no code on the way sets. Calls that have
// none want a 0 there: some of prctl(2) fail otherwise.
void Detour::begin(std::span<const SystemCall> calls) {
  for (const SystemCall& call : calls) expect_let_pass(call);  // all, or none is tried
  calls_.assign(calls.begin(), calls.end());
  results_.assign(calls_.size(), 0);
  goes_.clear();
  end_signal_ = end_signal();
  if (end_signal_ == 0) return;
  std::map<uint64_t, std::vector<size_t>> goes;
  for (size_t i = 0; i < calls_.size(); ++i) goes[calls_[i].arguments[3]].push_back(i);
  for (auto& [fourth, go] : goes) goes_.push_back(std::move(go));
  begin_go();
}

bool Detour::proceed() {
  if (is_going_ && !task_.poll_stop()) return task_.status().gone();
  if (goes_.size() < 2) return true;
  end_go();
  begin_go();
  return false;
}

std::vector<int32_t> Detour::finish() {
  while (!goes_.empty()) {
    if (!is_going_) begin_go();
    end_go();
  }
  for (size_t i = 0; end_signal_ == 0 && i < calls_.size(); ++i)
    results_[i] = static_cast<int32_t>(call(calls_[i].number, calls_[i].arguments));
  return std::move(results_);
}

// The signal that the task sends itself at the end of its way. A task that is traced stops for any
// signal that it has not blocked; without us it would be ignored. 0: there is none.
int Detour::end_signal() const {
  if (status_.event() != PTRACE_EVENT_STOP || !place_.gadgets.can_chain() ||
      !place_.filters.empty())
    return 0;
  uint64_t possible = place_.ignored & ~mask_;
  // One that is blocked may be waited for: it must not be pending, nor be one that is often sent.
  if (!possible)
    possible = place_.ignored & ~bits({SIGCHLD}) &
               ~(place_.pending ? *place_.pending : pending_signals(task_));
  return possible ? 64 - std::countl_zero(possible) : 0;
}

// Addresses of code that ends with `ret`, and what that code pops. It leads through the calls, then
// the task asks who it is, in its own pid namespace, writes that into what comes next, sends itself
// the signal, and would go on to the frame at home_.
std::vector<uint64_t> Detour::way_through(std::span<const size_t> go) const {
  const Gadgets& code = place_.gadgets;
  std::vector<uint64_t> way;
  const auto set_rdx = [&](uint64_t value) {
    if (code.pop_rdx)
      way.insert(way.end(), {code.pop_rdx, value});
    else
      way.insert(way.end(), {code.pop_rdx_rbx, value, 0});
  };
  const auto perform = [&](long number, const SystemCallArguments& a) {
    way.insert(way.end(), {code.pop_rax, static_cast<uint64_t>(number), code.pop_rdi, a[0],
                           code.pop_rsi, a[1]});
    set_rdx(a[2]);
    way.push_back(code.syscall_return);
  };
  const auto store_at = [&](uint64_t address) {
    set_rdx(address);
    way.push_back(code.store_eax_at_rdx);
  };
  for (const size_t i : go) {
    perform(calls_[i].number, calls_[i].arguments);
    store_at(results_at() + i * sizeof(int32_t));
  }
  // Counted from home_, where the way ends: the last call's first two arguments.
  const uint64_t last_words = code.pop_rdx ? 3 : 4, thread = (last_words + 1) * sizeof(uint64_t),
                 process = (last_words + 3) * sizeof(uint64_t);
  perform(SYS_getpid, {});
  store_at(home_ - process);
  perform(SYS_gettid, {});
  store_at(home_ - thread);
  perform(SYS_tgkill, {0, 0, static_cast<uint64_t>(end_signal_)});
  return way;
}

uint64_t Detour::results_at() const {
  return (home_ - room_for(calls_.size())) & ~uint64_t{3};
}

void Detour::begin_go() {
  const std::vector<size_t>& go = goes_.back();
  const auto way = way_through(go);
  const uint64_t way_at = home_ - way.size() * sizeof(uint64_t);
  write(way_at, std::as_bytes(std::span(way)));
  SystemCallArguments fixed{};  // what no code on the way sets, and system calls leave as it is
  fixed[3] = calls_[go.front()].arguments[3];
  auto registers = FrameChain::registers_for(place_.gadgets, registers_, 0, fixed, way_at);
  constexpr uint64_t kSyscallSize = 2;
  registers.rip += kSyscallSize;  // to the `ret`
  const uint64_t mask = kAllBlocked & ~bits({end_signal_});
  // Killed between the registers and the mask, we would leave it on its way with its own mask: one
  // that blocks the signal would keep that. So it is on a way without it until it has the other.
  if (!away_ && (mask_ & bits({end_signal_})))
    leave_with(FrameChain::registers_for(place_.gadgets, registers_, SYS_getpid, {}, home_), mask);
  leave_with(registers, mask);
  task_.resume_if_alive(0);
  is_going_ = true;
}

void Detour::end_go() {
  wait_for_end();
  std::vector<int32_t> results(calls_.size());
  read(results_at(), std::as_writable_bytes(std::span(results)));
  for (const size_t i : goes_.back()) results_[i] = results[i];
  goes_.pop_back();
}

void Detour::wait_for_end() {
  while (true) {
    is_going_ = false;
    expect_stop("perform system calls");
    const bool is_that_signal =
        task_.status().signal_delivery() && task_.status().signal() == end_signal_;
    if (is_that_signal && task_.registers().rsp == home_) return;
    // The same signal, sent by somebody else, comes earlier: it will be sent again.
    if (is_that_signal)
      came_ |= bits({end_signal_});
    else if (!is_noise())
      fail("perform system calls", fmt::format("signal {} came between", task_.status().signal()));
    task_.resume_if_alive(0);
    is_going_ = true;
  }
}

Tracee Detour::clone(uint64_t flags, uint64_t stack) {
  leave_for(SYS_clone, {flags, stack});
  advance();
  if (task_.status().system_call()) advance();
  if (task_.status().system_call())
    throw SystemError(fmt::format("cannot make task {} clone itself", task_.tid().value),
                      -static_cast<int>(task_.registers().rax));
  return take_over_clone(task_);
}

void Detour::go_home() {
  if (std::exchange(is_going_, false)) expect_stop("return");
  if (std::exchange(away_, false)) {
    // A stop on the way into the program is where an interrupted system call is restarted from, as
    // it was where we began. A task that a signal stopped is in such a place already.
    if (task_.status().event() != PTRACE_EVENT_STOP && !task_.status().signal_delivery()) {
      task_.interrupt_if_alive();
      task_.resume_if_alive(0);
      expect_stop("return");
    }
    if (task_.options() != options_) task_.set_options(options_);
    task_.set_signal_mask(mask_);
    task_.set_registers(registers_);
    // The signal at the end of a way was none of the program's.
    if (!signal_ && task_.status().signal_delivery()) task_.set_status(status_);
    task_.set_known(known_);
    send_again(std::exchange(came_, 0));
  }
  if (!memory_.empty()) write_remote(task_.tid(), scratch_, std::exchange(memory_, {}));
  if (std::exchange(signal_, {})) {
    task_.resume_if_alive(0);
    expect_stop("be given its signal again");
  }
}

void Detour::send_again(uint64_t signals) const {
  if (signals == 0) return;
  const auto proc = ProcDirectory::of_if_alive(Pid{task_.tid().value});
  const ProcFields status(proc ? proc->read_if_allowed("status").value_or("") : "");
  const auto process = static_cast<pid_t>(status.number("Tgid"));
  for (int signal = 1; signal <= 64 && process > 0; ++signal)
    if (signals & bits({signal})) ::kill(process, signal);
}

Tracee take_over_clone(Tracee& parent) {
  const auto fails = [&](std::string why) {
    throw Error(fmt::format("cannot clone task {}", parent.tid().value), std::move(why));
  };
  if (!parent.wait_stop(kDetourPatience))
    fails(parent.status().gone()
              ? "it has ended: the kernel refuses another process, or its memory "
                "(vm.overcommit_memory), or it was killed"
              : "it does not come back");
  if (parent.status().event() != PTRACE_EVENT_CLONE)
    fails("the kernel refuses it: a limit on processes or on memory");
  Tracee child = Tracee::adopt(Tid{static_cast<pid_t>(parent.event_message())}, parent.options());
  if (!child.wait_stop(kDetourPatience)) fails("the new task is gone");
  return child;
}

}  // namespace snapgdb
