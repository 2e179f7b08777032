#pragma once

#include <memory>

#include "core/image/snapshot.h"
#include "gui/models/table_model.h"

namespace snapgdb::gui {

struct MissingRow {
  const pb::Process* process = nullptr;  // nullptr: not of one process
  int32_t pid = 0;
  int32_t tid = 0;
  QString what;
  uint64_t bytes = 0;  // 0: not counted in bytes
  QString missing;     // why
};

// Everything that should be in the snapshot and is not, looked for once (in the background: a large
// snapshot has many mappings).
std::vector<MissingRow> find_missing(const Snapshot& snapshot);

// What is missing and why.
class MissingModel final : public TableModel<MissingRow> {
 public:
  enum ColumnNumber { kPid, kProcess, kTid, kWhat, kSize, kReason };

  explicit MissingModel(QObject* parent = nullptr);
};

}  // namespace snapgdb::gui
