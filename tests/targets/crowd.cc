// --processes N (50) of --threads M (4), all asleep but for one that reads the clock. As with busy,
// each line on standard input is answered by "gap_ns N", the longest gap it saw since the last one.

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "target.h"

namespace {

std::atomic<bool> ending{false};
std::atomic<uint64_t> longest_gap{0};

void watch_the_clock() {
  for (uint64_t last = target::now_ns(); !ending;) {
    const uint64_t now = target::now_ns();
    if (now - last > longest_gap) longest_gap = now - last;
    last = now;
  }
}

// Ends by SIGTERM, which its main thread takes, or with its parent. Standard input is the parent's.
[[noreturn]] void be_one_of_many(long threads) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  std::vector<target::Thread> others;
  for (long i = 1; i < threads; ++i)
    others.emplace_back("sleeper", [] {
      while (!ending) target::sleep_ms(1000);
    });
  sigset_t end;
  sigemptyset(&end);
  sigaddset(&end, SIGTERM);
  int taken = 0;
  sigwait(&end, &taken);
  _exit(target::verdict());
}

}  // namespace

int main(int argc, char** argv) {
  const long processes = atol(target::option(argc, argv, "--processes", "50"));
  const long threads = atol(target::option(argc, argv, "--threads", "4"));
  target::prepare_end();
  std::vector<pid_t> children;
  for (long i = 1; i < processes; ++i) {
    children.push_back(static_cast<pid_t>(target::setup("fork", fork())));
    if (children.back() == 0) be_one_of_many(threads);
  }
  std::vector<target::Thread> others;
  for (long i = 2; i < threads; ++i)
    others.emplace_back("sleeper", [] {
      while (!ending) target::sleep_ms(10);
    });
  target::Thread watcher("watcher", watch_the_clock);
  target::ready();
  char byte;
  while (read(STDIN_FILENO, &byte, 1) == 1)
    if (byte == '\n') target::say("gap_ns %lu", longest_gap.exchange(0));

  ending = true;
  watcher.join();
  for (target::Thread& thread : others) thread.join();
  for (const pid_t child : children) kill(child, SIGTERM);
  for (const pid_t child : children) target::expect_success_of(child);
  return target::verdict();
}
