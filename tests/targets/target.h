#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

// What the targets share. A target sets something up, prints "ready" on standard output, waits for
// SIGTERM or for the end of its standard input, and then checks that everything is still as it left
// it: exit status 0, or 1 with a line on standard error for each thing that differs.
namespace target {

// Says on standard error what differs, and makes verdict() 1. Callable from any thread.
void differs(const char* format, ...) __attribute__((format(printf, 1, 2)));
void expect_equal(const char* what, uint64_t seen, uint64_t expected);
// expect_call("accept", accept(…)): complains with the errno where the call failed.
long expect_call(const char* what, long result);
int verdict();

// Ends the process at once, with the errno's text: the target itself could not be set up.
[[noreturn]] void cannot(const char* what);
// setup("pipe2", pipe2(…)): the result, or cannot().
int setup(const char* what, long result);

// One line on standard output, in one piece also when several processes print.
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));

pid_t thread_id();
uint64_t now_ns();  // CLOCK_MONOTONIC
void sleep_ms(int milliseconds);

// What /proc shows of this process and what a capture must leave alone: mappings with their flags,
// descriptors, every thread's status, children. Calling compare() is the first thing to do after
// the end was waited for, since anything else may change the state itself.
class OwnState {
 public:
  void remember();
  void compare();
  // The same, but what was left behind by something that was killed has a moment to go.
  void compare_once_settled();

 private:
  enum Part { kMappings, kDescriptors, kTasks, kChildren, kParts };
  using Texts = std::array<std::string, kParts>;
  static void read(Texts& texts);
  static void forget_what_a_restore_changes(Texts& texts);

  Texts before_;
  Texts after_;
};

// Whether the file "restored" lies in $TMPDIR: where it differs from a tree that was left alone.
bool was_restored();

// Counts every SIGCHLD from now on; none may come between ready and the end. SIGCHLDs that report
// a stop or a continuation are passed over if the tree was started with --may-be-stopped.
void watch_for_sigchld(bool may_be_stopped);
void expect_no_sigchld();
// Reaps a child that must exit with status 0.
void expect_success_of(pid_t child);
void expect_no_children();

// Blocks SIGTERM in this thread and those it starts; wait_for_end() takes it.
void prepare_end();
// Returns at SIGTERM or at the end of standard input. Being interrupted by anything else is a
// difference: a capture must not be seen.
void wait_for_end();
void ready();

// A named thread with every signal blocked, so that the main thread takes them all.
class Thread {
 public:
  Thread(const char* name, std::function<void()> body);
  Thread(Thread&&) = default;

  pid_t tid() const { return shared_->tid; }
  void signal(int number, void* value = nullptr) const;
  bool alive() const { return !shared_->done; }
  void join();

 private:
  struct Shared {
    std::string name;
    std::function<void()> body;
    std::atomic<pid_t> tid{0};
    std::atomic<bool> done{false};
  };
  static void* run(void* shared);

  std::unique_ptr<Shared> shared_;
  pthread_t handle_;
};

// Waits until the thread sleeps in the system call of that number (SYS_*).
void wait_until_blocked(pid_t tid, long number);

// Processes that become ready together and end together. All of them die with their parent.
class Family {
 public:
  Family();  // in the root, before the first fork

  // Returns in both: the child's pid in the parent, 0 in the child. One in a pid namespace where
  // the parent is not sees no parent.
  pid_t fork_child(bool sees_parent = true);
  void announce_ready() const;                      // in a child
  void wait_for_announcements(int children) const;  // in the root
  void wait_for_end_of_family() const;              // in a child: until the root calls end()
  void end();                                       // in the root

 private:
  int ready_[2];
  int end_[2];
};

// A directory under $TMPDIR (or /tmp) that goes when the root's scope ends.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  std::string path(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  pid_t owner_;
};

// The arguments of main(): flags, and options followed by a word.
bool has_flag(int argc, char** argv, const char* flag);
// The word after `option`, or `otherwise`.
const char* option(int argc, char** argv, const char* option, const char* otherwise);

// Well-mixed 64 bits: every page of a pattern differs from every other.
constexpr uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace target
