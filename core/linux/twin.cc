#include "core/linux/twin.h"

#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/base/error.h"
#include "core/linux/errand.h"
#include "core/linux/visitor.h"

namespace snapgdb {

// The twin's parent has to vanish without a zombie that the program would have to wait for. So
// there are three: a thread of the program clones a go-between that shares its memory, and waits
// for it and only for it; the go-between clones the twin and exits. Each works off its own chain of
// frames and ends by itself, whoever watches.
Tracee Twin::make(Tracee& host, const Detour::Place& place) {
  Detour detour(host, place, kScratch);
  FrameChain of_twin(detour.gadgets(), detour.scratch());
  of_twin.call(SYS_exit_group);

  FrameChain of_go_between(detour.gadgets(), of_twin.end());
  of_go_between.call(SYS_clone, {0, of_twin.begin()});
  of_go_between.call(SYS_exit_group);

  FrameChain of_thread(detour.gadgets(), of_go_between.end());
  of_thread.call(kCloseRange, {0, ~0u, 0});
  of_thread.call(SYS_clone, {CLONE_VM | CLONE_FILES | CLONE_FS, of_go_between.begin()});
  of_thread.call(SYS_wait4, {~uint64_t{0}, 0, __WALL | __WNOTHREAD, 0});
  of_thread.call(SYS_exit);
  for (const FrameChain* chain : {&of_twin, &of_go_between, &of_thread})
    detour.write(chain->begin(), chain->bytes());

  Errand errand(detour);
  Tracee& thread = errand.add(detour.clone(kVisitorThread, of_thread.begin()));
  thread.resume_if_alive(0);
  Tracee& go_between = errand.add(take_over_clone(thread));
  go_between.resume_if_alive(0);
  Tracee twin = take_over_clone(go_between);
  twin.set_options(PTRACE_O_EXITKILL);
  thread.resume_if_alive(0);
  const bool is_over = errand.see_to_end();
  detour.go_home();
  if (!is_over)
    throw Error(fmt::format("cannot copy the memory of task {}", host.tid().value),
                "the thread that cloned it did not come to its end");
  return twin;
}

Twin::Twin(Tracee& host, const Detour::Place& place) : process_(make(host, place)) {}

Twin::~Twin() {
  if (process_.tid().value == 0) return;
  ::kill(process_.tid().value, SIGKILL);
  process_.set_status({});
  process_.wait_stop(kDetourPatience);
}

}  // namespace snapgdb
