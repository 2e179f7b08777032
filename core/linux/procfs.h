#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"

namespace snapgdb {

// /proc/PID/stat: man proc(5). Times in clock ticks.
struct ProcStat {
  std::string name;
  char state = '?';
  pid_t parent = 0, group = 0, session = 0, foreground_group = 0;
  uint64_t terminal = 0;
  uint32_t flags = 0;  // PF_*, include/linux/sched.h
  // A thread of the kernel's among those of the process: io_uring's (Linux 5.12) and vhost's (6.4).
  // They never run its code, and stop on no way to it.
  bool works_for_kernel() const {
    constexpr uint32_t kIoWorker = 0x10, kUserWorker = 0x4000;  // PF_IO_WORKER, PF_USER_WORKER
    return flags & (kIoWorker | kUserWorker);
  }
  uint64_t user_ticks = 0, system_ticks = 0, start_ticks = 0;
  uint64_t start_code = 0, end_code = 0, start_stack = 0;
  int cpu = 0;
  uint32_t realtime_priority = 0, policy = 0;
  int nice = 0;
  uint64_t start_data = 0, end_data = 0, start_brk = 0;
  uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  int exit_status = 0;
};
ProcStat parse_stat(std::string_view text);

// What smaps tells of a mapping's pages: "Rss: 12 kB".
enum class MappingSize {
  kRss,
  kPss,
  kSharedClean,
  kSharedDirty,
  kPrivateClean,
  kPrivateDirty,
  kAnonymous,
  kSwap,
  kLocked,
  kKernelPageSize,
  kAnonHugePages,
  kShmemPmdMapped,
  kFilePmdMapped,
  kSharedHugetlb,
  kPrivateHugetlb,
};
inline constexpr size_t kMappingSizes = 15;

// One mapping of /proc/PID/smaps (or maps, then without what follows `name`). Sizes in bytes.
struct ProcMapping {
  uint64_t start = 0, end = 0, offset = 0, inode = 0;
  uint32_t protection = 0;  // PROT_*
  bool shared = false;
  uint32_t device_major = 0, device_minor = 0;
  std::string name;  // without " (deleted)"
  bool deleted = false;
  std::array<uint64_t, kMappingSizes> sizes{};  // bytes, of smaps
  std::string flags;                            // VmFlags
  uint32_t protection_key = 0;

  uint64_t size(MappingSize which) const { return sizes[static_cast<size_t>(which)]; }
  bool has_flag(std::string_view two_letters) const;
};
std::vector<ProcMapping> parse_mappings(std::string_view text);

// /proc/PID/syscall of a task that sleeps in one.
struct CallInProgress {
  uint64_t number = 0;
  std::array<uint64_t, 6> arguments{};
  uint64_t stack_pointer = 0, instruction_pointer = 0;
};
std::optional<CallInProgress> parse_call(std::string_view text);  // nullopt: "running", or "-1 …"

// "Key:\tvalue" lines, as in status and fdinfo. A key that occurs several times keeps them all.
class ProcFields {
 public:
  explicit ProcFields(std::string_view text) : text_(text) {}
  ProcFields(const ProcFields&) = delete;  // its views point into itself
  ProcFields& operator=(const ProcFields&) = delete;
  // "" if there is none.
  std::string_view text(std::string_view key) const;
  uint64_t number(std::string_view key, int base = 10) const;  // 0 if there is none
  std::vector<std::string_view> all(std::string_view key) const;

 private:
  std::string text_;
};

// Throws Error unless /proc is there, and tells of the pid namespace that we are in.
void require_proc();

// Whether looking at a task failed for want of something of ours, and not since it is gone.
bool is_own_shortage(int error_number);

// A directory of /proc held open: what is read through it belongs to that very task, even if its
// number is used again meanwhile (reads then fail with ESRCH). Copies share what is held.
class ProcDirectory {
 public:
  static ProcDirectory of(Pid pid);  // throws SystemError (ENOENT: no such process)
  static std::optional<ProcDirectory> of_if_alive(Pid pid);
  ProcDirectory task(Tid tid) const;  // /proc/PID/task/TID

  // Opens these, each of one record, now: each read() is one system call then, of three. What they
  // tell is of the time of reading. Those that cannot be opened are opened when they are read. Not
  // for what belongs to the memory (maps, auxv): that would stay what it is over an execve(2).
  // Not while others use this directory.
  void prepare(std::span<const std::string> names);

  std::string read(const char* name) const;
  // nullopt where the kernel lacks the file or refuses it to us.
  std::optional<std::string> read_if_allowed(const char* name) const;
  void write(const char* name, std::string_view text) const;
  std::string link(const std::string& name) const;
  std::optional<std::string> link_if_allowed(const std::string& name) const;
  std::vector<std::string> list(const char* name) const;  // without . and .., unsorted
  std::vector<Tid> tasks() const;                         // ascending
  // Every child of these threads of this process, zombies included.
  std::vector<Pid> children_of(const std::vector<Tid>& tids) const;
  std::vector<Pid> children() const { return children_of(tasks()); }
  Fd open(const std::string& name, int flags) const;  // invalid and errno set on failure

  ProcStat stat() const { return parse_stat(read("stat")); }
  std::optional<ProcStat> stat_if_alive() const;  // nullopt: it has been reaped
  int fd() const { return held_->fd.get(); }
  const std::string& path() const { return held_->path; }

 private:
  ProcDirectory(Fd fd, std::string path)
      : held_(std::make_shared<Held>(std::move(fd), std::move(path))) {}

  struct Held {
    Held(Fd directory, std::string name) : fd(std::move(directory)), path(std::move(name)) {}
    Fd fd;
    std::string path;
    std::vector<std::pair<std::string, Fd>> prepared = {};
  };
  std::shared_ptr<Held> held_;
};

// Of a task by its number: threads have a directory of their own in /proc, though it is not listed.
// nullopt: it is gone.
std::optional<ProcStat> stat_of_if_alive(Tid tid);

// "4711 1", as status has numbers in nested pid namespaces (NSpid, NStgid, NSpgid, NSsid): that in
// the innermost; 0 where they say nothing.
int32_t innermost(std::string_view numbers);

// How many tasks there are on this machine, and the number that was given out last in our pid
// namespace: while neither changes, nobody has made a task. (clone3(2) with a number of one's
// choice gives out none; then, another task would have to end at the same time.)
struct TaskCount {
  uint64_t tasks = 0, last_number = 0;

  static TaskCount now();
  // False where /proc/loadavg is not the kernel's own (lxcfs shows another, of seconds ago).
  bool is_known() const { return tasks != 0; }
  bool operator==(const TaskCount&) const = default;
};

// The kernel function that a task (/proc/PID/task/TID) sleeps in; "" where it runs, or where the
// kernel was built without names or keeps them from us.
std::string wait_channel(const ProcDirectory& task);

// Of this process (CAP_…), in the user namespace that it is in.
bool has_capability(int number);

}  // namespace snapgdb
