#pragma once

#include <memory>

#include "core/image/snapshot.h"
#include "gui/models/holding.h"
#include "gui/models/table_model.h"

namespace snapgdb::gui {

struct MappingRow {
  const pb::Vma* vma = nullptr;
  Holding holding;
  QString missing;  // set if nothing of it can be read
};

// The memory map of one process.
class MappingModel final : public TableModel<MappingRow> {
 public:
  enum ColumnNumber { kRange, kSize, kAccess, kName, kHolds, kRss, kDirty, kCaptured, kOffset };

  explicit MappingModel(QObject* parent = nullptr);

  // `process` belongs to `snapshot`; nullptr: no rows.
  void show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process);

 protected:
  QVariant cell(int column, int role, const MappingRow& row) const override;
};

}  // namespace snapgdb::gui
