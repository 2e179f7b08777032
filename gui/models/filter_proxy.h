#pragma once

#include <QSortFilterProxyModel>

#include <optional>

namespace snapgdb::gui {

// Sorts by kSortRole and keeps the rows in which every word typed occurs in some column. An address
// (0x…) also keeps the range of memory that holds it. In a tree, the parents of a row that is kept
// are kept.
class FilterProxy final : public QSortFilterProxyModel {
 public:
  explicit FilterProxy(QObject* parent = nullptr);

  void set_filter(const QString& typed);

 protected:
  bool filterAcceptsRow(int row, const QModelIndex& parent) const override;
  bool lessThan(const QModelIndex& left, const QModelIndex& right) const override;

 private:
  bool has_word(int row, const QModelIndex& parent, const QString& word) const;

  QStringList words_;
};

}  // namespace snapgdb::gui
