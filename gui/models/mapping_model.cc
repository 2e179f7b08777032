#include "gui/models/mapping_model.h"

#include <sys/mman.h>

#include "core/inspect/words.h"
#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

QVariant key(uint64_t value) {
  return QVariant(qulonglong{value});
}

QString range(const MappingRow& row) {
  return address(row.vma->start()) + QLatin1Char('-') + address(row.vma->end());
}

QString access(const MappingRow& row) {
  const uint32_t protection = row.vma->protection();
  const char letters[] = {protection & PROT_READ ? 'r' : '-', protection & PROT_WRITE ? 'w' : '-',
                          protection & PROT_EXEC ? 'x' : '-', row.vma->shared() ? 's' : 'p'};
  return QString::fromLatin1(letters, sizeof letters);
}

QString access_in_full(const MappingRow& row) {
  QString words = QString::fromStdString(
      bit_names(row.vma->protection() & 7,
                {{PROT_READ, "read"}, {PROT_WRITE, "write"}, {PROT_EXEC, "execute"}}));
  if (words.isEmpty()) words = QStringLiteral("no access");
  words += row.vma->shared() ? QStringLiteral("; shared: writes reach the others who map it")
                             : QStringLiteral("; private: a write makes a copy of the page");
  if (!row.vma->flags().empty())
    words += QStringLiteral("\nVmFlags of /proc/PID/smaps: ") + text(row.vma->flags());
  return words;
}

QString name(const MappingRow& row) {
  if (row.vma->name().empty())
    return row.vma->shared() ? QStringLiteral("(shared anonymous)") : QStringLiteral("(anonymous)");
  const QString name = text(row.vma->name());
  return row.vma->deleted() ? name + QStringLiteral(" (deleted)") : name;
}

QString holds_in_full(const MappingRow& row) {
  const QString lacks = row.missing.isEmpty() ? lacks_text(row.holding) : QString();
  const QString held = holding_text(row.holding);
  return lacks.isEmpty() ? held : held + QStringLiteral("\n\n") + lacks;
}

const Column<MappingRow> kColumns[] = {
    {"Address range", "First address of the mapping, and the address after its last", Look::kCode,
     range, [](const MappingRow& row) { return key(row.vma->start()); }},
    {"Size", "Size of the mapping: of addresses, not of memory in use", Look::kNumber,
     [](const MappingRow& row) { return size(row.vma->end() - row.vma->start()); },
     [](const MappingRow& row) { return key(row.vma->end() - row.vma->start()); },
     [](const MappingRow& row) { return exact_size(row.vma->end() - row.vma->start()); }},
    {"Access", "r read, w write, x execute; p private, s shared", Look::kCode, access, nullptr,
     access_in_full},
    {"Name", "The file mapped, or what the kernel calls the mapping", Look::kPath, name},
    {"In the image",
     "Where its bytes come from: stored in the image, known to be zero, equal to a file that the "
     "image carries; withheld by the kernel or the program from everybody; or missing",
     Look::kText, [](const MappingRow& row) { return holding_text(row.holding); },
     [](const MappingRow& row) { return key(row.holding.held()); }, holds_in_full},
    {"Resident", "How much of it was in memory (Rss)", Look::kNumber,
     [](const MappingRow& row) { return size(row.vma->rss()); },
     [](const MappingRow& row) { return key(row.vma->rss()); },
     [](const MappingRow& row) { return exact_size(row.vma->rss()); }},
    {"Dirty", "How much of it this process alone had, and had written to (Private_Dirty)",
     Look::kNumber, [](const MappingRow& row) { return size(row.vma->private_dirty()); },
     [](const MappingRow& row) { return key(row.vma->private_dirty()); },
     [](const MappingRow& row) { return exact_size(row.vma->private_dirty()); }},
    {"Captured",
     "How much content of it the image holds: stored, or equal to a file that the image carries",
     Look::kNumber, [](const MappingRow& row) { return size(row.holding.content()); },
     [](const MappingRow& row) { return key(row.holding.content()); },
     [](const MappingRow& row) { return exact_size(row.holding.content()); }},
    {"Offset", "Where in the file the mapping starts", Look::kCode,
     [](const MappingRow& row) {
       return row.vma->inode() ? address(row.vma->offset()) : QString();
     },
     [](const MappingRow& row) { return key(row.vma->offset()); }},
};

}  // namespace

MappingModel::MappingModel(QObject* parent) : TableModel(kColumns, parent) {}

void MappingModel::show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process) {
  std::vector<MappingRow> rows;
  if (process) {
    rows.reserve(static_cast<size_t>(process->mappings_size()));
    for (const pb::Vma& vma : process->mappings()) {
      MappingRow row{&vma, holding(*snapshot, *process, vma), {}};
      if (row.holding.held() == 0 && !row.holding.lacks.empty())
        row.missing = lacks_text(row.holding);
      rows.push_back(std::move(row));
    }
  }
  set_rows(std::move(rows), std::move(snapshot));
}

QVariant MappingModel::cell(int column, int role, const MappingRow& row) const {
  switch (role) {
    case kStartRole:
      return qulonglong{row.vma->start()};
    case kEndRole:
      return qulonglong{row.vma->end()};
    default:
      return TableModel::cell(column, role, row);
  }
}

}  // namespace snapgdb::gui
