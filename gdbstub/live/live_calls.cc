#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <array>
#include <chrono>

#include "core/base/error.h"
#include "core/linux/gadgets.h"
#include "gdbstub/live/live_target.h"

// System calls that a task of the tree performs for the debugger.
namespace snapgdb::gdbstub {
namespace {

constexpr std::chrono::milliseconds kPatience{10'000};

// In these stops nothing of the kernel's own depends on the registers.
bool may_leave(const Tracee& task) {
  if (!task.is_stopped() || task.status().job_control_stop()) return false;
  const auto report = task.status().report();
  return report == WaitStatus::Report::kSignal || report == WaitStatus::Report::kStop;
}

// A filter may kill for a call of ours.
bool is_filtered(Pid real) {
  return ProcFields(ProcDirectory::of(real).read("status")).number("Seccomp") != 0;
}

// A task's state while it does something for us. A signal that is being delivered is so afterwards.
class Excursion {
 public:
  explicit Excursion(Tracee& task)
      : task_(task), registers_(task.registers()), mask_(task.signal_mask()), stop_(task.status()) {
    if (task.signal_on_its_way()) siginfo_ = task.siginfo();
    // A trap that is blocked would change what the program does on traps.
    task.set_signal_mask(~(uint64_t{1} << (SIGTRAP - 1)));
  }
  Excursion(const Excursion&) = delete;
  Excursion& operator=(const Excursion&) = delete;
  ~Excursion() {
    if (!task_.is_stopped()) return;
    try {
      task_.set_registers(registers_);
      task_.set_signal_mask(mask_);
      if (siginfo_) task_.set_siginfo(*siginfo_);
      task_.set_status(stop_);
    } catch (const SystemError&) {  // killed meanwhile: we hear of that next
    }
  }
  const user_regs_struct& registers() const { return registers_; }

 private:
  Tracee& task_;
  user_regs_struct registers_;
  uint64_t mask_;
  WaitStatus stop_;
  std::optional<siginfo_t> siginfo_;
};

}  // namespace

// One step over an instruction that the program has. nullopt: none of its threads can now.
std::optional<int64_t> LiveTarget::call(Pid pid, uint64_t number,
                                        const std::array<uint64_t, 6>& arguments) {
  const Process* owner = find(pid);
  if (!owner || is_filtered(owner->real)) return std::nullopt;
  for (Thread* thread : threads_of(pid)) {
    Tracee& task = thread->task;
    if (!may_leave(task)) continue;
    const auto mappings = parse_mappings(ProcDirectory::of(Pid{task.tid().value}).read("maps"));
    const auto gadgets = GadgetFinder().find(task.tid(), mappings);
    if (!gadgets) return std::nullopt;
    const Excursion excursion(task);
    user_regs_struct registers = excursion.registers();
    registers.rip = gadgets->syscall_return;
    registers.rax = number;
    registers.orig_rax = ~uint64_t{0};  // no system call is to begin anew
    const std::array places = {&user_regs_struct::rdi, &user_regs_struct::rsi,
                               &user_regs_struct::rdx, &user_regs_struct::r10,
                               &user_regs_struct::r8,  &user_regs_struct::r9};
    for (size_t i = 0; i < places.size(); ++i) registers.*places[i] = arguments[i];
    task.set_registers(registers);
    task.resume_if_alive(0, Tracee::Until::kNextInstruction);
    await(*thread, kPatience);
    if (!task.is_stopped()) return std::nullopt;
    const user_regs_struct after = task.registers();
    if (after.rip == registers.rip) return std::nullopt;
    return static_cast<int64_t>(after.rax);
  }
  return std::nullopt;
}

bool LiveTarget::allocate(Pid pid, const Mapping& mapping) {
  const auto result = call(pid, SYS_mmap,
                           {mapping.start, mapping.end - mapping.start, mapping.protection,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0});
  return result && static_cast<uint64_t>(*result) == mapping.start;
}

bool LiveTarget::release(Pid pid, const Mapping& mapping) {
  const auto result = call(pid, SYS_munmap, {mapping.start, mapping.end - mapping.start});
  return result && *result == 0;
}

}  // namespace snapgdb::gdbstub
