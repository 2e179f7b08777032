#pragma once

#include <QTreeView>

namespace snapgdb::gui {

// A table or tree of rows that are selected as a whole, with columns as wide as what they show.
class TableView final : public QTreeView {
 public:
  explicit TableView(const QString& name, QWidget* parent = nullptr);

  void setModel(QAbstractItemModel* model) override;

  // The selected rows as text, in the order shown: a line a row, cells separated by tabs.
  QString selected_text() const;
  // Puts that on the clipboard.
  void copy_selection() const;

  // Makes columns as wide as what they show, within reason, until the user has set a width.
  void fit_columns();

  QSize sizeHint() const override;

 protected:
  void keyPressEvent(QKeyEvent* event) override;
  void contextMenuEvent(QContextMenuEvent* event) override;

 private:
  bool user_set_widths_ = false;
};

}  // namespace snapgdb::gui
