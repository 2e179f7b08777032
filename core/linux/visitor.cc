#include "core/linux/visitor.h"

#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "core/base/error.h"

namespace snapgdb {
Visitor::Visitor(Tracee& host, const Detour::Place& place) : detour_(host, place, kScratch) {}

uint64_t Visitor::reserve(size_t bytes) {
  const uint64_t address = detour_.scratch() + reserved_.size();
  reserved_.resize((reserved_.size() + bytes + 63) / 64 * 64);
  return address;
}

size_t Visitor::room() const {
  const size_t used = reserved_.size() + (chain_ ? chain_->bytes().size() : FrameChain::kFrameSize);
  return (kScratch - used) / FrameChain::kFrameSize - 1;
}

void Visitor::call(long number, const SystemCallArguments& arguments) {
  if (!chain_) {
    chain_.emplace(detour_.gadgets(), detour_.scratch() + reserved_.size());
    chain_->call(kCloseRange, {0, ~0u, 0});
  }
  chain_->call(number, arguments);
}

void Visitor::run(const AtEnd& at_end) {
  chain_->call(SYS_exit);
  detour_.write(detour_.scratch(), reserved_);
  detour_.write(chain_->begin(), chain_->bytes());
  Tracee thread = detour_.clone(kVisitorThread, chain_->begin());
  thread.set_options(PTRACE_O_TRACEEXIT);
  thread.resume_if_alive(0);
  const bool ended = thread.wait_stop(kDetourPatience);
  if (ended && at_end) at_end(thread.tid());
  thread.resume_if_alive(0);
  if (ended) thread.wait_stop(kDetourPatience);
  chain_.reset();
  if (!ended)
    throw Error(fmt::format("cannot look into process of task {}", detour_.task().tid().value),
                "the thread sent there did not come to its end");
}

}  // namespace snapgdb
