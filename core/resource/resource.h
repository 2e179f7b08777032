#pragma once

#include <sys/stat.h>

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"
#include "core/linux/freezer.h"
#include "core/linux/task.h"
#include "core/resource/file_registry.h"

namespace snapgdb {

// What captures share while the tree is stopped.
struct CaptureContext {
  const FrozenTree& tree;
  const Tracees& tracees;
  FileRegistry& files;
  std::vector<pb::Missing>& missing;

  Identities descriptions{Identities::Kind::kFileDescription};
  Identities descriptor_tables{Identities::Kind::kDescriptorTable};
  Identities address_spaces{Identities::Kind::kAddressSpace};
  // Unix sockets' other ends, by inode of the network namespace.
  std::map<uint64_t, std::map<uint64_t, uint64_t>> unix_peers{};

  void lacks(Pid pid, Tid tid, std::string_view resource, std::string_view reason);
};

// A kind of kernel state is one file of this folder and one row in resources.h. Rows are worked off
// in that order; what a row throws is recorded as missing from the image, under its name.

struct ProcessResource {
  const char* name;
  void (*capture)(CaptureContext&, const FrozenProcess&, pb::Process&);
  bool of_zombies = false;  // still there once the process has exited
};
std::span<const ProcessResource* const> process_resources();

struct StoppedTask {
  const FrozenProcess& process;
  const FrozenTask& task;
  const ProcDirectory& proc;  // /proc/PID/task/TID
  const Tracee* tracee;       // nullptr: it is not stopped, but held in vfork(2) (task.in_vfork)
};
struct ThreadResource {
  const char* name;
  void (*capture)(CaptureContext&, const StoppedTask&, pb::Thread&);
};
std::span<const ThreadResource* const> thread_resources();

// A descriptor as /proc shows it.
struct OpenDescriptor {
  const FrozenProcess& process;
  int number = 0;
  std::string target;  // of the link in /proc/PID/fd, without " (deleted)"
  bool deleted = false;
  struct stat status {};
  const ProcFields& info;      // /proc/PID/fdinfo/N
  std::string_view info_text;  // the same, as it is
};
struct DescriptorResource {
  const char* name;
  bool (*matches)(const OpenDescriptor&);
  void (*capture)(CaptureContext&, const OpenDescriptor&, pb::Descriptor&);
};
std::span<const DescriptorResource* const> descriptor_resources();

// "key: value key:value …", as some kinds of descriptors show themselves in fdinfo.
std::map<std::string_view, std::string_view> key_value_pairs(std::string_view line);
uint64_t pair_number(const std::map<std::string_view, std::string_view>& pairs,
                     std::string_view key, int base = 10);

}  // namespace snapgdb
