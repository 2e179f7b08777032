#include "gui/models/filter_proxy.h"

#include "gui/models/column.h"

namespace snapgdb::gui {
namespace {

bool holds_address(const QModelIndex& index, const QString& word) {
  if (!word.startsWith(QLatin1String("0x"), Qt::CaseInsensitive)) return false;
  const QVariant start = index.data(kStartRole);
  bool is_number = false;
  const qulonglong address = word.toULongLong(&is_number, 16);
  return is_number && start.isValid() && start.toULongLong() <= address &&
         address < index.data(kEndRole).toULongLong();
}

}  // namespace

FilterProxy::FilterProxy(QObject* parent) : QSortFilterProxyModel(parent) {
  setSortRole(kSortRole);
  setRecursiveFilteringEnabled(true);
  setDynamicSortFilter(true);
}

void FilterProxy::set_filter(const QString& typed) {
  words_ = typed.split(QLatin1Char(' '), Qt::SkipEmptyParts);
  // Not invalidateRowsFilter(): it reports every run of rows by itself, which takes minutes for
  // 100,000 rows of which every other one goes.
  invalidate();
}

bool FilterProxy::filterAcceptsRow(int row, const QModelIndex& parent) const {
  for (const QString& word : words_)
    if (!has_word(row, parent, word)) return false;
  return true;
}

bool FilterProxy::has_word(int row, const QModelIndex& parent, const QString& word) const {
  const QAbstractItemModel& source = *sourceModel();
  if (holds_address(source.index(row, 0, parent), word)) return true;
  for (int column = 0; column < source.columnCount(parent); ++column)
    if (source.index(row, column, parent).data().toString().contains(word, Qt::CaseInsensitive))
      return true;
  return false;
}

bool FilterProxy::lessThan(const QModelIndex& left, const QModelIndex& right) const {
  const QVariant a = left.data(kSortRole), b = right.data(kSortRole);
  if (a.typeId() == QMetaType::QString)
    return QString::compare(a.toString(), b.toString(), Qt::CaseInsensitive) < 0;
  return QVariant::compare(a, b) == QPartialOrdering::Less;
}

}  // namespace snapgdb::gui
