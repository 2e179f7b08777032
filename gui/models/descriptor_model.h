#pragma once

#include <memory>

#include "core/image/snapshot.h"
#include "gui/models/descriptor_peers.h"
#include "gui/models/table_model.h"

namespace snapgdb::gui {

struct DescriptorRow {
  const pb::Descriptor* descriptor = nullptr;
  QString shared_with;
  QString other_end;
  QString missing;
};

// The descriptor table of one process, and what is on its way to it in messages.
class DescriptorModel final : public TableModel<DescriptorRow> {
 public:
  enum ColumnNumber { kFd, kKind, kTarget, kDetails, kOtherEnd, kPosition, kFlags, kSharedWith };

  explicit DescriptorModel(QObject* parent = nullptr);

  // `process` belongs to `snapshot`, and so do `peers`; nullptr: no rows.
  void show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process,
            const DescriptorPeers& peers);
};

}  // namespace snapgdb::gui
