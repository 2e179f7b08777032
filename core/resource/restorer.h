#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/base/fd.h"
#include "core/base/progress.h"
#include "core/image/snapshot.h"
#include "core/linux/lazy_space.h"
#include "core/linux/network_address.h"
#include "core/linux/sandbox.h"
#include "core/linux/seed.h"
#include "core/linux/system_v.h"
#include "core/resource/user_numbers.h"

namespace snapgdb {

// "descriptor 5", or "a descriptor in a message".
std::string called(const pb::Descriptor& descriptor);

// Something that cannot be brought back.
struct Obstacle {
  int32_t pid = 0;
  std::string resource, why, help;
};

// An open file description that a tree needs, for its descriptors or its mappings. All of them are
// opened once, by a process that the whole tree descends from: so they are shared as they were.
struct PlannedFile {
  const pb::Process* process = nullptr;        // one that has it
  const pb::Descriptor* descriptor = nullptr;  // either an example of its descriptors
  const pb::Vma* mapping = nullptr;            // or of its mappings
  bool writable = false;                       // of a mapping: some process may write to it
  std::string path = {};  // of a mapping: where it is opened, if that is not where it was
  std::string what;       // "/usr/lib/libc.so.6", "pipe:[4711]"
  enum class How { kNone, kOpened, kFromImage, kSharedMemory, kStandard, kLeftOut };
  How how = How::kNone;
  // Of kFromImage: its number among those that shall stand where they were, in a sandbox.
  std::optional<size_t> replacement = std::nullopt;
};

// How a process comes into being, and into its session and group. Numbers are those that the tree
// knows; negative ones are nobody's, for who may have any.
struct Birth {
  enum class Step {
    kClone,
    kSetsid,
    kSetpgid,
    kExit,
    kTemporary,    // somebody who is not of the snapshot is born
    kEnd,          // of such a one; its parent reaps it
    kAdoptOrphans  // becomes a subreaper (other: 1), or is none any more (0)
  };
  Step step = Step::kClone;
  int32_t pid = 0;
  int32_t other =
      0;  // kClone, kTemporary, kEnd: the parent, 0: none of the tree; kSetpgid: the group
  uint64_t shares = 0;  // kClone: with the parent, flags of clone(2)
  // kTemporary: also in pid namespaces below, as all_numbers() has those of others. kSetpgid: those
  // of a leader who is there for a moment, as the process knows them.
  std::vector<int32_t> numbers = {};
};

// What becomes of the System V objects of one ipc namespace; those that are not made are there, and
// used as they are.
struct SystemVObjects {
  const pb::SystemV* objects = nullptr;
  std::set<std::pair<IpcKind, int>> made = {};     // by number
  std::set<std::pair<IpcKind, int>> changed = {};  // there, but not as the tree has left them
  // Shared memory that is attached by its number. Others are memory without one.
  std::map<uint64_t, const pb::SharedMemorySegment*> segments = {};
};
struct SystemVPlan {
  bool own_namespace = false;  // the tree's first process gets an ipc namespace of its own
  std::map<uint64_t, SystemVObjects> spaces;  // by the namespace that they were in
  uint64_t room = 0;  // where they can be attached that shall not be there as a whole
};

// Of a POSIX message queue that descriptors lead to.
struct MessageQueuePlan {
  using Key = std::pair<uint64_t, uint64_t>;  // device and inode
  const pb::Descriptor* example = nullptr;    // which has its messages, if any has
  std::string name = {};  // by which it is opened; one that was removed loses it again
  bool made = false;      // it is not there any more
  uint64_t space = 0;     // the ipc namespace that it was in
};

// What a restore will do. A pure function of the snapshot and the options.
struct RestorePlan {
  bool isolated = false;
  bool own_user = false;  // it gets a user namespace of its own, also where it is not isolated
  // Whose users and groups that one has, under which numbers; nullptr: ours, under their own.
  const pb::NamespaceState* user_space = nullptr;
  UserNumbers numbers;
  // As whom the first process runs, by the numbers outside and inside (kNone: it has none there).
  uint32_t outside_user = 0, outside_group = 0, user = 0, group = 0;
  // What its own uts namespace and its own mount namespace hold; nullptr: they are ours.
  const pb::NamespaceState *names = nullptr, *mounts = nullptr;
  const pb::NamespaceState* network = nullptr;  // the same of its own network namespace
  bool own_cgroups = false;                     // it gets a cgroup namespace
  // Others that processes of it are in, below those: owners before what they own.
  std::vector<const pb::NamespaceState*> spaces;
  // Of mounts: made when somebody is there, in whose pid namespace they are made.
  struct MountSpace {
    const pb::NamespaceState* state;
    const pb::Process* member;
  };
  std::vector<MountSpace> mount_spaces;
  // What becomes of connections to outside of the tree.
  enum class Connections { kRefused, kKept, kClosed };
  Connections connections = Connections::kRefused;
  bool lazy = false;  // private memory comes when it is touched, or later
  uint64_t seed_base = 0;
  SystemVPlan system_v;
  std::map<MessageQueuePlan::Key, MessageQueuePlan> message_queues;
  std::set<std::pair<std::string, std::string>> cgroups;  // into which it is put: hierarchy, path
  // Where its cgroup namespace begins, of hierarchies in which that is not where we are.
  std::set<std::pair<std::string, std::string>> cgroup_roots = {};
  // Where those below begin, likewise.
  std::set<std::pair<std::string, std::string>> cgroup_roots_below = {};
  uint64_t kernel_parts_at = 0;  // beside those of the snapshot, which are another kernel's; 0: in
                                 // their places
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

// The first thread's; or, once that has exited alone, the next one's.
using SeedOf = std::function<Seed&(const pb::Process&)>;

class UnixNetwork;  // of unix_network.cc
class NestedSpaces;

// What opens files knows of each other: two descriptions of one pipe, of one memfd.
struct OpeningContext {
  const Snapshot& snapshot;
  const RestorePlan& plan;
  const Sandbox* sandbox = nullptr;  // where they are opened, if there is one
  struct OpenPipe {
    PipeEnds ends;
    bool read_taken = false, write_taken = false;  // as the description of some descriptor
  };
  std::map<uint64_t, OpenPipe> pipes = {};  // by inode
  // Memory, and files without a name: by device and inode, or (0, FileRecord.id) if they have one.
  using ObjectKey = std::pair<uint64_t, uint64_t>;
  static ObjectKey key_of(const pb::Descriptor& descriptor);
  static ObjectKey key_of(const pb::Vma& mapping);
  std::map<ObjectKey, Fd> objects = {};
  std::shared_ptr<UnixNetwork> unix_sockets = nullptr;
  bool closes_connections = false;                // to outside of the tree
  const pb::Process* holder = nullptr;            // PlannedFile.process of what is being opened
  UserNumbers numbers = {};                       // of users and groups, where it is opened
  const NestedSpaces* spaces = nullptr;           // those below the first process's
  std::set<NetworkAddress> local_addresses = {};  // that the sandbox has been given
  std::vector<std::string> notes = {};            // what turned out to be otherwise than it was
};

// What restorers share. They run in the conductor's thread, after every process is there.
struct RestoreContext {
  const Snapshot& snapshot;
  const RestorePlan& plan;
  Tid keeper;                       // the process that has the files of the plan
  std::vector<std::string>& notes;  // what turned out to be otherwise than it was
  std::vector<LazySpace>& lazy;     // whose memory is not there yet
  std::map<size_t, Fd>& late;       // files of the plan that are not the keeper's, by place
  Progress* progress;               // counts stored_memory(); nullptr: nobody looks
  SeedOf seed_of;

