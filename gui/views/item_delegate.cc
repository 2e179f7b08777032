#include "gui/views/item_delegate.h"

#include <QAbstractItemView>
#include <QFontDatabase>
#include <QHelpEvent>
#include <QToolTip>

#include "gui/models/column.h"

namespace snapgdb::gui {
namespace {

// Between the colours of text and background, so that it is pale on a light desktop and dim on a
// dark one, and readable on both. The palette's own "disabled" is too faint in some styles.
QColor grey(const QPalette& palette) {
  const QColor ink = palette.color(QPalette::Text), paper = palette.color(QPalette::Base);
  const auto mix = [](int a, int b) { return (a * 55 + b * 45) / 100; };
  return QColor(mix(ink.red(), paper.red()), mix(ink.green(), paper.green()),
                mix(ink.blue(), paper.blue()));
}

}  // namespace

QString plain_tooltip(const QString& text) {
  if (text.isEmpty()) return {};
  QString escaped = text.toHtmlEscaped();
  return QStringLiteral("<qt>%1</qt>")
      .arg(escaped.replace(QLatin1Char('\n'), QLatin1String("<br>")));
}

void ItemDelegate::initStyleOption(QStyleOptionViewItem* option, const QModelIndex& index) const {
  QStyledItemDelegate::initStyleOption(option, index);
  const auto look = static_cast<Look>(index.data(kLookRole).toInt());
  if (look == Look::kPath) option->textElideMode = Qt::ElideMiddle;
  if (look == Look::kCode) {
    const int size = option->font.pointSize();
    option->font = QFontDatabase::systemFont(QFontDatabase::FixedFont);
    if (size > 0) option->font.setPointSize(size);
    option->fontMetrics = QFontMetrics(option->font);
  }
  if (!index.data(kMissingRole).toString().isEmpty())
    option->palette.setColor(QPalette::Text, grey(option->palette));
}

QSize ItemDelegate::sizeHint(const QStyleOptionViewItem& option, const QModelIndex& index) const {
  return QStyledItemDelegate::sizeHint(option, index) + QSize(0, 4);
}

bool ItemDelegate::helpEvent(QHelpEvent* event, QAbstractItemView* view,
                             const QStyleOptionViewItem& option, const QModelIndex& index) {
  if (event->type() != QEvent::ToolTip)
    return QStyledItemDelegate::helpEvent(event, view, option, index);
  QToolTip::showText(event->globalPos(), plain_tooltip(index.data(Qt::ToolTipRole).toString()),
                     view, view->visualRect(index));
  return true;
}

}  // namespace snapgdb::gui
