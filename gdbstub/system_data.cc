#include "gdbstub/system_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
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

std::string processes(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    out += item(
        {{"pid", fmt::format("{}", process.pid())},
         {"parent", fmt::format("{}", process.parent())},
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

struct Table {
  std::string_view name, description;
  std::string (*rows)(const Snapshot&);
};

constexpr Table kTables[] = {
    {"processes", "The processes of the snapshot", processes},
    {"threads", "Their threads", threads},
    {"files", "Their file descriptors", descriptors},
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
