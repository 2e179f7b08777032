#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ids.h"
#include "gdbstub/registers.h"

namespace snapgdb::gdbstub {

struct ThreadId {
  Pid pid;
  Tid tid;
  auto operator<=>(const ThreadId&) const = default;
};

struct ThreadDescription {
  std::string name;
  int cpu = 0;
  int signal = 0;  // Linux's number of the signal being delivered; 0: it just stands still
};

struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  uint32_t protection = 0;  // PROT_*
  std::string name;         // path, [heap] and the like, or ""
};

struct FileStatus {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint32_t mode = 0;  // with the file's type
  uint64_t size = 0;
  int64_t mtime_seconds = 0;
};

class File {
 public:
  virtual ~File() = default;
  // Like pread(2): less than asked only at the end.
  virtual size_t read(uint64_t offset, std::span<std::byte> out) const = 0;
  virtual FileStatus status() const = 0;
};

// Files as one of the processes sees them. Nothing can be written.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual std::unique_ptr<File> open(Pid seen_by, std::string_view path) const = 0;  // or nullptr
  virtual std::optional<std::string> read_link(Pid seen_by, std::string_view path) const = 0;
};

// What a debugger looks at: processes, threads, memory, registers. Reading never changes anything
// and never starts anything. The default of a capability is not to have it.
class Target {
 public:
  virtual ~Target() = default;

  virtual std::vector<Pid> processes() const = 0;
  // In a stable order, the leader first; empty: no such process, or nothing is left of it.
  virtual std::vector<Tid> threads(Pid pid) const = 0;
  virtual bool has(ThreadId thread) const = 0;
  // The thread a debugger should show first. Precondition: the process has threads.
  virtual Tid focus(Pid pid) const = 0;
  virtual ThreadDescription describe(ThreadId thread) const = 0;

  // Reads what there is from `address` on, up to out.size() bytes; returns how much.
  virtual size_t read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const = 0;
  // All of it or (false) nothing.
  virtual bool write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) = 0;
  // The mapping that holds `address`, or else the next one above it.
  virtual std::optional<Mapping> mapping_at_or_after(Pid pid, uint64_t address) const = 0;

  virtual const RegisterLayout& layout() const = 0;
  virtual RegisterSet registers(ThreadId thread) const = 0;
  virtual void set_registers(ThreadId thread, RegisterSet registers) = 0;

  // struct siginfo of the signal being delivered.
  virtual std::optional<std::string> siginfo(ThreadId) const { return std::nullopt; }
  virtual std::optional<std::string> auxv(Pid) const { return std::nullopt; }
  virtual std::optional<std::string> executable(Pid) const { return std::nullopt; }
  virtual const FileSystem* files() const { return nullptr; }
};

}  // namespace snapgdb::gdbstub
