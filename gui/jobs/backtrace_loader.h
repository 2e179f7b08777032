#pragma once

#include <QFutureWatcher>
#include <QObject>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/image/snapshot.h"
#include "gui/jobs/background.h"
#include "gui/models/frame_model.h"

namespace snapgdb::gui {

// Unwinds threads of one snapshot in the background, one at a time: of what is wanted meanwhile
// only the latest counts, so that running through a list of threads does not pile up work. May be
// destroyed at any time.
class BacktraceLoader final : public QObject {
  Q_OBJECT

 public:
  // Called in another thread, but never by two at once.
  using Unwind =
      std::function<std::vector<FrameRow>(const pb::Process& process, const pb::Thread& thread)>;

  BacktraceLoader(std::shared_ptr<const Snapshot> snapshot, Unwind unwind,
                  QObject* parent = nullptr);

  // Both belong to the snapshot. Signals about what was wanted before are not sent any more.
  void want(const pb::Process& process, const pb::Thread& thread);
  // Nothing is wanted any more.
  void forget();
  bool busy() const { return wanted_.has_value(); }

 Q_SIGNALS:
  void ready(const std::vector<snapgdb::gui::FrameRow>& frames);
  void failed(const QString& line);

 private:
  struct Wish {
    const pb::Process* process;
    const pb::Thread* thread;
    bool operator==(const Wish&) const = default;
  };

  void start();
  void deliver();

  std::shared_ptr<const Snapshot> snapshot_;
  Unwind unwind_;
  std::optional<Wish> wanted_;
  std::optional<Wish> in_work_;
  QFutureWatcher<Outcome<std::vector<FrameRow>>> watcher_;
};

// Unwinds with libdw; keeps what it has read of the snapshot's files from call to call.
BacktraceLoader::Unwind unwinder_of(std::shared_ptr<const Snapshot> snapshot);

}  // namespace snapgdb::gui
