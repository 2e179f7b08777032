#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <thread>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/message_queue.h"
#include "core/resource/mounts.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"
#include "core/resource/terminal.h"
#include "core/resource/unix_messages.h"

namespace snapgdb {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

void describe(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  const auto flags = static_cast<uint32_t>(open.info.number("flags", 8));
  out.set_number(open.number);
  out.set_close_on_exec(flags & O_CLOEXEC);
  out.set_flags(flags & ~static_cast<uint32_t>(O_CLOEXEC));
  out.set_position(open.info.number("pos"));
  out.set_mount_id(static_cast<int32_t>(open.info.number("mnt_id")));
  out.set_target(open.target);
  out.set_mode(open.status.st_mode);
  out.set_device(open.status.st_dev);
  out.set_inode(open.status.st_ino);
  out.set_size(static_cast<uint64_t>(open.status.st_size));
  out.set_description(context.descriptions.of(open.process.a_task(), open.number));
  capture_locks(open.info, out);
  capture_receiver(context, open, out);
  const auto rows = descriptor_resources();
  const auto row = std::ranges::find_if(rows, [&](const auto* r) { return r->matches(open); });
  (*row)->capture(context, open, out);
}

void capture_one(CaptureContext& context, const FrozenProcess& frozen, int number,
                 pb::Descriptor& out) {
  const ProcDirectory& proc = frozen.task_proc;
  const std::string name = std::to_string(number);
  const std::string text = proc.read(("fdinfo/" + name).c_str());
  const ProcFields info(text);
  OpenDescriptor open{.process = frozen,
                      .number = number,
                      .target = proc.link("fd/" + name),
                      .info = info,
                      .info_text = text};
  open.deleted = open.target.ends_with(kDeleted);
  if (open.deleted) open.target.resize(open.target.size() - kDeleted.size());
  if (::fstatat(proc.fd(), ("fd/" + name).c_str(), &open.status, 0) != 0)
    open.status = {};  // on a file system that does not answer; the rest is known all the same
  describe(context, open, out);
}

// Those on their way to it were found in the queues of its sockets.
void add_in_flight(CaptureContext& context, pb::Process& process) {
  const std::lock_guard lock(context.mutex);
  const auto found = context.in_flight.find(process.pid());
  if (found == context.in_flight.end()) return;
  for (pb::Descriptor& descriptor : found->second) {
    descriptor.set_number(kInFlight);
    *process.add_in_flight() = std::move(descriptor);
  }
  context.in_flight.erase(found);
}

// A connection takes a hundred system calls: of very many, each processor reads its share.
void capture_all(CaptureContext& context, const FrozenProcess& frozen,
                 const std::vector<int>& numbers, pb::Process& process) {
  constexpr size_t kShare = 100, kMaxReaders = 8;
  std::vector<pb::Descriptor*> records;
  for (size_t i = 0; i < numbers.size(); ++i) records.push_back(process.add_descriptors());
  std::atomic<size_t> next = 0;
  const auto read = [&] {
    for (size_t i = next++; i < numbers.size(); i = next++)
      capture_one(context, frozen, numbers[i], *records[i]);
  };
  const size_t readers = std::min<size_t>(std::thread::hardware_concurrency(), kMaxReaders);
  std::vector<std::future<void>> others;
  for (size_t i = 1; i < std::min(readers, numbers.size() / kShare); ++i)
    others.push_back(std::async(std::launch::async, read));
  read();
  for (std::future<void>& other : others) other.get();
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  process.set_descriptor_table(context.descriptor_tables.of(frozen.a_task()));
  std::vector<int> numbers;
  for (const std::string& name : frozen.task_proc.list("fd"))
    if (const auto number = parse_number<int>(name)) numbers.push_back(*number);
  std::ranges::sort(numbers);
  capture_all(context, frozen, numbers, process);
  add_in_flight(context, process);
}

// ---- Restoring ----------------------------------------------------------------------------------

bool has_other_end(const Snapshot& snapshot, const pb::Descriptor& end) {
  const bool reads = (end.flags() & O_ACCMODE) == O_RDONLY;
  bool found = false;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& other) {
      found |= other.has_pipe() && other.inode() == end.inode() &&
               ((other.flags() & O_ACCMODE) == O_RDONLY) != reads;
    });
  return found;
}

// By the last of those that share a table: the others' memory is mapped from what is closed here.
void restore(RestoreContext& context, const pb::Process& process, Seed& seed) {
  if (!is_last_to_share(context.snapshot, process, kDescriptors)) return;
  const auto base = static_cast<uint64_t>(context.plan.file_base);
  seed.add("close descriptors", SYS_close_range, {0, base - 1, 0});
  for (const pb::Descriptor& descriptor : process.descriptors()) {
    const int from = context.plan.file_of(descriptor);
    seed.add(fmt::format("open descriptor {}", descriptor.number()), SYS_dup3,
             {static_cast<uint64_t>(from), static_cast<uint64_t>(descriptor.number()),
              descriptor.close_on_exec() ? uint64_t{O_CLOEXEC} : 0});
  }
  seed.perform();
  watch_again(context, process, seed);
  seed.call("close descriptors", SYS_close_range, {base, ~0u, 0});
  register_for_messages(context, process, seed);
  take_locks_of_process(context, process, seed);  // closing anything would lose them again
  restore_receivers(context, process, seed);      // whom breaking a lease would tell
}

}  // namespace

