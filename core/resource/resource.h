#pragma once

#include <sys/stat.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.h"
#include "core/image/snapshot.pb.h"
#include "core/linux/detour.h"
#include "core/linux/freezer.h"
#include "core/linux/socket_diag.h"
#include "core/linux/task.h"
#include "core/resource/file_registry.h"
#include "core/resource/inet_sockets.h"
#include "core/resource/nameless.h"
#include "core/resource/namespaces.h"
#include "core/resource/questions.h"
#include "core/resource/survey.h"

namespace snapgdb {

// What captures share while the tree is stopped. Rows that take Means::kProc run in several
// threads.
struct CaptureContext {
  const FrozenTree& tree;
  Tracees& tracees;  // of use to rows of the tracer's only
  // nullptr: it is held, but not stopped (FrozenTask::in_vfork).
  Tracee* tracee_of(const FrozenTask& task) const {
    return task.in_vfork ? nullptr : &tracees.at(task.tid);
  }
  FileRegistry& files;
  Surveys& surveys;
  std::vector<pb::Missing>& missing;

  NamelessFiles nameless{files};
  OptionGuard option_guard{};
  InetSockets inet{};
  UserNamespaces user_namespaces{};
  Identities descriptions{Identities::Kind::kFileDescription};
  Identities descriptor_tables{Identities::Kind::kDescriptorTable};
  Identities address_spaces{Identities::Kind::kAddressSpace};
  Identities file_systems{Identities::Kind::kFileSystem};
  Identities signal_handlers{Identities::Kind::kSignalHandlers};
  bool ends = false;  // the tree is killed when the image is complete
  // What the kernel tells of sockets, by inode of the network namespace, and of the socket.
  template <typename T>
  using ByNetwork = std::map<uint64_t, std::map<uint64_t, T>>;
  ByNetwork<UnixSocket> unix_sockets{};
  ByNetwork<uint8_t> udp_shutdowns{};
  ByNetwork<std::vector<PacketMembership>> packet_memberships{};
  // By CLOCK_MONOTONIC: what is left of a timer is told as of the moment of the snapshot.
  const uint64_t began_ns = now_ns(CLOCK_MONOTONIC);
  std::mutex mutex{};  // of missing, what is known of sockets, and pipes

  // Whether the content of this pipe or socket (by inode) is still to be taken: one descriptor
  // does.
  bool takes_content_of(uint64_t pipe) {
    const std::lock_guard lock(mutex);
    return pipes.insert(pipe).second;
  }
  std::set<uint64_t> pipes{};
  // Files that are on their way to somebody, by the process that was found to be; and ours, which
  // hold them meanwhile: to be closed before the tree runs on.
  std::map<int32_t, std::vector<pb::Descriptor>> in_flight{};
  std::map<uint32_t, Fd> in_flight_files{};  // by description

  // Network namespaces of the tree's own, by inode, held; and the process that was met in it.
  std::map<uint64_t, std::pair<Pid, Fd>> networks{};

  // Where in a process its tasks can be made to perform system calls (hosts.h).
  struct Ground {
    uint32_t space = 0;  // Process.address_space; set by who asks threads
    std::optional<Detour::Place> place;
    std::string why_not;
  };
  std::map<Pid, Ground> grounds{};  // of the tracer
  // Of the tracer, too; with the threads that are asked together with their process.
  Questions questions{};
  std::set<Tid> asked{};
  std::map<Tid, std::vector<uint32_t>> filters{};  // Thread.seccomp, until the thread's turn
  std::map<int32_t, pb::Keyring> sessions{};       // their keyrings, by serial number
  std::set<Pid> told_of_keys{};                    // in the keyring that its threads share

  // May be called by several threads.
  void lacks(Pid pid, Tid tid, std::string_view resource, std::string_view reason);
};

// A kind of kernel state is one file of this folder and one row in resources.h. Rows are worked off
// in that order; what a row throws is recorded as missing from the image, under its name.

// How a row gets to know, in the order in which those of a process are worked off. ptrace(2) is
// bound to one thread, and others work beside it.
enum class Means {
  kProc,       // /proc and the like, by any thread
  kQuestions,  // tasks are asked from inside: CaptureContext::questions are begun by it
  kPtrace,     // once they have come back: a detour ends a restartable sequence (rseq(2))
};

struct ProcessResource {
  const char* name;
  void (*capture)(CaptureContext&, const FrozenProcess&, pb::Process&);
  Means means = Means::kProc;
  bool of_zombies = false;  // still there once the process has exited
};
std::span<const ProcessResource* const> process_resources();

class StoppedTask {
 public:
  StoppedTask(const FrozenProcess& of, const FrozenTask& which) : process(of), task(which) {}

  const FrozenProcess& process;
  const FrozenTask& task;
  // Each is opened or read at most once, but for what close() lets go of.
  const ProcDirectory& proc() const;  // /proc/PID/task/TID
  const ProcFields& status() const;
  void close() const { proc_.reset(); }  // there may be more tasks than descriptors to be had

 private:
  mutable std::optional<ProcDirectory> proc_;
  mutable std::unique_ptr<const ProcFields> status_;
};
struct ThreadResource {
  const char* name;
  void (*capture)(CaptureContext&, const StoppedTask&, pb::Thread&);
  Means means = Means::kProc;
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
  // Of what is open by its name only (O_PATH), nothing else can be asked.
  bool is_name_only() const { return info.number("flags", 8) & O_PATH; }
};
struct DescriptorResource {
  const char* name;
  bool (*matches)(const OpenDescriptor&);
  void (*capture)(CaptureContext&, const OpenDescriptor&, pb::Descriptor&);
};
std::span<const DescriptorResource* const> descriptor_resources();

// A file that is in a message to `receiver`: the id of its description.
uint32_t capture_in_flight(CaptureContext& context, const FrozenProcess& receiver, Fd file);

// As fdinfo shows them.
void capture_locks(const ProcFields& info, pb::Descriptor& out);
// What epolls watch that goes by no number of their process: when the files of all are known.
void find_watched_elsewhere(CaptureContext& context, std::vector<pb::Process>& processes);
// Whether there is something to be told of, once more, when queues of sockets were read: what came
// from outside until then is in them, and is told of after a restore.
void ask_epolls_again(const CaptureContext& context, std::vector<pb::Process>& processes);
// Of its signals.
void capture_receiver(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out);

// The id of its record, if it is a file without a name; 0 otherwise.
uint32_t nameless_id(CaptureContext& context, const OpenDescriptor& open);

// The same of a mapping whose file has lost its name; if that has another one, it is its from now
// on.
void look_behind(CaptureContext& context, const ProcDirectory& proc, ProcMapping& mapping,
                 pb::Vma& vma);

// "key: value key:value …", as some kinds of descriptors show themselves in fdinfo.
std::map<std::string_view, std::string_view> key_value_pairs(std::string_view line);
uint64_t pair_number(const std::map<std::string_view, std::string_view>& pairs,
                     std::string_view key, int base = 10);

}  // namespace snapgdb
