#pragma once

#include <QScrollArea>

#include <vector>

#include "gui/models/summary.h"

class QFormLayout;
class QGroupBox;

namespace snapgdb::gui {

// The facts about the snapshot and about the process that is selected, to be read and copied.
class SummaryView final : public QScrollArea {
 public:
  explicit SummaryView(QWidget* parent = nullptr);

  void show_snapshot(const std::vector<Fact>& facts);
  void show_process(const QString& title, const std::vector<Fact>& facts);

 private:
  QGroupBox* snapshot_;
  QGroupBox* process_;
};

}  // namespace snapgdb::gui