uint32_t capture_in_flight(CaptureContext& context, const FrozenProcess& receiver, Fd file) {
  const Pid us{::getpid()};
  const int number = file.get();
  uint32_t description = 0;
  {
    const std::lock_guard lock(context.mutex);
    description = context.descriptions.of_ours(number);
    // A new one stays open, since descriptions are told apart by it.
    if (!context.in_flight_files.try_emplace(description, std::move(file)).second)
      return description;
  }
  const FrozenProcess holder(receiver.pid, ProcDirectory::of(us), ProcDirectory::of(us),
                             {FrozenTask{leader_of(us)}});
  pb::Descriptor descriptor;
  capture_one(context, holder, number, descriptor);
  const std::lock_guard lock(context.mutex);
  context.in_flight[receiver.pid.value].push_back(std::move(descriptor));
  return description;
}

std::string called(const pb::Descriptor& descriptor) {
  return descriptor.number() == kInFlight ? "a descriptor in a message"
                                          : fmt::format("descriptor {}", descriptor.number());
}

std::optional<int> standard_stream(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const bool is_standard = descriptor.number() != kInFlight && descriptor.number() <= STDERR_FILENO;
  if (is_own_terminal(snapshot, descriptor) || is_machines_terminal(snapshot, descriptor) ||
      descriptor.device_node().hung_up())
    return std::nullopt;
  if (descriptor.has_device_node() && descriptor.device_node().terminal()) {
    if (is_standard) return descriptor.number();
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
      if (::isatty(fd)) return fd;
  }
  if (!is_standard) return std::nullopt;
  // What is read from a memfd is in the image; what is written to one may be read outside.
  const bool is_from_outside =
      (descriptor.has_memfd() && descriptor.number() != STDIN_FILENO) ||
      (descriptor.has_socket() && is_socket_from_outside(snapshot, descriptor)) ||
      (descriptor.has_pipe() && !descriptor.pipe().alone() && !has_other_end(snapshot, descriptor));
  return is_from_outside ? std::optional(descriptor.number()) : std::nullopt;
}

Fd lost_connection() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw_errno("cannot make a socket");
  const Fd other(ends[1]);
  return Fd(ends[0]);
}

namespace {

// What a sandbox has not, or not to be written to, is as if its other end had gone.
Fd open_or_lose(OpeningContext& context, const pb::Descriptor& descriptor) try {
  return restorer_of(descriptor)->open(context, descriptor);
} catch (const SystemError& error) {
  const bool is_file =
      descriptor.has_file() || descriptor.has_directory() || descriptor.has_device_node();
  if (!context.sandbox || !is_file) throw;
  context.notes.push_back(error.what());
  return lost_connection();
}

Fd open_planned(OpeningContext& context, const PlannedFile& file) {
  const pb::Descriptor& descriptor = *file.descriptor;
  if (file.how == PlannedFile::How::kLeftOut) return lost_connection();
  if (file.how != PlannedFile::How::kStandard) return open_or_lose(context, descriptor);
  const int number = *standard_stream(context.snapshot, descriptor);
  Fd stream(::fcntl(number, F_DUPFD_CLOEXEC, 0));
  if (!stream.valid()) throw_errno("cannot duplicate descriptor {}", number);
  return stream;
}

}  // namespace

// Descriptors first: they know more of a memfd than mappings do.
std::vector<Fd> open_files(OpeningContext& context, const RestorePlan& plan) {
  std::vector<Fd> files(plan.files.size());
  const auto open_all = [&](auto PlannedFile::*which, auto open) {
    for (size_t i = 0; i < files.size(); ++i) {
      context.holder = plan.files[i].process;
      if (plan.files[i].*which) files[i] = open(context, plan.files[i]);
    }
    context.holder = nullptr;
  };
  open_all(&PlannedFile::descriptor, open_planned);
  open_all(&PlannedFile::mapping, open_mapped);
  finish_sockets(context, plan, files);
  finish_nameless(context);
  finish_message_queues(context, plan, files);
  finish_terminals(context, plan, files);
  return files;
}

// ---- What is opened when the tree is there ------------------------------------------------------

