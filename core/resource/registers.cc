#include <elf.h>
#include <errno.h>
#include <sys/syscall.h>

#include <array>

#include "core/base/error.h"
#include "core/image/general_registers.h"
#include "core/linux/signal_frame.h"
#include "core/resource/processor.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

std::string as_string(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What a system call does not touch stays unknown: of a task that was not stopped, /proc tells no
// more than this.
user_regs_struct registers_in(const CallInProgress& call) {
  user_regs_struct registers{};
  registers.rip = call.instruction_pointer;
  registers.rsp = call.stack_pointer;
  registers.orig_rax = call.number;
  registers.rax = static_cast<unsigned long long>(-ENOSYS);
  registers.rdi = call.arguments[0];
  registers.rsi = call.arguments[1];
  registers.rdx = call.arguments[2];
  registers.r10 = call.arguments[3];
  registers.r8 = call.arguments[4];
  registers.r9 = call.arguments[5];
  return registers;
}

void capture_registers(const Tracee& tracee, pb::Thread& thread) {
  const user_regs_struct registers = tracee.registers();
  if (registers.cs != kCodeSegment)
    throw Error(fmt::format("cannot capture task {}", tracee.tid().value),
                "it runs 32-bit code, which snapgdb does not carry");
  thread.set_registers(&registers, sizeof registers);
  thread.set_xstate(as_string(tracee.register_set(NT_X86_XSTATE)));
  if (const auto rseq = tracee.rseq()) {
    thread.set_rseq(rseq->address);
    thread.set_rseq_size(rseq->size);
    thread.set_rseq_signature(rseq->signature);
    thread.set_rseq_flags(rseq->flags);
  }
}

void capture(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const Tid tid = stopped.task.tid;
  if (const auto list = robust_list_of(tid)) {
    thread.set_robust_list(list->head);
    thread.set_robust_list_size(list->size);
  }
  if (const Tracee* tracee = context.tracee_of(stopped.task))
    return capture_registers(*tracee, thread);
  const user_regs_struct known = registers_in(*stopped.task.in_vfork);
  thread.set_registers(&known, sizeof known);
  context.lacks(
      stopped.process.pid, tid, "registers",
      "it waits in vfork(2), where it cannot be stopped: only pc, sp and the arguments of "
      "the call are known");
}

// ---- Restoring ----------------------------------------------------------------------------------

// The registers themselves come last of all: set_program_registers().
void restore(RestoreContext&, const pb::Process&, const pb::Thread& thread, Seed& seed) {
  if (thread.robust_list())
    seed.add("set the list of robust futexes", SYS_set_robust_list,
             {thread.robust_list(), thread.robust_list_size()});
  if (thread.rseq())
    seed.add("register for restartable sequences", SYS_rseq,
             {thread.rseq(), thread.rseq_size(), thread.rseq_flags(), thread.rseq_signature()});
  seed.perform();
  constexpr uint64_t kTiles = uint64_t{1} << 18;
  if (components_in_use(thread.xstate()) & kTiles) seed.touch_tiles();
}

// A call with a restart block begins anew, since the kernel keeps that block to itself. Sleeping
// has left the time that remained in memory, if the program asked for it.
user_regs_struct begun_anew(const Snapshot& snapshot, const pb::Process& process,
                            const pb::Thread& thread, const user_regs_struct& registers) {
  std::array<std::byte, kCodeBefore> code{};
  snapshot.read_memory(process, registers.rip - code.size(), code);
  auto anew = restarted_by_hand(registers, code, thread.wait_channel());
  if (!anew) {
    user_regs_struct interrupted = registers;
    interrupted.rax = static_cast<uint64_t>(-EINTR);
    return interrupted;
  }
  if (anew->rax == SYS_nanosleep && anew->rsi != 0) anew->rdi = anew->rsi;
  if (anew->rax == SYS_clock_nanosleep && anew->r10 != 0) anew->rdx = anew->r10;
  anew->orig_rax = ~uint64_t{0};
  return *anew;
}

}  // namespace

void set_program_registers(const Snapshot& snapshot, const pb::Process& process,
                           const pb::Thread& thread, Tracee& task) {
  user_regs_struct registers = general_registers(thread);
  if (waits_with_restart_block(registers))
    registers = begun_anew(snapshot, process, thread, registers);
  const std::string xstate = xstate_here(snapshot.record().host(), thread.xstate());
  task.set_register_set(NT_X86_XSTATE, std::as_bytes(std::span(xstate)));
  task.set_registers(registers);
  task.set_signal_mask(thread.signal_mask());
}

const ThreadRestorer kRegisterRestorer{"registers", restore};
const ThreadResource kRegisters{"registers", capture, Means::kPtrace};

}  // namespace snapgdb
