#include "gui/views/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QContextMenuEvent>
#include <QHeaderView>
#include <QMenu>
#include <QProxyStyle>
#include <QScrollBar>

#include <algorithm>
#include <vector>

#include "gui/views/item_delegate.h"

namespace snapgdb::gui {
namespace {

// In characters. A long command line or path must not push the other columns out of sight.
constexpr int kWidestColumn = 44;
// The last column gets what is left of the view; this much at least.
constexpr int kLastColumn = 16;

// The user's style with more room left and right of each cell, so that a number on the right does
// not run into the text that follows it.
class RoomyStyle final : public QProxyStyle {
 public:
  int pixelMetric(PixelMetric metric, const QStyleOption* option,
                  const QWidget* widget) const override {
    const int usual = QProxyStyle::pixelMetric(metric, option, widget);
    return metric == PM_FocusFrameHMargin || metric == PM_HeaderMargin ? usual + 3 : usual;
  }
};

// The rows shown, from the top, that are selected. Not selectedRows(): its order is that of clicks.
QModelIndexList selected_in_order(const QTreeView& view) {
  QModelIndexList rows = view.selectionModel()->selectedRows();
  const auto path = [](QModelIndex index) {
    std::vector<int> steps;
    for (; index.isValid(); index = index.parent()) steps.insert(steps.begin(), index.row());
    return steps;
  };
  std::ranges::sort(rows, {}, path);
  return rows;
}

}  // namespace

TableView::TableView(const QString& name, QWidget* parent) : QTreeView(parent) {
  setAccessibleName(name);
  auto* style = new RoomyStyle;
  style->setParent(this);
  setStyle(style);
  header()->setStyle(style);
  setItemDelegate(new ItemDelegate(this));
  setUniformRowHeights(true);
  setAlternatingRowColors(true);
  setAllColumnsShowFocus(true);
  setSelectionMode(ExtendedSelection);
  setHorizontalScrollMode(ScrollPerPixel);
  setTabKeyNavigation(false);
  setRootIsDecorated(false);
  setTextElideMode(Qt::ElideRight);
  header()->setMinimumSectionSize(fontMetrics().averageCharWidth() * 5);
  connect(header(), &QHeaderView::sectionResized, this, [this] {
    if (QApplication::mouseButtons() & Qt::LeftButton) user_set_widths_ = true;
  });
}

void TableView::setModel(QAbstractItemModel* model) {
  QTreeView::setModel(model);
  connect(model, &QAbstractItemModel::modelReset, this, [this] { fit_columns(); });
  fit_columns();
}

void TableView::fit_columns() {
  if (user_set_widths_ || !model()) return;
  const int character = fontMetrics().averageCharWidth();
  const int last = model()->columnCount() - 1;
  for (int column = 0; column <= last; ++column) {
    resizeColumnToContents(column);
    const int widest = character * (column == last ? kLastColumn : kWidestColumn);
    setColumnWidth(column, std::min(columnWidth(column), widest));
  }
}

QString TableView::selected_text() const {
  if (!selectionModel()) return {};
  QString lines;
  for (const QModelIndex& row : selected_in_order(*this)) {
    QStringList cells;
    for (int column = 0; column < model()->columnCount(row.parent()); ++column)
      cells += row.siblingAtColumn(column).data().toString();
    lines += cells.join(QLatin1Char('\t')) + QLatin1Char('\n');
  }
  return lines;
}

void TableView::copy_selection() const {
  const QString lines = selected_text();
  if (!lines.isEmpty()) QApplication::clipboard()->setText(lines);
}

QSize TableView::sizeHint() const {
  return QSize(fontMetrics().averageCharWidth() * 60, fontMetrics().height() * 12);
}

void TableView::keyPressEvent(QKeyEvent* event) {
  if (event->matches(QKeySequence::Copy))  // Qt's own would copy one cell
    copy_selection();
  else
    QTreeView::keyPressEvent(event);
}

void TableView::contextMenuEvent(QContextMenuEvent* event) {
  const QModelIndex index = indexAt(event->pos());
  if (!index.isValid()) return;
  auto* menu = new QMenu(this);
  menu->setAttribute(Qt::WA_DeleteOnClose);
  menu->addAction(QStringLiteral("Copy &rows"), this, [this] { copy_selection(); });
  menu->addAction(QStringLiteral("Copy &cell"), this,
                  [cell = index.data().toString()] { QApplication::clipboard()->setText(cell); });
  menu->popup(event->globalPos());
}

}  // namespace snapgdb::gui
