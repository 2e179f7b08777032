#include "gdbstub/system_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "core/base/strings.h"
#include "gdbstub/xml.h"

namespace snapgdb::gdbstub {
namespace {

struct Tree {
  std::span<const pb::Process> processes;
  const pb::SnapshotRecord& record;
};

struct Column {
  std::string_view name;
  std::string value;
};

std::string item(std::span<const Column> columns) {
  std::string out = "<item>";
  for (const Column& column : columns)
    out += fmt::format("<column name=\"{}\">{}</column>", column.name, xml_text(column.value));
  return out + "</item>\n";
}

std::string item(std::initializer_list<Column> columns) {
  return item(std::span(columns.begin(), columns.size()));
}

template <typename Strings>
std::string joined(const Strings& strings) {
  std::string out;
  for (const std::string& each : strings) (out += out.empty() ? "" : " ") += each;
  return out;
}

// The image knows numbers of users, not their names.
std::string user(const pb::Process& process) {
  return process.threads_size() > 0 ? fmt::format("{}", process.threads(0).credentials().euid())
                                    : "";
}

std::string processes(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    out += item(
        {{"pid", fmt::format("{}", process.pid())},
         {"parent", fmt::format("{}", process.parent())},
         {"user", user(process)},
         {"state", process.state()},
         {"threads", fmt::format("{}", process.threads_size())},
         {"command", process.arguments_size() > 0 ? joined(process.arguments()) : process.name()}});
  return out;
}

std::string threads(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    for (const pb::Thread& thread : process.threads())
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"tid", fmt::format("{}", thread.tid())},
                   {"name", thread.name()},
                   {"state", thread.state()},
                   {"core", fmt::format("{}", thread.cpu())}});
  return out;
}

std::string descriptors(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    for (const pb::Descriptor& descriptor : process.descriptors())
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"command", process.name()},
                   {"file descriptor", fmt::format("{}", descriptor.number())},
                   {"name", descriptor.target()}});
  return out;
}

std::string groups(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes) {
    const auto leader = std::ranges::find(tree.processes, process.group(), &pb::Process::pid);
    out += item({{"pgid", fmt::format("{}", process.group())},
                 {"session", fmt::format("{}", process.session())},
                 {"leader command", leader != tree.processes.end() ? leader->name() : ""},
                 {"pid", fmt::format("{}", process.pid())},
                 {"command line", joined(process.arguments())}});
  }
  return out;
}

struct Named {
  int number;
  std::string_view name;
};

constexpr Named kFamilies[] = {{AF_UNIX, "UNIX"},       {AF_INET, "INET"},     {AF_INET6, "INET6"},
                               {AF_NETLINK, "NETLINK"}, {AF_PACKET, "PACKET"}, {AF_VSOCK, "VSOCK"}};
constexpr Named kKinds[] = {{SOCK_STREAM, "STREAM"},
                            {SOCK_DGRAM, "DGRAM"},
                            {SOCK_SEQPACKET, "SEQPACKET"},
                            {SOCK_RAW, "RAW"}};

std::string name_of(std::span<const Named> names, int number) {
  const auto found = std::ranges::find(names, number, &Named::number);
  return found == names.end() ? fmt::format("{}", number) : std::string(found->name);
}

std::string sockets(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    for (const pb::Descriptor& descriptor : process.descriptors()) {
      if (!descriptor.has_socket()) continue;
      const pb::Socket& socket = descriptor.socket();
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"file descriptor", fmt::format("{}", descriptor.number())},
                   {"family", name_of(kFamilies, socket.domain())},
                   {"protocol", name_of(kKinds, socket.type())},
                   {"local", socket.local()},
                   {"remote", socket.remote()},
                   {"state", socket.state()},
                   {"receive queue", fmt::format("{}", socket.receive_queue())},
                   {"send queue", fmt::format("{}", socket.send_queue())}});
    }
  return out;
}

// What a shared mapping shows that is memory rather than a file: /dev/zero is MAP_ANONYMOUS, /SYSV
// and the key a segment of shmget(2), whose shmid is the inode.
bool is_shared_memory(const pb::Vma& vma) {
  constexpr std::string_view kPlaces[] = {"/dev/zero", "/SYSV", "/memfd:", "/dev/shm/"};
  return vma.shared() && std::ranges::any_of(kPlaces, [&](std::string_view place) {
           return vma.name().starts_with(place);
         });
}

std::string mapped_memory(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    for (const pb::Vma& vma : process.mappings())
      if (is_shared_memory(vma))
        out += item({{"pid", fmt::format("{}", process.pid())},
                     {"command", process.name()},
                     {"name", vma.name()},
                     {"inode or shmid", fmt::format("{}", vma.inode())},
                     {"address", fmt::format("{:#x}", vma.start())},
                     {"size", fmt::format("{}", vma.end() - vma.start())},
                     {"offset", fmt::format("{:#x}", vma.offset())}});
  return out;
}

