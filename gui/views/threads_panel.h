#pragma once

#include <QSplitter>

#include <memory>

#include "gui/jobs/backtrace_loader.h"
#include "gui/models/frame_model.h"
#include "gui/models/thread_model.h"
#include "gui/views/filtered_view.h"

class QLabel;

namespace snapgdb::gui {

// The threads of a process, and below them the backtrace of the one that is selected.
class ThreadsPanel final : public QSplitter {
  Q_OBJECT

 public:
  explicit ThreadsPanel(QWidget* parent = nullptr);
  ~ThreadsPanel() override;

  // A new image: `unwind` is how its threads are unwound.
  void set_snapshot(std::shared_ptr<const Snapshot> snapshot, BacktraceLoader::Unwind unwind);
  // nullptr: none. Selects `tid`, or the first thread if there is no such.
  void show_process(const pb::Process* process, int32_t tid);

  const pb::Thread* current() const { return thread_; }  // nullptr: none

  FilteredView& threads() { return *threads_; }
  TableView& frames() { return *frames_; }
  bool busy() const { return loader_ && loader_->busy(); }

 Q_SIGNALS:
  // A backtrace is there, or could not be made, or the process has no thread to have one.
  void settled();

 private:
  void show_thread(const QModelIndex& index);
  void show_frames(const std::vector<FrameRow>& frames);
  void show_failure(const QString& line);
  QString heading(const QString& what) const;

  ThreadModel thread_model_;
  FrameModel frame_model_;
  FilteredView* threads_;
  QLabel* heading_;
  TableView* frames_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<BacktraceLoader> loader_;
  const pb::Process* process_ = nullptr;
  const pb::Thread* thread_ = nullptr;
};

}  // namespace snapgdb::gui
