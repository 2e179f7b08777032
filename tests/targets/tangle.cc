// Thirty processes in four sessions that share memory, a file and pipes crosswise, and are busy: a
// token goes round and grows by one at each of them, who counts, in memory of its own, in memory
// that all share, and in a removed file that all have open. What they counted has to agree in the
// end.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

constexpr int kRing = 29, kHeads = 4;
constexpr uint64_t kStop = UINT64_MAX;

struct Shared {
  std::atomic<uint64_t> counts[kRing];
  std::atomic<uint64_t> last_token;
  std::atomic<int> ready;
  std::atomic<bool> stop;
  pid_t sessions[kRing];
};

Shared* shared;
int pipes[kRing][2];
int file;

void pass_on(int index, uint64_t token) {
  target::expect_call("write", write(pipes[(index + 1) % kRing][1], &token, sizeof token));
}

uint64_t count_in_file(int index) {
  uint64_t count = 0;
  target::expect_call("pread", pread(file, &count, sizeof count, index * 4096));
  return count;
}

// The first one turns the token into the end of it all.
[[noreturn]] void take_part(int index) {
  shared->sessions[index] = getsid(0);
  ++shared->ready;
  for (uint64_t token, own = 0;; pass_on(index, token)) {
    if (read(pipes[index][0], &token, sizeof token) != sizeof token) target::cannot("read");
    if (token == kStop || (index == 0 && shared->stop)) {
      if (token != kStop) shared->last_token = token;
      expect_equal("the count that all share", shared->counts[index], own);
      expect_equal("the count in the file", count_in_file(index), own);
      expect_equal("the session", getsid(0), shared->sessions[index]);
      if (index + 1 < kRing) pass_on(index, kStop);
      while (wait(nullptr) > 0) {
      }
      _exit(target::verdict());
    }
    ++token, ++own;
    ++shared->counts[index];
    target::expect_call("pwrite", pwrite(file, &own, sizeof own, index * 4096));
    usleep(20);
  }
}

pid_t fork_with_parent() {
  const pid_t child = setup("fork", fork());
  if (child == 0) setup("PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL));
  return child;
}

// Heads are 0 to 3; whoever has a number that leaves the same remainder is its child.
pid_t start_head(int head) {
  const pid_t pid = fork_with_parent();
  if (pid) return pid;
  if (head > 0) setup("setsid", setsid());
  for (int index = head + kHeads; index < kRing; index += kHeads)
    if (fork_with_parent() == 0) take_part(index);
  take_part(head);
}

}  // namespace

int main() {
  target::prepare_end();
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  shared = static_cast<Shared*>(memory);
  for (auto& ends : pipes) setup("pipe", pipe(ends));
  target::ScratchDirectory scratch;
  file = setup("open", open(scratch.path("counts").c_str(), O_RDWR | O_CREAT, 0600));
  setup("unlink", unlink(scratch.path("counts").c_str()));
  setup("ftruncate", ftruncate(file, kRing * 4096));
  pid_t heads[kHeads];
  for (int head = 0; head < kHeads; ++head) heads[head] = start_head(head);
  while (shared->ready < kRing) target::sleep_ms(1);
  pass_on(kRing - 1, 0);
  target::ready();
  target::wait_for_end();

  shared->stop = true;
  for (const pid_t head : heads) target::expect_success_of(head);
  uint64_t sum = 0;
  for (const auto& count : shared->counts) sum += count;
  expect_equal("the sum of all counts", sum, shared->last_token);
  target::expect_no_children();
  return target::verdict();
}
