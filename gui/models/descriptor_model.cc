#include "gui/models/descriptor_model.h"

#include <QStringList>

#include <algorithm>

#include "core/inspect/words.h"
#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

// A thousand children may share one standard output; the cell names the first few.
constexpr int kMostNamed = 6;

bool has_position(const pb::Descriptor& descriptor) {
  return descriptor.has_file() || descriptor.has_memfd() || descriptor.has_directory();
}

QString position(const DescriptorRow& row) {
  return has_position(*row.descriptor) ? QString::number(row.descriptor->position()) : QString();
}

QString number(const DescriptorRow& row) {
  const int32_t fd = row.descriptor->number();
  return fd == kInFlight ? QStringLiteral("in flight") : QString::number(fd);
}

const Column<DescriptorRow> kColumns[] = {
    {"FD", "Descriptor number; in flight: in a message that the process has not received yet",
     Look::kNumber, number,
     [](const DescriptorRow& row) { return QVariant(row.descriptor->number()); }},
    {"Kind", "What sort of thing is open", Look::kText,
     [](const DescriptorRow& row) { return line(descriptor_kind(*row.descriptor)); }},
    {"Target", "What the link in /proc/PID/fd points to", Look::kPath,
     [](const DescriptorRow& row) { return text(row.descriptor->target()); }},
    {"Details", "What is particular to this kind", Look::kText,
     [](const DescriptorRow& row) { return line(descriptor_details(*row.descriptor)); }},
    {"Other end", "Who holds the other end of this pipe or socket", Look::kText,
     [](const DescriptorRow& row) { return row.other_end; }},
    {"Position", "Where in the file the next read or write happens", Look::kNumber, position,
     [](const DescriptorRow& row) {
       return QVariant(has_position(*row.descriptor) ? qlonglong(row.descriptor->position()) : -1);
     }},
    {"Flags", "How it was opened (O_…); cloexec: closed when the process executes another program",
     Look::kText, [](const DescriptorRow& row) { return line(descriptor_flags(*row.descriptor)); }},
    {"Shared with",
     "Who else holds the same open file description: they share its position and its flags",
     Look::kText, [](const DescriptorRow& row) { return row.shared_with; }},
};

QString holder_text(const DescriptorPeers::Holder& holder, const DescriptorPeers::Holder& asker) {
  const int32_t fd = holder.descriptor->number();
  const bool own = holder.process == asker.process;
  const QString who = QStringLiteral("%1 %2").arg(text(holder.process->name()),
                                                  QString::number(holder.process->pid()));
  if (fd == kInFlight)
    return QStringLiteral("in flight to ") + (own ? QStringLiteral("itself") : who);
  return QStringLiteral("%1 fd %2").arg(own ? QStringLiteral("own") : who, QString::number(fd));
}

// "own fd 5, grep 4712 fd 0 and 3 more"; leaves out the descriptor that asks.
QString holders_text(std::span<const DescriptorPeers::Holder> holders,
                     const DescriptorPeers::Holder& asker) {
  const auto is_asker = [&](const DescriptorPeers::Holder& holder) { return holder == asker; };
  QStringList names;
  for (const DescriptorPeers::Holder& holder : holders) {
    if (is_asker(holder)) continue;
    if (names.size() == kMostNamed) break;
    names += holder_text(holder, asker);
  }
  // Beyond the first thousand, one more or less in the count is not worth the time.
  const auto asking =
      std::ranges::count_if(holders.first(std::min<size_t>(holders.size(), 1000)), is_asker);
  const auto unnamed = static_cast<qsizetype>(holders.size()) - asking - names.size();
  const QString joined = names.join(QStringLiteral(", "));
  return unnamed ? QStringLiteral("%1 and %2 more").arg(joined).arg(unnamed) : joined;
}

DescriptorRow make_row(const pb::Process& process, const pb::Descriptor& descriptor,
                       const DescriptorPeers& peers) {
  const DescriptorPeers::Holder self{&process, &descriptor};
  DescriptorRow row{&descriptor, holders_text(peers.sharing(descriptor), self), {}, {}};
  row.other_end = holders_text(peers.other_end(descriptor), self);
  if (row.other_end.isEmpty() && DescriptorPeers::has_other_end(descriptor))
    row.other_end = QStringLiteral("nobody in the snapshot");
  if (descriptor.kind_case() == pb::Descriptor::KIND_NOT_SET)
    row.missing = QStringLiteral("What it is was not captured");
  return row;
}

}  // namespace

DescriptorModel::DescriptorModel(QObject* parent) : TableModel(kColumns, parent) {}

void DescriptorModel::show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process,
                           const DescriptorPeers& peers) {
  std::vector<DescriptorRow> rows;
  if (process) {
    rows.reserve(static_cast<size_t>(process->descriptors_size() + process->in_flight_size()));
    for_each_descriptor(*process, [&](const pb::Descriptor& descriptor) {
      rows.push_back(make_row(*process, descriptor, peers));
    });
  }
  set_rows(std::move(rows), std::move(snapshot));
}

}  // namespace snapgdb::gui
