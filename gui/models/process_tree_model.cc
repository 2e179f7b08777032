#include "gui/models/process_tree_model.h"

#include <unordered_map>

#include "gui/models/holding.h"
#include "gui/models/lacks.h"
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
  QString full = state_word(row.process->state());
  if (row.process->state() == "Z")
    full += QStringLiteral(": ended with %1, not yet waited for by its parent")
                .arg(exit_text(row.process->exit_status()));
  return row.lacks.isEmpty() ? full : full + QLatin1Char('\n') + row.lacks;
}

QString captured_in_full(const ProcessRow& row) {
  return exact_size(row.captured) +
         QStringLiteral("\nWithout the memory that is merely known to be zero");
}

const Column<ProcessRow> kColumns[] = {
    {"PID", "Process number, as seen from where the snapshot was taken", Look::kText,
     [](const ProcessRow& row) { return QString::number(row.process->pid()); },
     [](const ProcessRow& row) { return QVariant(row.process->pid()); }},
    {"Name", "The name of the process's first thread (comm): the kernel keeps 15 bytes of it",
     Look::kText, [](const ProcessRow& row) { return text(row.process->name()); }},
    {"State", "What the process was doing before the snapshot stopped it", Look::kText,
     [](const ProcessRow& row) {
       return state_with_lacks(state_word(row.process->state()), row.lacks);
     },
     nullptr, state_in_full},
    {"Threads", "How many threads the process has", Look::kNumber,
     [](const ProcessRow& row) { return QString::number(row.process->threads_size()); },
     [](const ProcessRow& row) { return QVariant(row.process->threads_size()); }},
    {"Captured", "How much content of the process's memory the image holds, in pages or in files",
     Look::kNumber, [](const ProcessRow& row) { return size(row.captured); },
     [](const ProcessRow& row) { return QVariant(qulonglong{row.captured}); }, captured_in_full},
    {"Command line", "The arguments the program was started with; [name] if it has none",
     Look::kPath, command_or_name},
};

uint64_t captured_bytes(const Snapshot& snapshot, const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings()) bytes += holding(snapshot, process, vma).content();
  return bytes;
}

ProcessRow make_row(const Snapshot& snapshot, const pb::Process& process, const Lacks& lacks) {
  const auto found = lacks.find({process.pid(), 0});
  ProcessRow row{&process,
                 captured_bytes(snapshot, process),
                 found == lacks.end() ? QString() : found->second,
                 {}};
  const bool is_shell = process.mappings().empty() && process.threads().empty();
  if (is_shell && process.state() != "Z") row.missing = row.lacks;
  return row;
}

}  // namespace

void ProcessTreeModel::show(std::shared_ptr<const Snapshot> snapshot) {
  beginResetModel();
  nodes_.assign(1, Node{});
  snapshot_ = std::move(snapshot);
  if (snapshot_) {
    const Lacks lacks = lacks_of(*snapshot_);
    std::unordered_map<int32_t, int> node_of;
    for (const pb::Process& process : snapshot_->processes()) {
      // A parent comes before its children; who has none here, or one that comes later, stands at
      // the top.
      const auto parent = node_of.find(process.parent());
      add(make_row(*snapshot_, process, lacks), parent == node_of.end() ? 0 : parent->second);
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
