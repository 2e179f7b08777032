#include "gui/models/process_tree_model.h"

#include <QStringList>

#include <unordered_map>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

// Qt walks trees by recursion; a forged image must not make it run out of stack. Whoever is deeper
// is shown at this depth.
constexpr int kDeepest = 256;

QString command_or_name(const ProcessRow& row) {
  const QString command = command_line(*row.process);
  return command.isEmpty() ? QStringLiteral("[%1]").arg(text(row.process->name())) : command;
}

QString state_in_full(const ProcessRow& row) {
  const QString word = state_word(row.process->state());
  if (row.process->state() != "Z") return word;
  return QStringLiteral("%1: ended with %2, not yet waited for by its parent")
      .arg(word, exit_text(row.process->exit_status()));
}

const Column<ProcessRow> kColumns[] = {
    {"PID", "Process number, as seen from where the snapshot was taken", Look::kText,
     [](const ProcessRow& row) { return QString::number(row.process->pid()); },
     [](const ProcessRow& row) { return QVariant(row.process->pid()); }},
    {"Name", "The name of the process's first thread (comm): the kernel keeps 15 bytes of it",
     Look::kText, [](const ProcessRow& row) { return text(row.process->name()); }},
    {"State", "What the process was doing before the snapshot stopped it", Look::kText,
     [](const ProcessRow& row) { return state_word(row.process->state()); }, nullptr,
     state_in_full},
    {"Threads", "How many threads the process has", Look::kNumber,
     [](const ProcessRow& row) { return QString::number(row.process->threads_size()); },
     [](const ProcessRow& row) { return QVariant(row.process->threads_size()); }},
    {"Captured", "How much of the process's memory the image holds", Look::kNumber,
     [](const ProcessRow& row) { return size(row.captured); },
     [](const ProcessRow& row) { return QVariant(qulonglong{row.captured}); },
     [](const ProcessRow& row) { return exact_size(row.captured); }},
    {"Command line", "The arguments the program was started with; [name] if it has none",
     Look::kText, command_or_name},
};

uint64_t captured_bytes(const Snapshot& snapshot, const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings())
    bytes += snapshot.captured_bytes(process, vma.start(), vma.end());
  return bytes;
}

std::unordered_map<int32_t, QStringList> missing_by_pid(const Snapshot& snapshot) {
  std::unordered_map<int32_t, QStringList> by_pid;
  for (const pb::Missing& missing : snapshot.record().missing()) {
    if (missing.tid() && missing.tid() != missing.pid()) continue;  // shown at the thread
    by_pid[missing.pid()] +=
        QStringLiteral("%1 is missing: %2").arg(text(missing.resource()), text(missing.reason()));
  }
  return by_pid;
}

}  // namespace

void ProcessTreeModel::show(std::shared_ptr<const Snapshot> snapshot) {
  beginResetModel();
  nodes_.assign(1, Node{});
  snapshot_ = std::move(snapshot);
  if (snapshot_) {
    const auto missing = missing_by_pid(*snapshot_);
    std::unordered_map<int32_t, int> node_of;
    for (const pb::Process& process : snapshot_->processes()) {
      // A parent comes before its children; who has none here, or one that comes later, stands at
      // the top.
      const auto parent = node_of.find(process.parent());
      const auto lacks = missing.find(process.pid());
      add({&process, captured_bytes(*snapshot_, process),
           lacks == missing.end() ? QString() : lacks->second.join(QLatin1Char('\n'))},
          parent == node_of.end() ? 0 : parent->second);
      node_of.emplace(process.pid(), static_cast<int>(nodes_.size()) - 1);
    }
  }
  endResetModel();
}

void ProcessTreeModel::add(ProcessRow row, int parent) {
  while (nodes_[static_cast<size_t>(parent)].depth >= kDeepest)
    parent = nodes_[static_cast<size_t>(parent)].parent;
  Node& above = nodes_[static_cast<size_t>(parent)];
  Node node{std::move(row), above.depth + 1, parent, static_cast<int>(above.children.size()), {}};
  above.children.push_back(static_cast<int>(nodes_.size()));
  nodes_.push_back(std::move(node));
}

int ProcessTreeModel::node_number(const QModelIndex& index) const {
  return index.isValid() ? static_cast<int>(index.internalId()) : 0;
}

const pb::Process* ProcessTreeModel::process(const QModelIndex& index) const {
  return nodes_[static_cast<size_t>(node_number(index))].row.process;
}

QModelIndex ProcessTreeModel::find(int32_t pid) const {
  for (size_t i = 1; i < nodes_.size(); ++i)
    if (nodes_[i].row.process->pid() == pid) return createIndex(nodes_[i].position, 0, quintptr{i});
  return {};
}

QModelIndex ProcessTreeModel::index(int row, int column, const QModelIndex& parent) const {
  if (!hasIndex(row, column, parent)) return {};
  const Node& above = nodes_[static_cast<size_t>(node_number(parent))];
  return createIndex(row, column, static_cast<quintptr>(above.children[static_cast<size_t>(row)]));
}

QModelIndex ProcessTreeModel::parent(const QModelIndex& index) const {
  const int above = nodes_[static_cast<size_t>(node_number(index))].parent;
  if (above == 0) return {};
  return createIndex(nodes_[static_cast<size_t>(above)].position, 0, static_cast<quintptr>(above));
}

int ProcessTreeModel::rowCount(const QModelIndex& parent) const {
  if (parent.column() > 0) return 0;
  return static_cast<int>(nodes_[static_cast<size_t>(node_number(parent))].children.size());
}

int ProcessTreeModel::columnCount(const QModelIndex&) const {
  return static_cast<int>(std::size(kColumns));
}

QVariant ProcessTreeModel::data(const QModelIndex& index, int role) const {
  if (!checkIndex(index, CheckIndexOption::IndexIsValid)) return {};
  return cell(kColumns[index.column()], role, nodes_[index.internalId()].row);
}

QVariant ProcessTreeModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (orientation != Qt::Horizontal) return {};
  return header(std::span<const Column<ProcessRow>>(kColumns), section, role);
}

}  // namespace snapgdb::gui
