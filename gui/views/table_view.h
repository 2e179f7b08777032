#pragma once

#include <QTreeView>

#include <vector>

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

  // Makes columns as wide as what they show now, as far as there is room.
  void fit_columns();

  // What to say where there is no row.
  void set_empty_text(const QString& text);

  QSize sizeHint() const override;

 protected:
  void keyPressEvent(QKeyEvent* event) override;
  void contextMenuEvent(QContextMenuEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void paintEvent(QPaintEvent* event) override;

 private:
  int content_width(int column) const;
  bool is_path(int column) const;
  // Until the user has set a width himself.
  void share_out_width();

  QString empty_text_;
  std::vector<int> content_widths_;
  bool user_set_widths_ = false;
};

}  // namespace snapgdb::gui
