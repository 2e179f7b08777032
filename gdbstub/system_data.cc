#include "gdbstub/system_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "core/base/strings.h"
#include "gdbstub/xml.h"

namespace snapgdb::gdbstub {
namespace {

struct Tree {
  std::span<const pb::Process> processes;
  const std::function<IpcObjects()>& ipc;  // only for those who want it
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

std::string command(const pb::Process& process) {
  return process.arguments_size() > 0 ? joined(process.arguments()) : process.name();
}

std::string processes(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes) {
    std::set<uint32_t> cores;
    for (const pb::Thread& thread : process.threads())
      cores.insert(static_cast<uint32_t>(thread.cpu()));
    out += item({{"pid", fmt::format("{}", process.pid())},
                 {"user", user(process)},
                 {"command", command(process)},
                 {"cores", fmt::format("{}", fmt::join(cores, ","))}});
  }
  return out;
}

std::string tree_of_processes(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    out += item({{"pid", fmt::format("{}", process.pid())},
                 {"parent", fmt::format("{}", process.parent())},
                 {"group", fmt::format("{}", process.group())},
                 {"session", fmt::format("{}", process.session())},
                 {"state", process.state()},
                 {"threads", fmt::format("{}", process.threads_size())},
                 {"command", command(process)}});
  return out;
}

std::string threads(const Tree& tree) {
  std::string out;
  for (const pb::Process& process : tree.processes)
    for (const pb::Thread& thread : process.threads())
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"command", thread.name()},
                   {"tid", fmt::format("{}", thread.tid())},
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

// "127.0.0.1:80", "[::1]:80".
std::pair<std::string, std::string> host_and_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return {};
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return {std::string(host), std::string(text.substr(colon + 1))};
}

// As the kernel's headers have them.
std::string state_of(const pb::Socket& socket) {
  using State = std::pair<std::string_view, std::string_view>;
  constexpr State kStates[] = {{"listening", "LISTEN"},     {"connected", "ESTABLISHED"},
                               {"unconnected", "CLOSE"},    {"closed", "CLOSE"},
                               {"fin-wait-1", "FIN_WAIT1"}, {"fin-wait-2", "FIN_WAIT2"},
                               {"syn-received", "SYN_RECV"}};
  const auto* found = std::ranges::find(kStates, socket.state(), &State::first);
  std::string state(found == std::end(kStates) ? socket.state() : found->second);
  for (char& c : state) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return state;
}

// One socket once, as /proc/net lists them.
std::string sockets(const Tree& tree) {
  std::string out;
  std::set<std::string> seen;
  for (const pb::Process& process : tree.processes)
    for (const pb::Descriptor& descriptor : process.descriptors()) {
      const pb::Socket& socket = descriptor.socket();
      const bool is_inet =
          descriptor.has_socket() && (socket.domain() == AF_INET || socket.domain() == AF_INET6);
      if (!is_inet || !seen.insert(descriptor.target()).second) continue;  // "socket:[INODE]"
      const bool is_v6 = socket.domain() == AF_INET6;
      const auto [local, local_port] = host_and_port(socket.local());
      const auto [remote, remote_port] = host_and_port(socket.remote());
      out += item({{"local address", local},
                   {"local port", local_port},
                   {"remote address", !remote.empty() ? remote
                                      : is_v6         ? "::"
                                                      : "0.0.0.0"},
                   {"remote port", remote_port.empty() ? "0" : remote_port},
                   {"state", state_of(socket)},
                   {"user", user(process)},
                   {"family", name_of(kFamilies, socket.domain())},
                   {"protocol", name_of(kKinds, socket.type())}});
    }
  return out;
}

std::string connections(const Tree& tree) {
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

// The name of a process of the tree; "0" as in gdb's own tables: it is not known, or another's.
std::string command_of(const Tree& tree, const IpcObject& object, size_t which) {
  const int32_t pid = which < object.pids.size() ? object.pids[which] : 0;
  const auto found = std::ranges::find(tree.processes, pid, &pb::Process::pid);
  return pid != 0 && found != tree.processes.end() ? found->name() : "0";
}

size_t attachments(const Tree& tree, const IpcObject& segment) {
  size_t count = 0;
  for (const pb::Process& process : tree.processes)
    count += static_cast<size_t>(std::ranges::count_if(process.mappings(), [&](const pb::Vma& vma) {
      return vma.name().starts_with("/SYSV") && vma.inode() == static_cast<uint64_t>(segment.id);
    }));
  return count;
}

using Columns = std::vector<Column>;

// In the words of gdb's own tables; `id` is what gdb calls their number.
std::string ipc_items(const Tree& tree, const std::vector<IpcObject>& objects, std::string_view id,
                      Columns (*more)(const Tree&, const IpcObject&)) {
  std::string out;
  for (const IpcObject& object : objects) {
    Columns columns = {{"key", fmt::format("{}", object.key)},
                       {id, fmt::format("{}", object.id)},
                       {"permissions", fmt::format("{:03o}", object.mode & 0777)}};
    const Columns own = more(tree, object);
    columns.insert(columns.end(), own.begin(), own.end());
    columns.insert(columns.end(), {{"user", fmt::format("{}", object.owner)},
                                   {"group", fmt::format("{}", object.group)},
                                   {"creator user", fmt::format("{}", object.creator)},
                                   {"creator group", fmt::format("{}", object.creator_group)}});
    out += item(columns);
  }
  return out;
}

std::string segments(const Tree& tree) {
  return ipc_items(tree, tree.ipc().segments, "shmid",
                   [](const Tree& of, const IpcObject& segment) -> Columns {
                     return {{"size", fmt::format("{}", segment.size)},
                             {"creator command", command_of(of, segment, 0)},
                             {"last op. command", command_of(of, segment, 1)},
                             {"num attached", fmt::format("{}", attachments(of, segment))}};
                   });
}

std::string semaphores(const Tree& tree) {
  return ipc_items(tree, tree.ipc().semaphores, "semid",
                   [](const Tree&, const IpcObject& set) -> Columns {
                     return {{"num semaphores", fmt::format("{}", set.size)},
                             {"values", fmt::format("{}", fmt::join(set.values, " "))}};
                   });
}

std::string message_queues(const Tree& tree) {
  return ipc_items(tree, tree.ipc().queues, "msqid",
                   [](const Tree& of, const IpcObject& queue) -> Columns {
                     return {{"num used bytes", fmt::format("{}", queue.message_bytes)},
                             {"num messages", fmt::format("{}", queue.messages)},
                             {"last msgsnd() command", command_of(of, queue, 0)},
                             {"last msgrcv() command", command_of(of, queue, 1)}};
                   });
}

struct Table {
  std::string_view name, description;
  std::string (*rows)(const Tree&);
};

// The first ones, and those of System V, are as gdb has them for a machine; the others are ours.
constexpr Table kTables[] = {
    {"processes", "The processes of the tree", processes},
    {"procgroups", "Their groups", groups},
    {"threads", "Their threads", threads},
    {"files", "Their file descriptors", descriptors},
    {"sockets", "Their internet sockets", sockets},
    {"shm", "System V shared memory", segments},
    {"semaphores", "System V semaphores", semaphores},
    {"msg", "System V message queues", message_queues},
    {"tree", "The processes with their parents and sessions", tree_of_processes},
    {"connections", "The sockets of all families, by descriptor", connections},
    {"mapped", "The shared memory that processes have mapped", mapped_memory},
};

// Those of gdb's own that are about a machine, which a tree is not: they are empty.
constexpr std::string_view kOfMachines[] = {"cpus", "modules"};

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

IpcObjects ipc_objects_of(const pb::SnapshotRecord& record) {
  IpcObjects out;
  const auto add = [](std::vector<IpcObject>& to, const pb::IpcPermissions& about) -> IpcObject& {
    return to.emplace_back(IpcObject{.id = about.id(),
                                     .key = about.key(),
                                     .mode = about.mode(),
                                     .owner = about.owner(),
                                     .group = about.group(),
                                     .creator = about.creator(),
                                     .creator_group = about.creator_group()});
  };
  for (const pb::SystemV& objects : record.system_v()) {
    for (const pb::SharedMemorySegment& segment : objects.shared_memory())
      add(out.segments, segment.permissions()).size = segment.size();
    for (const pb::SemaphoreSet& set : objects.semaphores()) {
      IpcObject& object = add(out.semaphores, set.permissions());
      object.size = static_cast<uint64_t>(set.values_size());
      object.values.assign(set.values().begin(), set.values().end());
    }
    for (const pb::SystemVMessageQueue& queue : objects.message_queues()) {
      IpcObject& object = add(out.queues, queue.permissions());
      object.messages = static_cast<uint64_t>(queue.messages_size());
      for (const auto& message : queue.messages()) object.message_bytes += message.content().size();
    }
  }
  return out;
}

std::optional<std::string> system_data(std::span<const pb::Process> processes,
                                       const std::function<IpcObjects()>& ipc,
                                       std::string_view table) {
  if (table.empty()) return document("types", list_of_tables());
  const auto* found = std::ranges::find(kTables, table, &Table::name);
  if (std::ranges::find(kOfMachines, table) != std::end(kOfMachines)) return document(table, "");
  if (found == std::end(kTables)) return std::nullopt;
  return document(table, found->rows({processes, ipc}));
}

}  // namespace snapgdb::gdbstub