// What the objects of System V begin with, in the words of gdb's own tables; `id` is what gdb calls
// their number.
std::vector<Column> ipc_columns(const pb::IpcPermissions& who, std::string_view id) {
  return {{"key", fmt::format("{:#010x}", static_cast<uint32_t>(who.key()))},
          {id, fmt::format("{}", who.id())},
          {"perms", fmt::format("{:03o}", who.mode() & 0777)},
          {"user", fmt::format("{}", who.owner())},
          {"group", fmt::format("{}", who.group())},
          {"creator user", fmt::format("{}", who.creator())},
          {"creator group", fmt::format("{}", who.creator_group())}};
}

std::string ipc_item(const pb::IpcPermissions& who, std::string_view id,
                     std::initializer_list<Column> more) {
  std::vector<Column> columns = ipc_columns(who, id);
  columns.insert(columns.begin() + 3, more);
  return item(columns);
}

size_t attachments(const Tree& tree, const pb::SharedMemorySegment& segment) {
  size_t count = 0;
  for (const pb::Process& process : tree.processes)
    count += static_cast<size_t>(std::ranges::count_if(process.mappings(), [&](const pb::Vma& vma) {
      return vma.name().starts_with("/SYSV") &&
             vma.inode() == static_cast<uint64_t>(segment.permissions().id());
    }));
  return count;
}

std::string segments(const Tree& tree) {
  std::string out;
  for (const pb::SystemV& objects : tree.record.system_v())
    for (const pb::SharedMemorySegment& segment : objects.shared_memory())
      out += ipc_item(segment.permissions(), "shmid",
                      {{"size", fmt::format("{}", segment.size())},
                       {"num attached", fmt::format("{}", attachments(tree, segment))},
                       {"removed", segment.removed() ? "yes" : "no"}});
  return out;
}

std::string semaphores(const Tree& tree) {
  std::string out;
  for (const pb::SystemV& objects : tree.record.system_v())
    for (const pb::SemaphoreSet& set : objects.semaphores())
      out += ipc_item(set.permissions(), "semid",
                      {{"num semaphores", fmt::format("{}", set.values_size())},
                       {"values", fmt::format("{}", fmt::join(set.values(), " "))}});
  return out;
}

std::string message_queues(const Tree& tree) {
  std::string out;
  for (const pb::SystemV& objects : tree.record.system_v())
    for (const pb::SystemVMessageQueue& queue : objects.message_queues()) {
      size_t used = 0;
      for (const auto& message : queue.messages()) used += message.content().size();
      out += ipc_item(queue.permissions(), "msqid",
                      {{"num used bytes", fmt::format("{}", used)},
                       {"num messages", fmt::format("{}", queue.messages_size())},
                       {"max bytes", fmt::format("{}", queue.maximum_bytes())}});
    }
  return out;
}

struct Table {
  std::string_view name, description;
  std::string (*rows)(const Tree&);
};

constexpr Table kTables[] = {
    {"processes", "The processes of the tree", processes},
    {"procgroups", "Their groups and sessions", groups},
    {"threads", "Their threads", threads},
    {"files", "Their file descriptors", descriptors},
    {"sockets", "Their sockets", sockets},
    {"mapped", "The shared memory they have mapped", mapped_memory},
    {"shm", "System V shared memory, as it was in the snapshot", segments},
    {"semaphores", "System V semaphores, as they were in the snapshot", semaphores},
    {"msg", "System V message queues, as they were in the snapshot", message_queues},
};

std::string list_of_tables() {
  std::string out;
  for (const Table& table : kTables)
    out += item({{"Type", std::string(table.name)},
                 {"Description", std::string(table.description)},
                 {"Title", std::string(table.description)}});
  return out;
}

std::string document(std::string_view type, const std::string& rows) {
  return fmt::format(
      "<?xml version=\"1.0\"?>\n<!DOCTYPE osdata SYSTEM \"osdata.dtd\">\n<osdata type=\"{}\">\n"
      "{}</osdata>\n",
      type, rows);
}

}  // namespace

std::optional<std::string> system_data(std::span<const pb::Process> processes,
                                       const pb::SnapshotRecord& record, std::string_view table) {
  if (table.empty()) return document("types", list_of_tables());
  const auto* found = std::ranges::find(kTables, table, &Table::name);
  if (found == std::end(kTables)) return std::nullopt;
  return document(table, found->rows({processes, record}));
}

}  // namespace snapgdb::gdbstub
