#pragma once

#include <QWidget>

namespace snapgdb::gui {

// One line of plain text that ends in … where it does not fit; its tooltip has all of it.
class ElidedLabel final : public QWidget {
 public:
  explicit ElidedLabel(QWidget* parent = nullptr);

  void set_text(const QString& text);
  QSize sizeHint() const override;
  QSize minimumSizeHint() const override;

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  QString text_;
};

}  // namespace snapgdb::gui
