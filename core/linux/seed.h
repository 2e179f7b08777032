#pragma once

#include <sys/ptrace.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/linux/child.h"
#include "core/linux/signal_frame.h"
#include "core/linux/tracee.h"

namespace snapgdb {

// A task of our own making that is to become another: its address space holds nothing but a few
// instructions, which perform lists of system calls that we write into it. It is under our ptrace
// from its birth on, and dies with us (PTRACE_O_EXITKILL).
class Seed {
 public:
  // What a seed occupies, from its base on: code, the list of calls, what they point to, and room
  // to put the vDSO while everything else is being mapped.
  static constexpr uint64_t kListAt = 4096, kListSize = 16 * 1024;
  static constexpr uint64_t kDataAt = kListAt + kListSize, kDataSize = 44 * 1024;
  static constexpr uint64_t kParkingAt = kDataAt + kDataSize, kParkingSize = 64 * 1024;
  static constexpr uint64_t kSize = kParkingAt + kParkingSize;
  static constexpr uint64_t kOptions =
      PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD;

  // In the process that becomes one: maps it at `base`. Throws SystemError.
  static void plant(uint64_t base);
  // The pages that the kernel itself maps into every process.
  struct KernelPart {
    std::string name;  // "[vdso]"
    uint64_t start = 0, size = 0;
    uint64_t parked = 0;  // where it is, counted from the base
  };
  static const std::vector<KernelPart>& kernel_parts();
  // In a process that is under nobody's ptrace yet: puts them into the seed, writes a byte to
  // `done`, and waits for ever, or until its parent ends (0: that of another pid namespace).
  [[noreturn]] static void park_and_wait(uint64_t base, int done, Pid parent);

  // Precondition: `task` is stopped, and was planted at `base`.
  Seed(Tracee task, uint64_t base) : task_(std::move(task)), base_(base) {}

  // Adds a call to the list; `what` completes "cannot …" where it fails. Arguments may point to
  // what was put() since the last call was added, up to kMaxPut bytes.
  void add(std::string what, long number, const SystemCallArguments& arguments = {});
  // One that rights or limits may forbid: its failure ends nothing, and is among what perform()
  // returns.
  void add_if_allowed(std::string what, long number, const SystemCallArguments& arguments = {});
  static constexpr size_t kMaxPut = 8 * 1024;
  uint64_t put(std::span<const std::byte> bytes);
  uint64_t put(std::string_view text);  // with a NUL behind it
  template <typename T>
  uint64_t put_value(const T& value) {
    return put(std::as_bytes(std::span(&value, 1)));
  }
  // Performs what is on the list. Throws SystemError at the first call that fails and had to
  // succeed; returns "cannot …: …" for each other one that failed.
  std::vector<std::string> perform();
  // add() and perform(), and what the call returned.
  int64_t call(std::string what, long number, const SystemCallArguments& arguments = {});
  // The same, but a failure is a result: -errno.
  int64_t try_call(long number, const SystemCallArguments& arguments = {});

  // One call without the trap that ends a list: for a trap's signal, the kernel takes the first of
  // the queued signals that a processor's exception has caused, also where it is blocked
  // (dequeue_synchronous_signal(), kernel/signal.c, Linux 5.0). Nothing but such calls may follow.
  void call_silently(const std::string& what, long number, const SystemCallArguments& arguments);

  // A child of this task, or a thread, also a seed, at the same place. `flags` and `exit_signal` of
  // clone(2). `numbers`: which it gets in its own pid namespace and those above; others: any.
  Seed clone(const std::string& what, uint64_t flags, int exit_signal,
             std::span<const int32_t> numbers = {});

  // Takes the descriptor that was sent to its socket `from` (SCM_RIGHTS), and gives it a number.
  void receive(const std::string& what, int from, int number);

  // Uses AMX once: the kernel has no room for its registers before that. Only who was permitted to.
  void touch_tiles();

  // Ends, so that its parent sees this wait(2) status; the Seed is of no use then.
  void end(int status);
  // Ends alone, with an exit status, while other threads of the process live; for a first thread:
  // it stays a zombie until they have ended. Not under our ptrace: nobody else could wait for it
  // then.
  void end_alone(int status);
  // The last call: makes the seed's own memory go. Only registers can be set afterwards.
  void unplant();

  Tracee& task() { return task_; }
  Tid tid() const { return task_.tid(); }
  uint64_t base() const { return base_; }

 private:
  struct Call {
    uint64_t number, arguments[6];
    int64_t result;
  };
  struct Purpose {
    std::string what;
    bool may_fail = false;
  };
  void push(Purpose purpose, long number, const SystemCallArguments& arguments);
  void enqueue(Purpose purpose, long number, const SystemCallArguments& arguments);
  void clear_list();
  void start();
  void run_from(size_t index);
  void work_off();
  void go_on(const std::string& what);
  Call read_call(size_t index) const;
  [[noreturn]] void fail(const std::string& what, std::string why) const;

  Tracee task_;
  uint64_t base_;
  std::vector<Call> calls_;
  std::vector<Purpose> purposes_;
  std::vector<std::string> failures_;
  std::vector<std::byte> data_;
};

}  // namespace snapgdb
