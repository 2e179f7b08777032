#include "gui/views/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QContextMenuEvent>
#include <QHeaderView>
#include <QMenu>
#include <QPainter>
#include <QProxyStyle>
#include <QScrollBar>

#include <algorithm>
#include <numeric>
#include <vector>

#include "gui/models/column.h"
#include "gui/views/item_delegate.h"

namespace snapgdb::gui {
namespace {

// In characters. A long command line or path must not push the other columns out of sight.
constexpr int kWidestColumn = 44;
// The last column gets what is left of the view; this much at least.
constexpr int kLastColumn = 16;
// Where there is too little room for everything, paths give way down to this.
constexpr int kPathColumn = 28;

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
    // A splitter that is dragged resizes columns too, but under another mouse grabber.
    if (QApplication::mouseButtons() & Qt::LeftButton && header()->underMouse())
      user_set_widths_ = true;
  });
  connect(header(), &QHeaderView::sortIndicatorChanged, this, [this] { fit_columns(); });
}

void TableView::setModel(QAbstractItemModel* model) {
  QTreeView::setModel(model);
  connect(model, &QAbstractItemModel::modelReset, this, [this] { fit_columns(); });
  fit_columns();
}

void TableView::fit_columns() {
  content_widths_.clear();
  for (int column = 0; column < model()->columnCount(); ++column)
    content_widths_.push_back(content_width(column));
  share_out_width();
}

int TableView::content_width(int column) const {
  // A header leaves room for the sort arrow in every column, which makes narrow ones twice as wide.
  header()->setSortIndicatorShown(column == header()->sortIndicatorSection());
  const int title = header()->sectionSizeHint(column);
  header()->setSortIndicatorShown(isSortingEnabled());
  return std::max(title, sizeHintForColumn(column));
}

void TableView::share_out_width() {
  if (user_set_widths_ || content_widths_.empty()) return;
  const int character = fontMetrics().averageCharWidth();
  std::vector<int> widths = content_widths_;
  for (int& width : widths) width = std::min(width, character * kWidestColumn);
  widths.back() = std::min(widths.back(), character * kLastColumn);
  int left = viewport()->width() - std::accumulate(widths.begin(), widths.end(), 0);
  for (size_t i = 0; i < widths.size(); ++i) {
    const int grown = std::clamp(content_widths_[i], widths[i], widths[i] + std::max(left, 0));
    const int shrunk =
        std::clamp(widths[i] + left, std::min(character * kPathColumn, widths[i]), widths[i]);
    const int width = left > 0 ? grown : is_path(static_cast<int>(i)) ? shrunk : widths[i];
    left -= width - widths[i];
    setColumnWidth(static_cast<int>(i), width);
  }
}

bool TableView::is_path(int column) const {
  return model()->headerData(column, Qt::Horizontal, kLookRole).toInt() ==
         static_cast<int>(Look::kPath);
}

void TableView::resizeEvent(QResizeEvent* event) {
  QTreeView::resizeEvent(event);
  share_out_width();
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

void TableView::set_empty_text(const QString& text) {
  empty_text_ = text;
  viewport()->update();
}

void TableView::paintEvent(QPaintEvent* event) {
  QTreeView::paintEvent(event);
  if (empty_text_.isEmpty() || !model() || model()->rowCount()) return;
  QPainter painter(viewport());
  painter.setPen(palette().color(QPalette::PlaceholderText));
  painter.drawText(viewport()->rect(), Qt::AlignCenter, empty_text_);
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
