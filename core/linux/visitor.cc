#include "core/linux/visitor.h"

#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/errand.h"

namespace snapgdb {
uint64_t Visitor::reserve(size_t bytes) {
  const uint64_t address = detour_.scratch() + reserved_.size();
  reserved_.resize((reserved_.size() + bytes + 63) / 64 * 64);
  return address;
}

void Visitor::run(const AtEnd& at_end) {
  detour_.write(detour_.scratch(), reserved_);
  FrameChain chain(detour_.gadgets(), detour_.scratch() + reserved_.size());
  chain.call(kCloseRange, {0, ~0u, 0});
  for (const SystemCall& call : calls_) chain.call(call.number, call.arguments);
  chain.call(SYS_exit);
  detour_.write(chain.begin(), chain.bytes());
  Errand errand(detour_);
  Tracee& thread = errand.add(detour_.clone(kVisitorThread, chain.begin()));
  thread.set_options(PTRACE_O_TRACEEXIT);
  do {
    thread.resume_if_alive(0);
  } while (thread.wait_stop(kDetourPatience) && thread.status().event() != PTRACE_EVENT_EXIT);
  const bool ends = thread.is_stopped();
  if (ends) at_end(thread.tid());
  if (!errand.see_to_end() || !ends)
    throw Error(fmt::format("cannot look into process of task {}", detour_.task().tid().value),
                "the thread sent there did not come to its end");
}

}  // namespace snapgdb
