#pragma once

#include <map>
#include <memory>

#include "core/image/snapshot.h"
#include "gdbstub/image_files.h"
#include "gdbstub/memory_overlay.h"
#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// Answers from a snapshot. What a debugger changes goes to an overlay of this object's own: neither
// the image nor another session sees it.
class SnapshotTarget : public Target {
 public:
  explicit SnapshotTarget(std::shared_ptr<const Snapshot> snapshot);

  std::vector<Pid> processes() const override;
  std::vector<Tid> threads(Pid pid) const override;
  bool has(ThreadId thread) const override { return find(thread) != nullptr; }
  Tid focus(Pid pid) const override;
  ThreadDescription describe(ThreadId thread) const override;

  size_t read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const override;
  bool write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) override;
  std::optional<Mapping> mapping_at_or_after(Pid pid, uint64_t address) const override;

  const RegisterLayout& layout() const override { return layout_; }
  RegisterSet registers(ThreadId thread) const override;
  void set_registers(ThreadId thread, RegisterSet registers) override;

  std::optional<std::string> siginfo(ThreadId thread) const override;
  std::optional<std::string> auxv(Pid pid) const override;
  std::optional<std::string> executable(Pid pid) const override;
  const FileSystem* files() const override { return &files_; }

  // Memory of the debugger's own, where the program has none: zeros at first. It becomes real when
  // the moment is made to run. nullopt: there is no room.
  std::optional<Mapping> allocate(Pid pid, uint64_t size, uint32_t protection);
  // What began there; nullopt: nothing of the kind.
  std::optional<Mapping> release(Pid pid, uint64_t start);

  // What a debugger has changed: by address space, by thread.
  struct Changes {
    std::map<uint32_t, MemoryOverlay> memory;
    std::map<uint32_t, std::map<uint64_t, Mapping>> allocated;  // by start
    std::map<ThreadId, RegisterSet> registers;
  };
  const Changes& changes() const { return changes_; }
  void set_changes(Changes changes) { changes_ = std::move(changes); }
  // All but what it has allocated, which it goes on to use, is as it was.
  void revert();
  const std::shared_ptr<const Snapshot>& snapshot() const { return snapshot_; }

 private:
  const pb::Thread* find(ThreadId thread) const;
  MemoryOverlay::ReadBelow below(const pb::Process& process) const;

  std::shared_ptr<const Snapshot> snapshot_;
  RegisterLayout layout_;
  std::map<ThreadId, const pb::Thread*> threads_;
  Changes changes_;
  ImageFiles files_;
};

// What its processor had: XCR0.
uint64_t xcr0_of(const Snapshot& snapshot);

}  // namespace snapgdb::gdbstub