  // Performs what is on the seed's list; what could not be done is noted.
  void perform(Seed& seed, int32_t id);
};

inline bool is_zombie(const pb::Process& process) {
  return process.state() == "Z";
}

// The numbers of a task as its program knows them.
int32_t own_number(const pb::Process& process);
int32_t own_number(const pb::Thread& thread);
// As the tree's first process knows them: in a restore, each is a task's only one.
int32_t tree_number(const Snapshot& snapshot, const pb::Process& process);
int32_t tree_number(const Snapshot& snapshot, const pb::Thread& thread);
// As `viewer` does; 0: it is in no pid namespace at or below hers. `process`: the thread's.
int32_t number_for(const Snapshot& snapshot, const pb::Process& process, const pb::Process& viewer);
int32_t number_for(const Snapshot& snapshot, const pb::Thread& thread, const pb::Process& process,
                   const pb::Process& viewer);
// In each pid namespace from its own up to that of the first process, as clone3(2) takes them.
std::vector<int32_t> all_numbers(const Snapshot& snapshot, const pb::Process& process);
std::vector<int32_t> all_numbers(const Snapshot& snapshot, const pb::Thread& thread);

// Bytes of a process's memory that its image has.
uint64_t stored_memory(const Snapshot& snapshot, const pb::Process& process);

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

// Of a thread that is about to exit alone: its name and its rights.
void restore_alone(RestoreContext& context, const pb::Process& process, const pb::Thread& thread,
                   Seed& seed);

// The end of it: what the program sees from now on. The task must not have been in user space since
// its last stop.
void set_program_registers(const Snapshot& snapshot, const pb::Process& process,
                           const pb::Thread& thread, Tracee& task);

// The action of SIGTRAP, after the last list of calls that ends in a trap.
void restore_trap_action(const pb::Process& process, Seed& seed);

// What begins to run as soon as it is there: last of all. Timers are numbered from 0, in a process
// that has had none.
void start_timers(const pb::Process& process, Seed& seed);

// Seccomp: then they have to be suspended before the first child is born.
bool has_filters(const Snapshot& snapshot);
// `why` is "" if there is none.
Obstacle seccomp_obstacle(const pb::Process& process, const pb::Thread& thread, bool is_root);
// The task must not perform any system call of ours afterwards.
void restore_dispatch(const pb::Thread& thread, Tracee& task);

// Opens what is planned, where Keeper::OpenFiles runs; in the order of plan.files. Nothing else
// stays open.
std::vector<Fd> open_files(OpeningContext& context, const RestorePlan& plan);
// When all of them are open: what sockets hold of each other and of other files.
void finish_sockets(OpeningContext& context, const RestorePlan& plan, std::span<const Fd> files);
// What takes rights that the keeper may lack, in a user namespace of its own: to be done before.
void prepare_shared_memory(OpeningContext& context, const RestorePlan& plan);
// Another description of an open object, with flags of open(2), at the position of the descriptor;
// or the very same one.
Fd open_again(const Fd& object, uint32_t flags, const pb::Descriptor& descriptor, bool same);
// Owner, rights and times of what has no name: they would be in the way while it is being opened.
void finish_nameless(OpeningContext& context);
// Why it cannot be opened again by its path, as such a file; "" if it can.
std::string path_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor);
void go_to_position(const Fd& file, const pb::Descriptor& descriptor);
// The file without a name that a descriptor leads to, made when it is first asked for: with its
// content, unless that comes with the mappings.
const Fd& nameless_object(OpeningContext& context, const pb::Descriptor& descriptor);
// "" if it is.
inline constexpr const char* kNotInImage = "its content is not in the image";
std::string why_not_in_image(const Snapshot& snapshot, uint32_t file);
std::string why_not_in_image(const Snapshot& snapshot, const pb::Descriptor& descriptor);
// That of a mapping: the file, its content from the image, or shared memory.
Fd open_mapped(OpeningContext& context, const PlannedFile& file);

// Once the process has its descriptors, and still those of the plan: what its epolls watch.
void watch_again(RestoreContext& context, const pb::Process& process, Seed& seed);
// When all files are as they were: of what was told already, nobody is told again.
void settle_epolls(RestoreContext& context);

// What is opened once the tree is there, by a task of it.
struct LateOpening {
  const RestoreContext& context;
  const pb::Process& process;
  Seed& opener;  // a task of that one
  // A process of the tree's pid namespace that has ended, and is not reaped before all is open.
  struct Ended {
    Seed* parent = nullptr;
    int64_t number = 0;
  };
  std::map<uint64_t, Ended>& ended;  // by inode of the descriptors that lead to it

