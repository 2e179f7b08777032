#pragma once

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/base/strings.h"
#include "gdbstub/running_target.h"
#include "gdbstub/snapshot_target.h"

namespace snapgdb::gdbstub {

// What a test scripts, and what it wants to know afterwards. It outlives the trees.
struct Script {
  std::deque<Event> events;  // to come, one for each next_event()
  std::string output;        // of the program
  std::vector<std::string> notes;
  std::vector<std::string> done;  // what was asked of the target, in order
  Wishes wishes;
  IpcObjects ipc;
  int launched = 0, dropped = 0;
  bool breakpoints_fit = true;
  bool standing = false;
  std::optional<ThreadId> dying;  // is gone after halt()
  std::vector<Pid> ended;         // have no threads any more after halt()
};

// A tree of nothing but the records of the snapshot, and children that events have told of.
class FakeTarget : public RunningTarget {
 public:
  FakeTarget(const SnapshotTarget& from, Script& script)
      : memory_(from.snapshot()), script_(script), readable_(eventfd(1, EFD_CLOEXEC)) {
    memory_.set_changes(from.changes());
    ++script_.launched;
  }
  ~FakeTarget() override { ++script_.dropped; }

  std::vector<Pid> processes() const override { return memory_.processes(); }
  std::vector<Tid> threads(Pid pid) const override {
    if (has_ended(pid)) return {};
    const auto known = memory_.threads(pid);
    return known.empty() && pid == child_.pid ? std::vector{child_.tid} : known;
  }
  bool has(ThreadId thread) const override {
    return thread != dead_ && !has_ended(thread.pid) && (memory_.has(thread) || thread == child_);
  }
  Tid focus(Pid pid) const override { return threads(pid).front(); }
  ThreadDescription describe(ThreadId thread) const override {
    return memory_.has(thread) ? memory_.describe(thread) : ThreadDescription{"child"};
  }
  size_t read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const override {
    return memory_.read_memory(pid, address, out);
  }
  bool write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) override {
    return memory_.write_memory(pid, address, bytes);
  }
  std::optional<Mapping> mapping_at_or_after(Pid pid, uint64_t address) const override {
    return memory_.mapping_at_or_after(pid, address);
  }
  const RegisterLayout& layout() const override { return memory_.layout(); }
  RegisterSet registers(ThreadId thread) const override {
    return memory_.has(thread) ? memory_.registers(thread) : RegisterSet{};
  }
  void set_registers(ThreadId thread, RegisterSet registers) override {
    memory_.set_registers(thread, std::move(registers));
  }
  std::optional<std::string> siginfo(ThreadId thread) const override {
    return memory_.has(thread) ? memory_.siginfo(thread) : std::nullopt;
  }

  int event_descriptor() const override { return readable_.get(); }
  std::optional<Event> next_event() override {
    if (script_.events.empty()) return std::nullopt;
    Event event = script_.events.front();
    script_.events.pop_front();
    if (event.child.pid.value != 0) child_ = event.child;
    return event;
  }
  void set_wishes(Wishes wishes) override { script_.wishes = std::move(wishes); }
  void resume(std::span<const ResumeAction> actions, std::span<const ThreadId> kept) override {
    std::string text = "resume";
    for (const ResumeAction& each : actions) {
      text += fmt::format(" {}{}:{}.{}", each.step ? "s" : "c", each.signal,
                          each.pid.value_or(Pid{}).value, each.tid.value_or(Tid{}).value);
      if (each.range_end != 0) text += fmt::format("[{:x},{:x}]", each.range_start, each.range_end);
    }
    for (const ThreadId& each : kept)
      text += fmt::format(" but {}.{}", each.pid.value, each.tid.value);
    note(text);
  }
  void stop(std::optional<Pid> pid, std::optional<Tid> tid) override {
    note(fmt::format("stop {}.{}", pid.value_or(Pid{}).value, tid.value_or(Tid{}).value));
  }
  void halt() override {
    note("halt");
    dead_ = script_.dying.value_or(ThreadId{});
    ended_ = script_.ended;
  }
  void interrupt() override { note("interrupt"); }
  bool runs(ThreadId) const override { return false; }
  bool stands_still() const override { return script_.standing; }

  bool insert(Pid pid, const Breakpoint& breakpoint) override {
    note(fmt::format("insert {} {} {:x}", pid.value, static_cast<int>(breakpoint.kind),
                     breakpoint.address));
    for (const std::string& condition : breakpoint.code.conditions)
      note("condition " + to_hex(condition));
    for (const std::string& command : breakpoint.code.commands) note("command " + to_hex(command));
    return script_.breakpoints_fit;
  }
  bool remove(Pid pid, const Breakpoint& breakpoint) override {
    note(fmt::format("remove {} {:x}", pid.value, breakpoint.address));
    return script_.breakpoints_fit;
  }
  bool set_siginfo(ThreadId, std::string_view siginfo) override {
    note("siginfo " + to_hex(siginfo.substr(0, 4)));
    return true;
  }
  bool allocate(Pid pid, const Mapping& mapping) override {
    note(fmt::format("allocate {} {:x} {:x}", pid.value, mapping.start, mapping.end));
    return true;
  }
  bool release(Pid pid, const Mapping& mapping) override {
    note(fmt::format("release {} {:x}", pid.value, mapping.start));
    return true;
  }
  void attach(Pid pid) override { note(fmt::format("attach {}", pid.value)); }
  void detach(Pid pid) override { note(fmt::format("detach {}", pid.value)); }
  void kill(Pid pid) override { note(fmt::format("kill {}", pid.value)); }
  std::vector<pb::Process> records() const override {
    pb::Process process;
    process.set_pid(16);
    process.set_name("what it is now");
    return {process};
  }
  IpcObjects ipc_objects() const override { return script_.ipc; }
  std::vector<std::string> notes() const override { return script_.notes; }
  void let_go() override { note("let go"); }
  std::string take_output() override { return std::exchange(script_.output, ""); }
  void send_input(std::string_view text) override { note("input " + std::string(text)); }

 private:
  bool has_ended(Pid pid) const { return std::ranges::find(ended_, pid) != ended_.end(); }
  void note(std::string text) { script_.done.push_back(std::move(text)); }

  SnapshotTarget memory_;
  Script& script_;
  Fd readable_;
  ThreadId child_ = {}, dead_ = {};
  std::vector<Pid> ended_ = {};
};

inline Launcher launcher(Script& script) {
  return [&script](const SnapshotTarget& from, std::span<const Pid>) {
    return std::make_unique<FakeTarget>(from, script);
  };
}

}  // namespace snapgdb::gdbstub
