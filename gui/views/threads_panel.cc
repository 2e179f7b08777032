#include "gui/views/threads_panel.h"

#include <QLabel>
#include <QVBoxLayout>

#include "gui/models/text.h"

namespace snapgdb::gui {

ThreadsPanel::ThreadsPanel(QWidget* parent)
    : QSplitter(Qt::Vertical, parent),
      threads_(new FilteredView(&thread_model_, QStringLiteral("Threads"),
                                FilteredView::Nouns{"thread", "threads"})),
      heading_(new QLabel),
      frames_(new TableView(QStringLiteral("Backtrace"))) {
  threads_->set_nothing(QStringLiteral("The process has no threads"));
  threads_->view().setSelectionMode(QAbstractItemView::SingleSelection);
  heading_->setTextFormat(Qt::PlainText);
  heading_->setWordWrap(true);
  heading_->setContentsMargins(2, 4, 2, 0);
  frames_->setModel(&frame_model_);

  heading_->setBuddy(frames_);

  auto* below = new QWidget;
  auto* layout = new QVBoxLayout(below);
  layout->setContentsMargins({});
  layout->addWidget(heading_);
  layout->addWidget(frames_);
  addWidget(threads_);
  addWidget(below);
  setStretchFactor(0, 1);
  setStretchFactor(1, 2);
  setChildrenCollapsible(false);
  setFocusProxy(threads_);

  connect(threads_, &FilteredView::current_changed, this, &ThreadsPanel::show_thread);
}

ThreadsPanel::~ThreadsPanel() {  // views before the models they show
  delete threads_;
  delete frames_;
}

void ThreadsPanel::set_snapshot(std::shared_ptr<const Snapshot> snapshot,
                                BacktraceLoader::Unwind unwind) {
  show_process(nullptr, 0);
  snapshot_ = std::move(snapshot);
  loader_ = std::make_unique<BacktraceLoader>(snapshot_, std::move(unwind));
  connect(loader_.get(), &BacktraceLoader::ready, this, &ThreadsPanel::show_frames);
  connect(loader_.get(), &BacktraceLoader::failed, this, &ThreadsPanel::show_failure);
}

void ThreadsPanel::show_process(const pb::Process* process, int32_t tid) {
  process_ = process;
  thread_model_.show(snapshot_, process);
  int row = 0;
  for (int i = 0; process && i < process->threads_size(); ++i)
    if (process->threads(i).tid() == tid) row = i;
  threads_->select(thread_model_.index(row, 0));
  if (!thread_model_.rowCount()) show_thread({});
}

void ThreadsPanel::show_thread(const QModelIndex& index) {
  thread_ =
      index.isValid() ? thread_model_.rows()[static_cast<size_t>(index.row())].thread : nullptr;
  frame_model_.set_rows({});
  if (!process_ || !thread_) {
    if (loader_) loader_->forget();
    heading_->setText(process_ ? QStringLiteral("No thread, no backtrace") : QString());
    if (process_) Q_EMIT settled();
    return;
  }
  heading_->setText(heading(QStringLiteral("unwinding…")));
  loader_->want(*process_, *thread_);
}

void ThreadsPanel::show_frames(const std::vector<FrameRow>& frames) {
  const QString why_no_more = frames.empty() ? QString() : frames.back().missing;
  heading_->setText(
      heading(why_no_more.isEmpty() ? QString() : QStringLiteral("incomplete, ") + why_no_more));
  frame_model_.set_rows(frames);
  Q_EMIT settled();
}

void ThreadsPanel::show_failure(const QString& line) {
  heading_->setText(heading(line));
  Q_EMIT settled();
}

QString ThreadsPanel::heading(const QString& what) const {
  const QString of =
      QStringLiteral("Backtrace of thread %1, %2").arg(thread_->tid()).arg(text(thread_->name()));
  return what.isEmpty() ? of : QStringLiteral("%1: %2").arg(of, what);
}

}  // namespace snapgdb::gui
