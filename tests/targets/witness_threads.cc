#include "witness_threads.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "libwitness.h"
#include "registers.h"

// At global scope and with the word "marked" in their names for the debugger's sake: the test that
// compares debuggers shows the local variables of such functions.
thread_local long witness_tls = 0x715;
thread_local char witness_tls_zeros[24];

namespace {

int release[2];  // what the blocked threads read from, until its other end is closed
std::mutex mutex;
std::condition_variable condition;
bool condition_met = false;

[[gnu::noinline]] long block_in_read() {
  char byte;
  const ssize_t length = read(release[0], &byte, 1);
  if (length != 0) target::differs("read gave %zd (%s)", length, strerror(errno));
  return length;
}

[[gnu::always_inline]] inline long marked_inlined(long value) {
  volatile long marked_in_inlined = value ^ 0x55;
  return block_in_read() + marked_in_inlined;
}

[[gnu::noinline]] long marked_callback(long value) {
  volatile double marked_double = -0.0;
  volatile long marked_extreme = INT64_MIN;
  const long result = marked_inlined(value);
  if (marked_double != 0 || marked_extreme != INT64_MIN) target::differs("a local has changed");
  return result;
}

[[gnu::noinline]] long marked_recurse(int depth, long value) {
  volatile long marked_array[4] = {depth, -1, INT64_MAX, value};
  const long result =
      depth == 0 ? libwitness_call(marked_callback, value) : marked_recurse(depth - 1, value + 1);
  if (marked_array[0] != depth || marked_array[3] != value) {
    target::differs("the stack array at depth %d has changed", depth);
  }
  return result;
}

void marked_handler(int, siginfo_t* info, void*) {
  volatile long marked_value = reinterpret_cast<long>(info->si_value.sival_ptr);
  block_in_read();
  if (marked_value != 0x5151) target::differs("the handler's local has changed");
}

void ignore_signal(int) {}

void install(int signal, void (*simple)(int), void (*full)(int, siginfo_t*, void*), int flags) {
  struct sigaction action {};
  if (full) {
    action.sa_sigaction = full;
  } else {
    action.sa_handler = simple;
  }
  action.sa_flags = flags;
  target::setup("sigaction", sigaction(signal, &action, nullptr));
}

// Only this thread takes the signal.
void accept_signal(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void run_handler_thread() {
  constexpr size_t size = 256 << 10;
  stack_t stack{};
  stack.ss_size = size;
  stack.ss_sp = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  target::setup("sigaltstack", sigaltstack(&stack, nullptr));
  accept_signal(SIGUSR1);
  pthread_sigqueue(pthread_self(), SIGUSR1, sigval{.sival_ptr = reinterpret_cast<void*>(0x5151)});
}

void run_deep_thread() {
  constexpr int kDepth = 12;
  const long result = marked_recurse(kDepth, 1000);
  // value grows by one a level and by one in the library, which adds three times what it got.
  target::expect_equal("the call chain's result", result, ((1000 + kDepth + 1) ^ 0x55) + 3 * 1012);
}

void run_condition_thread() {
  std::unique_lock lock(mutex);
  condition.wait(lock, [] { return condition_met; });
}

void run_tiles_thread(uint64_t seed) {
  const bool amx = target::request_amx();
  if (amx) target::load_tiles(seed);
  target::hold_in_pause(seed);
  if (amx) target::check_tiles(seed);
}

struct Row {
  const char* name;
  long system_call;  // in which it ends up, or -1
  void (*run)(uint64_t seed);
};

// Indexed by Kind. The odd name has what XML and terminals care about.
constexpr Row kRows[] = {
    {"spin", -1, [](uint64_t seed) { target::hold_spinning(seed); }},
    {"pause", SYS_pause, [](uint64_t seed) { target::hold_in_pause(seed); }},
    {"deep", SYS_read, [](uint64_t) { run_deep_thread(); }},
    {"handler", SYS_read, [](uint64_t) { run_handler_thread(); }},
    {"odd <&>\"'%s \xc3\xa9", SYS_futex, [](uint64_t) { run_condition_thread(); }},
    {"tiles", SYS_pause, [](uint64_t seed) { run_tiles_thread(seed); }},
};

void run(const Row& row, uint64_t seed) {
  accept_signal(SIGUSR2);
  witness_tls = static_cast<long>(seed);
  libwitness_tls = -static_cast<long>(seed);
  row.run(seed);
  target::expect_equal("witness_tls", witness_tls, seed);
  target::expect_equal("libwitness_tls", libwitness_tls, -seed);
  for (const char byte : witness_tls_zeros) target::expect_equal("a thread-local zero", byte, 0);
}

}  // namespace

namespace witness {

Threads::Threads(const std::vector<Kind>& kinds, uint64_t role) {
  target::setup("pipe2", pipe2(release, O_CLOEXEC));
  install(SIGUSR1, nullptr, marked_handler, SA_SIGINFO | SA_ONSTACK | SA_RESTART);
  install(SIGUSR2, ignore_signal, nullptr, 0);
  threads_.reserve(kinds.size());
  for (const Kind kind : kinds) {
    const Row& row = kRows[static_cast<int>(kind)];
    const uint64_t seed = 0x7000 + role * 0x100 + threads_.size();
    threads_.emplace_back(row.name, [&row, seed] { run(row, seed); });
    pauses_.push_back(row.system_call == SYS_pause);
    if (row.system_call >= 0) target::wait_until_blocked(threads_.back().tid(), row.system_call);
    target::say("thread %d %d %s", getpid(), threads_.back().tid(), row.name);
  }
}

Threads::~Threads() = default;

void Threads::finish() {
  target::end_holding();
  close(release[1]);
  {
    const std::scoped_lock lock(mutex);
    condition_met = true;
  }
  condition.notify_all();
  for (size_t i = 0; i < threads_.size(); ++i) {
    target::Thread& thread = threads_[i];
    // pause(2) returns only by a signal, and one that comes before it is called is lost. The others
    // must not get one: of a thread that SIGCONT has only just set going, it would interrupt
    // read(2).
    while (pauses_[i] && thread.alive()) {
      thread.signal(SIGUSR2);
      target::sleep_ms(1);
    }
    thread.join();
  }
}

}  // namespace witness
