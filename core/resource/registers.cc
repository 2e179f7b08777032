#include <elf.h>
#include <errno.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr size_t kRegistersSize = sizeof(user_regs_struct);

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
  const auto registers = tracee.register_set(NT_PRSTATUS);
  if (registers.size() != kRegistersSize)  // 17 * 4 bytes of a 32-bit task
    throw Error(fmt::format("cannot capture task {}", tracee.tid().value),
                "it runs 32-bit code, which snapgdb does not carry");
  thread.set_registers(as_string(registers));
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

}  // namespace

const ThreadResource kRegisters{"registers", capture, true};

}  // namespace snapgdb
