#pragma once

#include <QFrame>

class QLabel;

namespace snapgdb::gui {

// One line that says what went wrong, in the window, until it is closed or something goes right.
class MessageBar final : public QFrame {
 public:
  explicit MessageBar(QWidget* parent = nullptr);

  void show_error(const QString& line);
  QString text() const;

 private:
  QLabel* label_;
};

}  // namespace snapgdb::gui
