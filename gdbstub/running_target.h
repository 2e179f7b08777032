#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"
#include "gdbstub/agent_expression.h"
#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

class SnapshotTarget;

// The number after the packets Z and z.
enum class BreakpointKind { kSoftware = 0, kHardware = 1, kWrite = 2, kRead = 3, kAccess = 4 };

struct Breakpoint {
  BreakpointKind kind = BreakpointKind::kSoftware;
  uint64_t address = 0;
  uint64_t size = 0;
  AgentCode code = {};
  bool is(const Breakpoint& other) const {
    return kind == other.kind && address == other.address && size == other.size;
  }
};

// Why one cannot be inserted.
inline std::string_view obstacle_to(const Breakpoint& breakpoint) {
  return breakpoint.kind == BreakpointKind::kSoftware
             ? "there is no memory to put it into"
             : "the processor cannot watch it, or not so many";
}

// What is to happen to threads when the client says continue. Signals are Linux's numbers.
struct ResumeAction {
  std::optional<Pid> pid;  // nullopt: every process
  std::optional<Tid> tid;  // nullopt: every thread of it
  // Steps one instruction; as long as that ends in [range_start, range_end), another one.
  bool step = false;
  uint64_t range_start = 0, range_end = 0;
  int signal = 0;  // to deliver; 0: none
};

// What has happened to a thread, which stands still since then; or to a process.
struct Event {
  enum class Kind {
    kStopped,  // as it was told to
    kSignal,   // `signal` is about to be delivered
    kStepped,
    kSoftwareBreakpoint,  // at pc
    kHardwareBreakpoint,
    kWatchpoint,  // of kind `watch`, at address `value`
    kFork,        // `child` stands still too, and is attached to
    kVfork,       // the same
    kVforkDone,
    kExec,           // of program `path`; the thread has the number of the process now
    kSyscallEntry,   // of number `value`
    kSyscallReturn,  // the same
    kThreadCreated,
    kClone,         // `child` is a new thread of the same process; it stands still too
    kThreadExited,  // `value`: its status
    kExited,        // the process; `value`: its status
    kKilled,        // the process, by `signal`
    kNothingRuns,   // what was to be resumed is not there any more
  };
  Kind kind = Kind::kStopped;
  ThreadId thread = {};  // of kExited and kKilled: the process, and no thread
  int signal = 0;        // Linux's number
  uint64_t value = 0;
  BreakpointKind watch = BreakpointKind::kWrite;
  ThreadId child = {};
  std::string path = {};
};

// Whether an event that nobody has been told of is over with when its thread is resumed so: the end
// of a step that it is not to make any more would be a trap out of nowhere.
inline bool is_outrun(const Event& event, const ResumeAction& action) {
  return event.kind == Event::Kind::kStepped && !action.step;
}

// Which events a client wants to hear of; the others go by themselves. Children are let go then.
struct Wishes {
  bool forks = false, vforks = false, execs = false, threads = false;
  std::set<int> passed_signals = {};  // Linux's numbers: delivered without a report
  // Threads whose clone(2), or whose end, the client wants to hear of.
  std::set<ThreadId> clones = {}, exits = {};
  // Numbers of system calls by process; an empty set: all of them.
  std::map<Pid, std::set<uint64_t>> system_calls = {};
};

// Of System V (sysvipc(7)).
struct IpcObject {
  int32_t id = 0, key = 0;
  uint32_t mode = 0, owner = 0, group = 0, creator = 0, creator_group = 0;
  uint64_t size = 0;  // bytes of a segment, number of semaphores
  uint64_t messages = 0, message_bytes = 0;
  std::vector<uint16_t> values = {};  // of semaphores
  std::vector<int32_t> pids = {};     // who made it or used it last, as the client knows them
};
struct IpcObjects {
  std::vector<IpcObject> segments, semaphores, queues;
};

// A target that lives. Threads stand still until they are resumed, and again from the moment their
// event is there to be asked for. All of it belongs to the thread that made it.
class RunningTarget : public Target {
 public:
  // Readable when next_event() or take_output() may have something new.
  virtual int event_descriptor() const = 0;
  // Never waits. Stops nobody else.
  virtual std::optional<Event> next_event() = 0;

  virtual void set_wishes(Wishes wishes) = 0;
  // Lets threads run, by the first action that fits each of them; those that no action fits go on
  // doing what they do. A thread with an event not yet asked for stays where it is, as do those
  // `kept`.
  virtual void resume(std::span<const ResumeAction> actions, std::span<const ThreadId> kept) = 0;
  // Those that run stop, each with an event kStopped; nullopt: all.
  virtual void stop(std::optional<Pid> pid, std::optional<Tid> tid) = 0;
  // All that run stop, without an event of their own; returns when they do.
  virtual void halt() = 0;
  // ^C: one of the threads that run stops, with an event kSignal of SIGINT, which it does not get.
  virtual void interrupt() = 0;
  virtual bool runs(ThreadId thread) const = 0;
  // No thread runs, and none has an event to come.
  virtual bool stands_still() const = 0;

  // Of a process that stands still. False: there is no memory, or no debug register is left.
  virtual bool insert(Pid pid, const Breakpoint& breakpoint) = 0;
  // The same. False: the memory that it was in is gone.
  virtual bool remove(Pid pid, const Breakpoint& breakpoint) = 0;
  virtual bool set_siginfo(ThreadId thread, std::string_view siginfo) = 0;

  // Makes memory of the debugger's own, exactly there, or ends it. False: it cannot be.
  virtual bool allocate(Pid pid, const Mapping& mapping) = 0;
  virtual bool release(Pid pid, const Mapping& mapping) = 0;

  // Starts to watch over a process of the tree that runs by itself; it stands still afterwards.
  // Throws Error.
  virtual void attach(Pid pid) = 0;
  // It runs by itself from now on, without breakpoints.
  virtual void detach(Pid pid) = 0;
  virtual void kill(Pid pid) = 0;
  // The processes of the whole tree as they are now, in as far as others can see it.
  virtual std::vector<pb::Process> records() const = 0;
  // The objects of System V that an attached process sees, as they are now. Throws SystemError.
  virtual IpcObjects ipc_objects() const = 0;
  // What is otherwise than it was in the snapshot, a line each.
  virtual std::vector<std::string> notes() const = 0;
  // The whole tree outlives this object. Precondition: nothing is attached to any more.
  virtual void let_go() = 0;

  // What the program has written to its terminal since it was last asked; and what it is to read.
  virtual std::string take_output() = 0;
  virtual void send_input(std::string_view text) = 0;
};

// Makes the moment of `from` run, with all that was changed there. The processes `attached` stand
// still; the others of the tree run by themselves. Throws Error: what is in the way.
using Launcher = std::function<std::unique_ptr<RunningTarget>(const SnapshotTarget& from,
                                                              std::span<const Pid> attached)>;

}  // namespace snapgdb::gdbstub
