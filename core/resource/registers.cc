#include <elf.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr size_t kRegistersSize = sizeof(user_regs_struct);

std::string as_string(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void capture(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const Tracee& tracee = context.tracees.at(stopped.task.tid);
  const auto registers = tracee.register_set(NT_PRSTATUS);
  if (registers.size() != kRegistersSize)  // 17 * 4 bytes of a 32-bit task
    throw Error(fmt::format("cannot capture task {}", tracee.tid().value),
                "it runs 32-bit code, which snapgdb does not carry");
  thread.set_registers(as_string(registers));
  thread.set_xstate(as_string(tracee.register_set(NT_X86_XSTATE)));
  if (const auto list = robust_list_of(tracee.tid())) {
    thread.set_robust_list(list->head);
    thread.set_robust_list_size(list->size);
  }
  if (const auto rseq = tracee.rseq()) {
    thread.set_rseq(rseq->address);
    thread.set_rseq_size(rseq->size);
    thread.set_rseq_signature(rseq->signature);
    thread.set_rseq_flags(rseq->flags);
  }
}

}  // namespace

const ThreadResource kRegisters{"registers", capture, true};

}  // namespace snapgdb
