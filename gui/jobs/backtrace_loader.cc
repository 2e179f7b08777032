#include "gui/jobs/backtrace_loader.h"

#include "core/inspect/backtrace.h"

namespace snapgdb::gui {

BacktraceLoader::BacktraceLoader(std::shared_ptr<const Snapshot> snapshot, Unwind unwind,
                                 QObject* parent)
    : QObject(parent), snapshot_(std::move(snapshot)), unwind_(std::move(unwind)) {
  connect(&watcher_, &QFutureWatcherBase::finished, this, &BacktraceLoader::deliver);
}

void BacktraceLoader::want(const pb::Process& process, const pb::Thread& thread) {
  wanted_ = Wish{&process, &thread};
  if (!in_work_) start();
}

void BacktraceLoader::forget() {
  wanted_.reset();
}

void BacktraceLoader::start() {
  in_work_ = wanted_;
  watcher_.setFuture(run_in_background([snapshot = snapshot_, unwind = unwind_, wish = *wanted_] {
    return unwind(*wish.process, *wish.thread);
  }));
}

void BacktraceLoader::deliver() {
  const bool still_wanted = in_work_ == wanted_;
  in_work_.reset();
  if (!still_wanted) {
    if (wanted_) start();
    return;
  }
  wanted_.reset();
  const auto outcome = watcher_.result();
  if (const auto* frames = std::get_if<std::vector<FrameRow>>(&outcome))
    Q_EMIT ready(*frames);
  else
    Q_EMIT failed(std::get<QString>(outcome));
}

BacktraceLoader::Unwind unwinder_of(std::shared_ptr<const Snapshot> snapshot) {
  auto backtracer = std::make_shared<Backtracer>(std::move(snapshot));
  return [backtracer](const pb::Process& process, const pb::Thread& thread) {
    const Backtrace backtrace = backtracer->backtrace(process, thread);
    return frame_rows(backtrace, backtracer->problems());
  };
}

}  // namespace snapgdb::gui
