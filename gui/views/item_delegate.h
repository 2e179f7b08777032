#pragma once

#include <QStyledItemDelegate>

namespace snapgdb::gui {

// Addresses in a fixed-width font, what is missing in grey, tooltips as plain text.
class ItemDelegate final : public QStyledItemDelegate {
 public:
  using QStyledItemDelegate::QStyledItemDelegate;

  bool helpEvent(QHelpEvent* event, QAbstractItemView* view, const QStyleOptionViewItem& option,
                 const QModelIndex& index) override;
  QSize sizeHint(const QStyleOptionViewItem& option, const QModelIndex& index) const override;

 protected:
  void initStyleOption(QStyleOptionViewItem* option, const QModelIndex& index) const override;
};

// `text` as a tooltip that wraps and in which nothing is taken for markup: Qt guesses, and the text
// may come from a hostile image.
QString plain_tooltip(const QString& text);

}  // namespace snapgdb::gui
