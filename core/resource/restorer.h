#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.h"
#include "core/linux/lazy_space.h"
#include "core/linux/seed.h"

namespace snapgdb {

// Something that cannot be brought back.
struct Obstacle {
  int32_t pid = 0;
  std::string resource, why, help;
};

// An open file description that a tree needs, for its descriptors or its mappings. All of them are
// opened once, by a process that the whole tree descends from: so they are shared as they were.
struct PlannedFile {
  const pb::Descriptor* descriptor = nullptr;  // either an example of its descriptors
  const pb::Vma* mapping = nullptr;            // or of its mappings
  bool writable = false;                       // of a mapping: some process may write to it
  std::string what;                            // "/usr/lib/libc.so.6", "pipe:[4711]"
  enum class How { kNone, kOpened, kFromImage, kSharedMemory, kStandard, kLeftOut };
  How how = How::kNone;
};

// How a process comes into being, and into its session and group.
struct Birth {
  enum class Step { kClone, kSetsid, kSetpgid, kExit };
  Step step = Step::kClone;
  int32_t pid = 0;
  int32_t other = 0;  // kClone: the parent, 0: none of the tree; kSetpgid: the group
};

// What a restore will do. A pure function of the snapshot and the options.
struct RestorePlan {
  bool lazy = false;  // private memory comes when it is touched, or later
  uint64_t seed_base = 0;
  int file_base = 0;  // files[i] is descriptor file_base + i of every process, until it is complete
  std::vector<PlannedFile> files;
  std::vector<Birth> births;
  std::vector<Obstacle> obstacles;  // nothing is begun if there are any
  std::vector<std::string> notes;   // what will be otherwise than it was

  // The descriptor that leads to it; -1: there is none.
  int file_of(const pb::Descriptor& descriptor) const;
  int file_of(const pb::Vma& mapping) const;

  std::map<uint32_t, size_t> by_description;
  using MappedFile = std::tuple<uint64_t, uint64_t, std::string>;  // device, inode, name
  static MappedFile key_of(const pb::Vma& mapping);
  std::map<MappedFile, size_t> by_mapping;
};

// What opens files knows of each other: two descriptions of one pipe, of one memfd.
struct OpeningContext {
  const Snapshot& snapshot;
  struct OpenPipe {
    PipeEnds ends;
    bool read_taken = false, write_taken = false;  // as the description of some descriptor
  };
  std::map<uint64_t, OpenPipe> pipes = {};                   // by inode
  std::map<std::pair<uint64_t, uint64_t>, Fd> objects = {};  // by device and inode: memory
};

// What restorers share. They run in the conductor's thread, after every process is there.
struct RestoreContext {
  const Snapshot& snapshot;
  const RestorePlan& plan;
  Tid keeper;                       // the process that has the files of the plan
  std::vector<std::string>& notes;  // what turned out to be otherwise than it was
  std::vector<LazySpace>& lazy;     // whose memory is not there yet
};

// The numbers of a task as its program knows them.
int32_t own_number(const pb::Process& process);
int32_t own_number(const pb::Thread& thread);

// Its memory, first of all: a child is born with that of its parent. `parent`: the process whose
// memory was restored before this one was born; nullptr: none.
void restore_memory(RestoreContext& context, const pb::Process& process, const pb::Process* parent,
                    Seed& seed);

// Capture's counterpart, in the same file where the resource allows it; in the order of the lists
// in resources.h. What one throws ends the restore.
struct ProcessRestorer {
  const char* name;
  void (*restore)(RestoreContext&, const pb::Process&, Seed&);
};
struct ThreadRestorer {
  const char* name;
  void (*restore)(RestoreContext&, const pb::Process&, const pb::Thread&, Seed&);
};
std::span<const ProcessRestorer* const> process_restorers();
std::span<const ThreadRestorer* const> thread_restorers();

// The end of it: what the program sees from now on. The task must not have been in user space since
// its last stop.
void set_program_registers(const Snapshot& snapshot, const pb::Process& process,
                           const pb::Thread& thread, Tracee& task);

// What begins to run as soon as it is there: last of all. Timers are numbered from 0, in a process
// that has had none.
void start_timers(const pb::Process& process, Seed& seed);

// Opens what is planned, in the keeper; in the order of plan.files.
std::vector<Fd> open_files(const Snapshot& snapshot, const RestorePlan& plan);
// That of a mapping: the file, its content from the image, or shared memory.
Fd open_mapped(OpeningContext& context, const PlannedFile& file);

// A kind of descriptor, by its member of Descriptor.kind.
struct DescriptorRestorer {
  pb::Descriptor::KindCase kind;
  // Why it cannot be opened again; "" if it can.
  std::string (*obstacle)(const Snapshot&, const pb::Descriptor&);
  Fd (*open)(OpeningContext&, const pb::Descriptor&);  // throws Error
};
// nullptr: that kind cannot be restored yet.
const DescriptorRestorer* restorer_of(const pb::Descriptor& descriptor);

// What stands for the standard streams of a tree that had them from outside: the number of ours
// that the descriptor was, or else standard error; nullopt: it is something of the tree's own.
std::optional<int> standard_stream(const Snapshot& snapshot, const pb::Descriptor& descriptor);

}  // namespace snapgdb
