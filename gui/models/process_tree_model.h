#pragma once

#include <QAbstractItemModel>

#include <memory>
#include <vector>

#include "core/image/snapshot.h"
#include "gui/models/column.h"

namespace snapgdb::gui {

struct ProcessRow {
  const pb::Process* process = nullptr;
  uint64_t captured = 0;  // bytes
  QString lacks;          // what is missing of it, a line each
  QString missing;        // set if nothing is known of it but that it was there
};

// The processes of a snapshot under their parents.
class ProcessTreeModel final : public QAbstractItemModel {
 public:
  enum ColumnNumber { kPid, kName, kState, kThreads, kCaptured, kCommand };

  explicit ProcessTreeModel(QObject* parent = nullptr) : QAbstractItemModel(parent) {}

  void show(std::shared_ptr<const Snapshot> snapshot);

  // nullptr for an invalid index.
  const pb::Process* process(const QModelIndex& index) const;
  // Invalid if there is no such process.
  QModelIndex find(int32_t pid) const;

  QModelIndex index(int row, int column, const QModelIndex& parent = {}) const override;
  QModelIndex parent(const QModelIndex& index) const override;
  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;

 private:
  struct Node {
    ProcessRow row;
    int depth = 0;
    int parent = 0;    // of the node, as an index into nodes_
    int position = 0;  // among its parent's children
    std::vector<int> children;
  };

  void add(ProcessRow row, int parent);
  // nodes_[0] stands for the invalid index: it has no process.
  int node_number(const QModelIndex& index) const;

  std::shared_ptr<const Snapshot> snapshot_;
  std::vector<Node> nodes_{Node{}};
};

}  // namespace snapgdb::gui
