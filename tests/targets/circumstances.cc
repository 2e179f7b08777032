// What stands around a program rather than in it: leases that somebody is breaking, by which signal
// job control stopped a child, as whom one has logged in; memory that may be dropped. Each function
// sets something up, and returns what checks it at the end. With --no-leases without those, which a
// scratch in memory does not know.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

#include "target.h"

namespace {

using target::expect_call;
using target::expect_equal;
using target::setup;
using Check = std::function<void()>;

// ---- Leases -------------------------------------------------------------------------------------

const int kTold = SIGRTMIN + 5;  // blocked: it waits

int file_with_lease(const char* name, int way, int lease) {
  const std::string path = std::string(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp") + "/" + name;
  const int fd = setup("open", open(path.c_str(), way | O_CREAT, 0600));
  setup("F_SETLEASE", fcntl(fd, F_SETLEASE, lease));
  setup("F_SETSIG", fcntl(fd, F_SETSIG, kTold));
  return fd;
}

// Returns whether somebody is told of it, and by which descriptor's number; it is not waited for.
bool is_told_when_opened(int fd, int way) {
  const std::string name = "/proc/self/fd/" + std::to_string(fd);
  const bool refused = open(name.c_str(), way | O_NONBLOCK) < 0 && errno == EWOULDBLOCK;
  sigset_t told;
  sigemptyset(&told), sigaddset(&told, kTold);
  siginfo_t info{};
  const timespec none{};
  return refused && sigtimedwait(&told, &info, &none) == kTold && info.si_fd == fd;
}

void break_lease(int fd, int way) {
  if (!is_told_when_opened(fd, way)) target::cannot("break a lease");
}

Check leases() {
  const int whole = file_with_lease("whole-lease", O_RDONLY, F_RDLCK);
  const int to_nothing = file_with_lease("lease-of-a-writer", O_RDWR, F_WRLCK);
  const int to_shared = file_with_lease("lease-to-be-shared", O_RDWR, F_WRLCK);
  const int of_reader = file_with_lease("lease-of-a-reader", O_RDONLY, F_RDLCK);
  break_lease(to_nothing, O_WRONLY);
  break_lease(to_shared, O_RDONLY);
  break_lease(of_reader, O_WRONLY);
  return [=] {
    sigset_t pending;
    sigpending(&pending);
    expect_equal("a signal that nobody sent", sigismember(&pending, kTold), 0);
    expect_call("a broken lease", fcntl(to_nothing, F_GETLEASE));
    expect_equal("what is left of a lease", static_cast<uint64_t>(fcntl(to_nothing, F_GETLEASE)),
                 F_UNLCK);
    expect_equal("what is shared", static_cast<uint64_t>(fcntl(to_shared, F_GETLEASE)), F_RDLCK);
    expect_equal("a reader's", static_cast<uint64_t>(fcntl(of_reader, F_GETLEASE)), F_UNLCK);
    expect_equal("a lease", static_cast<uint64_t>(fcntl(whole, F_GETLEASE)), F_RDLCK);
    expect_call("giving way", fcntl(to_shared, F_SETLEASE, F_UNLCK));
    expect_equal("being told when it is broken", is_told_when_opened(whole, O_WRONLY), 1);
    expect_equal("who is told of a broken one", static_cast<uint64_t>(fcntl(to_nothing, F_GETSIG)),
                 static_cast<uint64_t>(kTold));
  };
}

// ---- Job control --------------------------------------------------------------------------------

// In a group of its own, which is no orphan since we are its parent.
pid_t stopped_by(int signal) {
  const pid_t child = setup("fork", fork());
  if (child == 0) {
    while (true) pause();
  }
  setup("setpgid", setpgid(child, child));
  setup("kill", kill(child, signal));
  return child;
}

int how_it_stopped(pid_t child) {
  siginfo_t info{};
  setup("waitid", waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WNOWAIT));
  return info.si_code == CLD_STOPPED ? info.si_status : 0;
}

Check stopped_children() {
  struct Stopped {
    int signal;
    pid_t child;
  };
  std::vector<Stopped> all;
  for (const int signal : {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU}) {
    all.push_back({signal, stopped_by(signal)});
    if (how_it_stopped(all.back().child) != signal) target::cannot("stop a child");
  }
  return [all] {
    for (const auto& [signal, child] : all) {
      expect_equal("the signal that stopped a child", static_cast<uint64_t>(how_it_stopped(child)),
                   static_cast<uint64_t>(signal));
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
  };
}

// ---- Audit --------------------------------------------------------------------------------------

std::string login_user() {
  std::string text;
  std::getline(std::ifstream("/proc/thread-self/loginuid"), text);
  return text;
}

// A thread's may be another one than its process's. Where it was set before, or there is no audit,
// it stays what it is.
Check login_users() {
  std::ofstream("/proc/thread-self/loginuid") << 4711 << std::flush;
  const std::string of_process = login_user();
  return [=] { expect_equal("the login user", login_user() == of_process, 1); };
}

// ---- A stack ------------------------------------------------------------------------------------

volatile sig_atomic_t told = 0;

// Far down on a stack of which no more is mapped: where it waits, nobody has room beside it.
__attribute__((noinline)) bool wait_deep_down(int end) {
  volatile char unused[512 << 10];
  unused[0] = 0;
  char byte = 0;
  const bool closed = read(end, &byte, 1) == 0;
  kill(getpid(), SIGUSR1);
  return closed && told == 1 && unused[0] == 0;
}

Check deep_stack() {
  int ends[2];
  setup("pipe", pipe(ends));
  const pid_t child = setup("fork", fork());
  if (child == 0) {
    close(ends[1]);
    signal(SIGUSR1, [](int) { told = 1; });
    _exit(wait_deep_down(ends[0]) ? 0 : 1);
  }
  close(ends[0]);
  return [=] {
    close(ends[1]);
    target::expect_success_of(child);
  };
}

// ---- Memory -------------------------------------------------------------------------------------

// The state of random numbers: no two trees may have the same. Beside it, what is only kept from
// children.
Check droppable_memory() {
  constexpr int kDroppable = 0x08;  // MAP_DROPPABLE, Linux 6.11
  constexpr size_t kSize = 64 << 10;
  const auto map = [](int type) {
    return static_cast<unsigned char*>(
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE, type | MAP_ANONYMOUS, -1, 0));
  };
  unsigned char* const droppable = map(kDroppable);
  unsigned char* const wiped = map(MAP_PRIVATE);
  if (wiped == MAP_FAILED) target::cannot("mmap");
  setup("MADV_WIPEONFORK", madvise(wiped, kSize, MADV_WIPEONFORK));
  memset(wiped, 0xab, kSize);
  if (droppable != MAP_FAILED) memset(droppable, 0xab, kSize);
  return [=] {
    const auto is = [](unsigned char value) {
      return [value](unsigned char byte) { return byte == value; };
    };
    expect_equal("what children do not get", std::all_of(wiped, wiped + kSize, is(0xab)), 1);
    if (droppable == MAP_FAILED) return;  // an older kernel
    const unsigned char kept = target::was_restored() ? 0 : 0xab;
    expect_equal("what may be dropped", std::all_of(droppable, droppable + kSize, is(kept)), 1);
    memset(droppable, 0xcd, kSize);
  };
}

// ---- Directories --------------------------------------------------------------------------------

// That of a process that has been reaped; entered by a child, since others need a real one.
Check directory_of_ended() {
  int ends[2];
  setup("pipe", pipe(ends));
  const pid_t child = setup("fork", fork());
  if (child == 0) {
    close(ends[1]);
    const pid_t ended = setup("fork", fork());
    if (ended == 0) pause();
    setup("chdir", chdir(("/proc/" + std::to_string(ended)).c_str()));
    kill(ended, SIGKILL);
    waitpid(ended, nullptr, 0);
    char byte, name[4096] = {};
    const bool told_to_end = read(ends[0], &byte, 1) == 1;
    const bool is_nowhere = !getcwd(name, sizeof name) && errno == ENOENT;
    const ssize_t n = readlink("/proc/self/cwd", name, sizeof name - 1);
    const bool is_of_process = n > 0 && std::string(name).starts_with("/proc/");
    _exit(told_to_end && is_nowhere && is_of_process && wait(nullptr) < 0 ? 0 : 1);
  }
  close(ends[0]);
  return [=] {
    // Other children have that end, too: closing it would not be the end.
    expect_equal("telling a child to end", static_cast<uint64_t>(write(ends[1], "", 1)), 1);
    target::expect_success_of(child);
  };
}

// ---- Memory that has a file through /proc -------------------------------------------------------

// Shared memory without a name, open by the handle that /proc/PID/map_files gives of it, which
// takes root. It may have been unmapped, too.
Check handle_of_shared_memory(bool unmapped) {
  constexpr size_t kSize = 3 * 4096;
  auto* memory = static_cast<char*>(
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) target::cannot("mmap");
  strcpy(memory + 4096, "shared");
  char path[64];
  snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", reinterpret_cast<long>(memory),
           reinterpret_cast<long>(memory + kSize));
  const int fd = setup("open", open(path, O_RDWR));
  if (unmapped) munmap(memory, kSize);
  return [=] {
    char text[8] = {};
    expect_equal("reading shared memory", static_cast<uint64_t>(pread(fd, text, 7, 4096)), 7);
    expect_equal("what it holds", strcmp(text, "shared") == 0, 1);
    expect_equal("its size", static_cast<uint64_t>(lseek(fd, 0, SEEK_END)), kSize);
    if (unmapped) return;
    expect_equal("writing", static_cast<uint64_t>(pwrite(fd, "!", 1, 2 * 4096)), 1);
    expect_equal("what is mapped", static_cast<unsigned char>(memory[2 * 4096]), '!');
    expect_equal("what was", strcmp(memory + 4096, "shared") == 0, 1);
  };
}

// A console of the machine that is no more than an open device.
Check console() {
  const int fd = open("/dev/console", O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return [] {};  // a machine without
  struct stat before {};
  setup("fstat", fstat(fd, &before));
  return [=] {
    struct stat now {};
    setup("fstat", fstat(fd, &now));
    expect_equal("the console", now.st_rdev, before.st_rdev);
  };
}

}  // namespace

int main(int argc, char** argv) {
  const bool without_leases = argc > 1 && std::string(argv[1]) == "--no-leases";
  target::prepare_end();
  sigset_t told;
  sigemptyset(&told), sigaddset(&told, kTold);
  sigprocmask(SIG_BLOCK, &told, nullptr);
  std::vector<Check> checks{stopped_children(), droppable_memory()};
  checks.push_back(directory_of_ended());
  checks.push_back(deep_stack());
  if (!without_leases) checks.push_back(leases());
  if (argc > 1 && std::string(argv[1]) == "--root") {
    checks.push_back(login_users());  // others may not choose theirs, which restore says
    checks.push_back(handle_of_shared_memory(false));
    checks.push_back(handle_of_shared_memory(true));
    checks.push_back(console());
  }
  target::ready();
  target::wait_for_end();
  for (const Check& check : checks) check();
  return target::verdict();
}
