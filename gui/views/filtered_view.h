#pragma once

#include <QLineEdit>
#include <QTimer>
#include <QWidget>

#include "gui/models/filter_proxy.h"
#include "gui/views/table_view.h"

class QLabel;

namespace snapgdb::gui {

// A table or tree with a line above it in which to type what its rows should contain, and how many
// do.
class FilteredView final : public QWidget {
  Q_OBJECT

 public:
  // What its rows are called: "thread", "threads".
  struct Nouns {
    const char* one;
    const char* many;
  };

  // name: for whom cannot see it.
  FilteredView(QAbstractItemModel* model, const QString& name, Nouns nouns,
               QWidget* parent = nullptr);
  ~FilteredView() override;

  TableView& view() { return *view_; }
  const FilterProxy& proxy() const { return proxy_; }
  void focus_filter();
  void set_filter(const QString& text) { filter_->setText(text); }

  // Rows of the model itself. An invalid index selects nothing.
  QModelIndex current() const;
  // Shows the row too; clears a filter that hides it.
  void select(const QModelIndex& source_index);

  // What to say where there is no row at all.
  void set_nothing(const QString& text) { nothing_ = text; }

  // Shows a tree, with everything open.
  void show_as_tree();

 Q_SIGNALS:
  // The user, or select(), went to another row, or there is none any more.
  void current_changed(const QModelIndex& source_index);

 protected:
  void showEvent(QShowEvent* event) override;

 private:
  void apply_filter();
  void content_changed();

  QLineEdit* filter_;
  QLabel* count_;
  TableView* view_;
  FilterProxy proxy_;
  QTimer typing_;
  const char* one_;
  const char* many_;
  QString nothing_;
  bool tree_ = false;
};

}  // namespace snapgdb::gui
