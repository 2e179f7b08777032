#pragma once

#include <memory>

#include "core/image/snapshot.h"
#include "gui/models/table_model.h"

namespace snapgdb::gui {

struct ThreadRow {
  const pb::Process* process = nullptr;
  const pb::Thread* thread = nullptr;
  uint32_t ticks_per_second = 100;
  QString lacks;    // what is missing of it, a line each
  QString missing;  // set if not even its registers are there
};

// The threads of one process.
class ThreadModel final : public TableModel<ThreadRow> {
 public:
  enum ColumnNumber { kTid, kName, kState, kCall, kWaitsIn, kSignal, kCpuTime, kCpu, kMasked };

  explicit ThreadModel(QObject* parent = nullptr);

  // `process` belongs to `snapshot`; nullptr: no rows.
  void show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process);
};

}  // namespace snapgdb::gui
