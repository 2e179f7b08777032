#pragma once

#include <QAbstractTableModel>

#include <memory>
#include <utility>
#include <vector>

#include "gui/models/column.h"

namespace snapgdb::gui {

// Rows under a table of columns. The rows are plain data and are replaced as a whole.
template <typename Row>
class TableModel : public QAbstractTableModel {
 public:
  // `columns` must outlive the model.
  explicit TableModel(std::span<const Column<Row>> columns, QObject* parent = nullptr)
      : QAbstractTableModel(parent), columns_(columns) {}

  // `owner` keeps alive what the rows point into.
  void set_rows(std::vector<Row> rows, std::shared_ptr<const void> owner = nullptr) {
    beginResetModel();
    rows_ = std::move(rows);
    owner_ = std::move(owner);
    endResetModel();
  }

  const std::vector<Row>& rows() const { return rows_; }

  int rowCount(const QModelIndex& parent = {}) const final {
    return parent.isValid() ? 0 : static_cast<int>(rows_.size());
  }
  int columnCount(const QModelIndex& parent = {}) const final {
    return parent.isValid() ? 0 : static_cast<int>(columns_.size());
  }
  QVariant data(const QModelIndex& index, int role) const final {
    if (!checkIndex(index, CheckIndexOption::IndexIsValid)) return {};
    return cell(index.column(), role, rows_[static_cast<size_t>(index.row())]);
  }
  QVariant headerData(int section, Qt::Orientation orientation, int role) const final {
    return orientation == Qt::Horizontal ? header(columns_, section, role) : QVariant();
  }

 protected:
  virtual QVariant cell(int column, int role, const Row& row) const {
    return gui::cell(columns_[static_cast<size_t>(column)], role, row);
  }

 private:
  std::span<const Column<Row>> columns_;
  std::vector<Row> rows_;
  std::shared_ptr<const void> owner_;
};

}  // namespace snapgdb::gui
