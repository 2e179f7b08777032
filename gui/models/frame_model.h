#pragma once

#include <string>
#include <vector>

#include "core/inspect/backtrace.h"
#include "gui/models/table_model.h"

namespace snapgdb::gui {

struct FrameRow {
  int number = 0;  // -1: not a frame, but a remark at the end
  uint64_t address = 0;
  QString function;
  QString source;   // "/src/server.c:42"
  QString module;   // its path
  QString notes;    // "inlined", "a signal handler was called here"
  QString missing;  // in a remark: why there are no more frames, or less is known of them
};

// `problems`: Backtracer::problems().
std::vector<FrameRow> frame_rows(const Backtrace& backtrace,
                                 const std::vector<std::string>& problems);

// The backtrace of one thread, innermost frame first.
class FrameModel final : public TableModel<FrameRow> {
 public:
  enum ColumnNumber { kNumber, kFunction, kSource, kModule, kAddress };

  explicit FrameModel(QObject* parent = nullptr);
};

}  // namespace snapgdb::gui