  // What a call of the opener gives, and nobody else has.
  Fd take(const std::string& what, long number, const SystemCallArguments& arguments);
};

// A kind of descriptor, by its member of Descriptor.kind.
struct DescriptorRestorer {
  pb::Descriptor::KindCase kind;
  // Why it cannot be opened again; "" if it can.
  std::string (*obstacle)(const Snapshot&, const pb::Descriptor&);
  Fd (*open)(OpeningContext&, const pb::Descriptor&);  // throws Error
  // What will be otherwise than it was; "" if nothing.
  std::string (*note)(const pb::Descriptor&) = [](const pb::Descriptor&) { return std::string(); };
  // Of what leads to tasks of the tree: opens it when they are there; the keeper's is in its place
  // until then. Invalid: that is the right one.
  Fd (*open_late)(LateOpening&, const pb::Descriptor&) = nullptr;
  // Last of all: sets going what has been opened, or undoes what the restore has done to it.
  void (*start)(RestoreContext&, const pb::Descriptor&, const Fd&) = nullptr;
};
// nullptr: that kind cannot be restored yet.
const DescriptorRestorer* restorer_of(const pb::Descriptor& descriptor);

// Whether somebody outside of the tree gave it the socket, as a standard stream.
bool is_socket_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor);

// Opens what had that name when it was captured, where root restores for another user, the
// holder's: a link that has come into the way since is followed with that user's rights, not with
// ours. Not valid, with errno: as open(2).
Fd open_for_holder(const OpeningContext& context, const std::string& path, int flags);

