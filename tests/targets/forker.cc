// Processes and threads that come and go all the time, so that a capture meets some that are just
// being born or dying. Every child must be reaped with the status it exited with, and no other.
// At the end it says "forked N started N".

#include <errno.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

namespace {

std::atomic<bool> ending{false};
std::atomic<unsigned> forked{0};
std::atomic<unsigned> started{0};

// A child that forks a grandchild now and then, and exits with a status of its own.
[[noreturn]] void live_shortly(unsigned number) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (number % 4 == 0) {
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(3);
    int status = 0;
    if (waitpid(grandchild, &status, 0) != grandchild || status != 3 << 8) _exit(255);
  }
  if (number % 8 == 1) usleep(1000);
  _exit(static_cast<int>(number % 200));
}

void fork_all_the_time() {
  while (!ending) {
    const unsigned number = forked++;
    const pid_t child = target::setup("fork", fork());
    if (child == 0) live_shortly(number);
    int status = 0;
    target::expect_equal("waitpid", target::expect_call("waitpid", waitpid(child, &status, 0)),
                         child);
    target::expect_equal("a child's status", status, number % 200 << 8);
  }
}

void start_threads_all_the_time() {
  while (!ending) {
    pthread_t thread;
    void* result = nullptr;
    void* const argument = reinterpret_cast<void*>(static_cast<uintptr_t>(started++));
    errno = pthread_create(
        &thread, nullptr, [](void* a) { return a; }, argument);
    if (errno) target::cannot("pthread_create");
    pthread_join(thread, &result);
    if (result != argument) target::differs("a thread gave a wrong result");
  }
}

}  // namespace

int main() {
  target::prepare_end();
  target::Thread forking("forking", fork_all_the_time);
  target::Thread starting("starting", start_threads_all_the_time);
  target::ready();
  target::wait_for_end();
  ending = true;
  forking.join();
  starting.join();
  target::expect_no_children();
  target::say("forked %u started %u", forked.load(), started.load());
  return target::verdict();
}
