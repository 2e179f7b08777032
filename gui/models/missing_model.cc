#include "gui/models/missing_model.h"

#include <algorithm>
#include <iterator>
#include <set>
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

void add_memory(const Snapshot& snapshot, const pb::Process& process,
                std::vector<MissingRow>& rows) {
  for (const pb::Vma& vma : process.mappings()) {
    for (const Holding::Lack& lack : holding(snapshot, process, vma).lacks) {
      if (lack.withheld) continue;
      const QString what = vma.name().empty() ? QStringLiteral("memory") : text(vma.name());
      rows.push_back({&process, process.pid(), 0,
                      QStringLiteral("%1 from %2 on").arg(what, address(lack.start)), lack.bytes,
                      text(lack.reason)});
    }
  }
}

void add_descriptors(const pb::Process& process, std::vector<MissingRow>& rows) {
  for (const pb::Descriptor& descriptor : process.descriptors())
    if (descriptor.has_socket() && !descriptor.socket().why_incomplete().empty())
      rows.push_back({&process, process.pid(), 0,
                      QStringLiteral("part of descriptor %1 (%2)")
                          .arg(descriptor.number())
                          .arg(text(descriptor.target())),
                      0, text(descriptor.socket().why_incomplete())});
}

void add_files(const Snapshot& snapshot, std::vector<MissingRow>& rows) {
  for (const pb::FileRecord& file : snapshot.files())
    if (!file.embedded() && !file.why_not_embedded().empty())
      rows.push_back({nullptr, 0, 0, QStringLiteral("content of ") + text(file.path()), file.size(),
                      text(file.why_not_embedded())});
}

// What the capture noted as missing and `details` does not tell at greater length.
std::vector<MissingRow> noted(const Snapshot& snapshot, const std::vector<MissingRow>& details) {
  std::set<std::pair<int32_t, QString>> told;
  for (const MissingRow& row : details) told.emplace(row.pid, row.missing);
  std::vector<MissingRow> rows;
  for (const pb::Missing& missing : snapshot.record().missing())
    if (QString why = text(missing.reason()); !told.contains({missing.pid(), why}))
      rows.push_back({snapshot.process(missing.pid()), missing.pid(), missing.tid(),
                      text(missing.resource()), 0, std::move(why)});
  return rows;
}

}  // namespace

std::vector<MissingRow> find_missing(const Snapshot& snapshot) {
  std::vector<MissingRow> details;
  std::set<uint32_t> seen;  // processes that share their memory lack the same
  for (const pb::Process& process : snapshot.processes()) {
    if (process.address_space() && seen.insert(process.address_space()).second)
      add_memory(snapshot, process, details);
    add_descriptors(process, details);
  }
  add_files(snapshot, details);
  std::vector<MissingRow> rows = noted(snapshot, details);
  std::ranges::move(details, std::back_inserter(rows));
  return rows;
}

MissingModel::MissingModel(QObject* parent) : TableModel(kColumns, parent) {}

}  // namespace snapgdb::gui