// A device through which a sandbox would write to what is not its own: a disk, memory.
bool writes_to_hardware(const pb::Descriptor& descriptor);
bool is_tcp_connection(const pb::Descriptor& descriptor);
// Whether it is a TCP connection whose other end is not in the tree.
bool is_outside_connection(const Snapshot& snapshot, const pb::Descriptor& descriptor);
bool has_outside_connections(const Snapshot& snapshot);
// Connections of the tree were silent up to now, so that others see nothing of a restore that
// fails.
void let_connections_go(const RestoreContext& context);
// The plan's files, from plan.files.size() on: a socket through which a seed is given descriptors,
// and the end of it that is ours.
inline constexpr size_t kDeliverySockets = 2;
void add_delivery_sockets(std::vector<Fd>& files);
// By what their kinds have for it: all that is opened late, in the tables of those who have it;
// before any of them has its descriptors in place. Then messages that carry it are sent.
void open_late_files(RestoreContext& context);
// Whether it is: something stands for it until then.
bool is_opened_late(const Snapshot& snapshot, const pb::Descriptor& descriptor);
void start_files(RestoreContext& context);
// A file of the plan. Throws SystemError.
Fd planned_file(const RestoreContext& context, size_t place);
// Gives a seed, which has the plan's files, another descriptor, under a number.
void give_descriptor(const RestoreContext& context, Seed& seed, const Fd& file, int number,
                     const std::string& what);

// File locks, as far as they are free. Those of files once, those of processes when they have their
// descriptors.
void take_locks_of_files(RestoreContext& context);
void take_locks_of_process(RestoreContext& context, const pb::Process& process, Seed& seed);

// Of the signals of its descriptors, when it has them.
void restore_receivers(RestoreContext& context, const pb::Process& process, Seed& seed);

// brk(2) of 0. The image has the lower half of it; the upper is that of the heap's end, which is
// less than a page away.
uint64_t program_break(const pb::Process& process);

// Of a directory, as /proc has it, that was removed: the name it had.
std::optional<std::string> removed_name(const std::string& directory);

// Whether its root directory is another one than ours (chroot(2)).
bool has_other_root(const pb::Process& process);

// Whether the machine has the huge pages (hugetlb) that the tree needs.
void check_huge_pages(const Snapshot& snapshot, RestorePlan& plan);

// Whether others have the names of its unix sockets now.
void check_unix_names(const Snapshot& snapshot, RestorePlan& plan);

// Everything on it fails as on a connection that was lost.
Fd lost_connection();

// What stands for the standard streams of a tree that had them from outside: the number of ours
// that the descriptor was, or else standard error; nullopt: it is something of the tree's own.
std::optional<int> standard_stream(const Snapshot& snapshot, const pb::Descriptor& descriptor);

}  // namespace snapgdb