namespace {

using OpenLate = Fd (*)(LateOpening&, const pb::Descriptor&);
using Start = void (*)(RestoreContext&, const pb::Descriptor&, const Fd&);

// What its kind has for it; nullptr: nothing, or it is not opened at all.
template <typename Function>
Function own_way(const PlannedFile& file, Function DescriptorRestorer::*way) {
  const bool is_opened = file.descriptor && file.how == PlannedFile::How::kOpened;
  return is_opened ? restorer_of(*file.descriptor)->*way : nullptr;
}

void send_descriptor(const Fd& socket, const Fd& file) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  cmsghdr& header = *CMSG_FIRSTHDR(&message);
  header.cmsg_level = SOL_SOCKET, header.cmsg_type = SCM_RIGHTS;
  header.cmsg_len = CMSG_LEN(sizeof(int));
  const int number = file.get();
  std::memcpy(CMSG_DATA(&header), &number, sizeof number);
  if (::sendmsg(socket.get(), &message, 0) != 1) throw_errno("cannot give a seed a descriptor");
}

bool holds(const pb::Process& process, const PlannedFile& file) {
  return !is_zombie(process) &&
         std::ranges::any_of(process.descriptors(), [&](const pb::Descriptor& descriptor) {
           return descriptor.description() == file.descriptor->description();
         });
}

// Somebody who has it; of what is in a mount namespace below, who is there, too, or else anybody
// there.
const pb::Process& opener_of(const Snapshot& snapshot, const PlannedFile& file) {
  const pb::NamespaceState* mounts = mounts_of(snapshot, *file.descriptor);
  const bool is_outside = !is_below(snapshot, mounts);
  const auto is_there = [&](const pb::Process& process) {
    return !is_zombie(process) && is_last_to_share(snapshot, process, kDescriptors) &&
           (is_outside || mounts_of(snapshot, process) == mounts);
  };
  const auto& all = snapshot.processes();
  auto opener = std::ranges::find_if(
      all, [&](const pb::Process& process) { return holds(process, file) && is_there(process); });
  if (opener == all.end()) opener = std::ranges::find_if(all, is_there);
  return opener != all.end() ? *opener : snapshot.root();
}

}  // namespace

void add_delivery_sockets(std::vector<Fd>& files) {
  int ends[kDeliverySockets];
  if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw_errno("cannot make a socket");
  for (const int end : ends) files.emplace_back(end);
}

Fd LateOpening::take(const std::string& what, long number, const SystemCallArguments& arguments) {
  const int64_t there = opener.call(what, number, arguments);
  Fd fd = duplicate_descriptor(opener.tid(), static_cast<int>(there));
  if (!fd.valid()) throw_errno("cannot {}", what);
  opener.call("close a descriptor", SYS_close, {static_cast<uint64_t>(there)});
  return fd;
}

void open_late_files(RestoreContext& context) {
  const RestorePlan& plan = context.plan;
  std::map<uint64_t, LateOpening::Ended> ended;
  for (size_t i = 0; i < plan.files.size(); ++i) {
    const PlannedFile& file = plan.files[i];
    const OpenLate open = own_way(file, &DescriptorRestorer::open_late);
    if (!open) continue;
    const pb::Process& opener = opener_of(context.snapshot, file);
    LateOpening opening{context, opener, context.seed_of(opener), ended};
    Fd opened = open(opening, *file.descriptor);
    if (!opened.valid()) continue;
    for (const pb::Process& process : context.snapshot.processes())
      if (holds(process, file) && is_last_to_share(context.snapshot, process, kDescriptors))
        give_descriptor(context, context.seed_of(process), opened,
                        plan.file_base + static_cast<int>(i), file.what);
    context.late.emplace(i, std::move(opened));
  }
  for (const auto& [inode, process] : ended)
    process.parent->call("reap a process", SYS_wait4,
                         {static_cast<uint64_t>(process.number), 0, __WALL, 0});
  fill_sockets_late(context);
}

Fd planned_file(const RestoreContext& context, size_t place) {
  const auto late = context.late.find(place);
  Fd same =
      late != context.late.end()
          ? Fd(::fcntl(late->second.get(), F_DUPFD_CLOEXEC, 0))
          : duplicate_descriptor(context.keeper, context.plan.file_base + static_cast<int>(place));
  if (!same.valid()) throw_errno("cannot reach {}", context.plan.files[place].what);
  return same;
}

void give_descriptor(const RestoreContext& context, Seed& seed, const Fd& file, int number,
                     const std::string& what) {
  const int seeds_end = context.plan.file_base + static_cast<int>(context.plan.files.size());
  const Fd our_end = duplicate_descriptor(context.keeper, seeds_end + 1);
  if (!our_end.valid()) throw_errno("cannot reach the seeds");
  send_descriptor(our_end, file);
  seed.receive("take over " + what, seeds_end, number);
}

void start_files(RestoreContext& context) {
  const RestorePlan& plan = context.plan;
  for (size_t i = 0; i < plan.files.size(); ++i) {
    const Start start = own_way(plan.files[i], &DescriptorRestorer::start);
    if (!start) continue;
    start(context, *plan.files[i].descriptor, planned_file(context, i));
  }
}

const ProcessRestorer kDescriptorRestorer{"descriptors", restore};
const ProcessResource kDescriptorTable{"descriptors", capture};

}  // namespace snapgdb
