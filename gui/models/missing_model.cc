#include "gui/models/missing_model.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "gui/models/holding.h"
#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

QString number_or_nothing(int32_t number) {
  return number ? QString::number(number) : QString();
}

const Column<MissingRow> kColumns[] = {
    {"PID", "The process that lacks it", Look::kNumber,
     [](const MissingRow& row) { return number_or_nothing(row.pid); },
     [](const MissingRow& row) { return QVariant(row.pid); }},
    {"Process", "The name of that process", Look::kText,
     [](const MissingRow& row) { return row.process ? text(row.process->name()) : QString(); }},
    {"TID", "The thread that lacks it; none: the whole process", Look::kNumber,
     [](const MissingRow& row) { return number_or_nothing(row.tid); },
     [](const MissingRow& row) { return QVariant(row.tid); }},
    {"What", "What is not in the snapshot", Look::kPath,
     [](const MissingRow& row) { return row.what; }},
    {"Size", "How much memory it is", Look::kNumber,
     [](const MissingRow& row) { return size(row.bytes); },
     [](const MissingRow& row) { return QVariant(qulonglong{row.bytes}); },
     [](const MissingRow& row) { return row.bytes ? exact_size(row.bytes) : QString(); }},
    {"Reason", "Why it is not in the snapshot", Look::kText,
     [](const MissingRow& row) { return row.missing; }},
};

// What details and notes are about, to tell when both tell the same: a process or 0, the name of
// the thing (a descriptor's target, a file's path; "": memory), and the reason.
using Subject = std::tuple<int32_t, QString, QString>;

struct Details {
  std::vector<MissingRow> rows;
  std::set<Subject> told = {};

  void add(MissingRow row, const QString& name) {
    told.emplace(row.pid, name, row.missing);
    rows.push_back(std::move(row));
  }
};

void add_memory(const Snapshot& snapshot, const pb::Process& process, Details& details) {
  for (const pb::Vma& vma : process.mappings()) {
    for (const Holding::Lack& lack : holding(snapshot, process, vma).lacks) {
      if (lack.withheld) continue;
      const QString what = vma.name().empty() ? QStringLiteral("memory") : text(vma.name());
      details.add({&process, process.pid(), 0,
                   QStringLiteral("%1 from %2 on").arg(what, address(lack.start)), lack.bytes,
                   text(lack.reason)},
                  {});
    }
  }
}

void add_descriptors(const pb::Process& process, Details& details) {
  for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
    if (!descriptor.has_socket() || descriptor.socket().why_incomplete().empty()) return;
    const QString which = descriptor.number() == kInFlight
                              ? QStringLiteral("a descriptor in flight")
                              : QStringLiteral("descriptor %1").arg(descriptor.number());
    const QString target = text(descriptor.target());
    details.add({&process, process.pid(), 0, QStringLiteral("part of %1 (%2)").arg(which, target),
                 0, text(descriptor.socket().why_incomplete())},
                target);
  });
}

void add_files(const Snapshot& snapshot, Details& details) {
  for (const pb::FileRecord& file : snapshot.files())
    if (!file.embedded() && !file.why_not_embedded().empty()) {
      const QString path = text(file.path());
      details.add({nullptr, 0, 0, QStringLiteral("content of ") + path, file.size(),
                   text(file.why_not_embedded())},
                  path);
    }
}

// As the capture names things in what it notes.
QString name_of(const pb::Missing& missing) {
  std::string_view resource = missing.resource();
  if (resource.ends_with("bytes of memory")) return {};
  if (missing.pid() == 0)
    for (const std::string_view before : {"file ", "content of "})
      if (resource.starts_with(before)) return text(resource.substr(before.size()));
  return text(resource);
}

// What the capture noted as missing and `details` do not tell at greater length.
std::vector<MissingRow> noted(const Snapshot& snapshot, const Details& details) {
  std::vector<MissingRow> rows;
  for (const pb::Missing& missing : snapshot.record().missing()) {
    QString why = text(missing.reason());
    if (missing.tid() == 0 && details.told.contains({missing.pid(), name_of(missing), why}))
      continue;
    rows.push_back({snapshot.process(missing.pid()), missing.pid(), missing.tid(),
                    text(missing.resource()), 0, std::move(why)});
  }
  return rows;
}

}  // namespace

std::vector<MissingRow> find_missing(const Snapshot& snapshot) {
  Details details;
  std::set<uint32_t> seen;  // processes that share their memory lack the same
  for (const pb::Process& process : snapshot.processes()) {
    if (process.address_space() && seen.insert(process.address_space()).second)
      add_memory(snapshot, process, details);
    add_descriptors(process, details);
  }
  add_files(snapshot, details);
  std::vector<MissingRow> rows = noted(snapshot, details);
  std::ranges::move(details.rows, std::back_inserter(rows));
  return rows;
}

MissingModel::MissingModel(QObject* parent) : TableModel(kColumns, parent) {}

}  // namespace snapgdb::gui
