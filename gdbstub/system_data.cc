#include "gdbstub/system_data.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>

#include "core/base/strings.h"
#include "gdbstub/xml.h"

namespace snapgdb::gdbstub {
namespace {

struct Column {
  std::string_view name;
  std::string value;
};

std::string item(std::initializer_list<Column> columns) {
  std::string out = "<item>";
  for (const Column& column : columns)
    out += fmt::format("<column name=\"{}\">{}</column>", column.name, xml_text(column.value));
  return out + "</item>\n";
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

std::string processes(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    out += item(
        {{"pid", fmt::format("{}", process.pid())},
         {"parent", fmt::format("{}", process.parent())},
         {"user", user(process)},
         {"state", process.state()},
         {"threads", fmt::format("{}", process.threads_size())},
         {"command", process.arguments_size() > 0 ? joined(process.arguments()) : process.name()}});
  return out;
}

std::string threads(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"tid", fmt::format("{}", thread.tid())},
                   {"name", thread.name()},
                   {"state", thread.state()},
                   {"core", fmt::format("{}", thread.cpu())}});
  return out;
}

std::string descriptors(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Descriptor& descriptor : process.descriptors())
      out += item({{"pid", fmt::format("{}", process.pid())},
                   {"command", process.name()},
                   {"file descriptor", fmt::format("{}", descriptor.number())},
                   {"name", descriptor.target()}});
  return out;
}

std::string groups(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes()) {
    const pb::Process* leader = snapshot.process(process.group());
    out += item({{"pgid", fmt::format("{}", process.group())},
                 {"session", fmt::format("{}", process.session())},
                 {"leader command", leader ? leader->name() : ""},
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

std::string sockets(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
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

std::string shared_memory(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
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

struct Table {
  std::string_view name, description;
  std::string (*rows)(const Snapshot&);
};

constexpr Table kTables[] = {
    {"processes", "The processes of the snapshot", processes},
    {"procgroups", "Their groups and sessions", groups},
    {"threads", "Their threads", threads},
    {"files", "Their file descriptors", descriptors},
    {"sockets", "Their sockets", sockets},
    {"shm", "The shared memory they have mapped", shared_memory},
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

std::optional<std::string> system_data(const Snapshot& snapshot, std::string_view table) {
  if (table.empty()) return document("types", list_of_tables());
  const auto* found = std::ranges::find(kTables, table, &Table::name);
  if (found == std::end(kTables)) return std::nullopt;
  return document(table, found->rows(snapshot));
}

}  // namespace snapgdb::gdbstub
