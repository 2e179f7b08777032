#pragma once

#include <QMainWindow>

#include <memory>
#include <optional>

#include "gui/jobs/image_loader.h"
#include "gui/models/descriptor_model.h"
#include "gui/models/mapping_model.h"
#include "gui/models/missing_model.h"
#include "gui/models/process_tree_model.h"
#include "gui/views/elided_label.h"
#include "gui/views/filtered_view.h"
#include "gui/views/message_bar.h"
#include "gui/views/summary_view.h"
#include "gui/views/threads_panel.h"

class QAction;
class QLabel;
class QProgressBar;
class QStackedWidget;
class QTabWidget;

namespace snapgdb::gui {

// How images are opened and threads unwound; a test puts its own in.
struct Services {
  ImageLoader::Open open;  // empty: open_with_image()
  std::function<BacktraceLoader::Unwind(std::shared_ptr<const Snapshot>)> unwinder = unwinder_of;
};

// What to show first instead of what the snapshot suggests.
struct Wishes {
  QString tab;      // one of MainWindow::tab_names(), "" for the first
  int32_t pid = 0;  // 0: that of the thread in focus
  int32_t tid = 0;
  bool must_be_there = true;  // or else something is said
};

class MainWindow final : public QMainWindow {
  Q_OBJECT

 public:
  explicit MainWindow(Services services = {}, Wishes wishes = {}, QWidget* parent = nullptr);
  ~MainWindow() override;

  // Names that choose a tab on the command line.
  static QStringList tab_names();

  // Reads an image in the background ("IMG" or "IMG@K").
  void open(const QString& name);

  // So many snapshots further in the image, or back; process, thread and tab stay as they are, if
  // they can. Nothing happens where there is none.
  void go_by(int snapshots);

  // Nothing is being read or unwound.
  bool is_settled() const;
  // Why the last image could not be opened, or what was wished for is not in it; "" if all is well.
  QString error() const { return message_->text(); }

  FilteredView& processes() { return *processes_; }
  ThreadsPanel& threads() { return *threads_; }
  FilteredView& mappings() { return *mappings_; }
  FilteredView& descriptors() { return *descriptors_; }
  FilteredView& missing() { return *missing_; }

 Q_SIGNALS:
  // What was asked for is shown, or an error is.
  void settled();

 protected:
  void dragEnterEvent(QDragEnterEvent* event) override;
  void dropEvent(QDropEvent* event) override;

 private:
  QWidget* make_welcome();
  QWidget* make_browser();
  void add_tabs();
  QWidget* make_header();
  void make_menus();
  void make_view_menu();
  QAction* make_step(const QString& text, const QString& arrow, Qt::Key key, int snapshots);
  void make_status_bar();
  void show_image(const LoadedImagePointer& image);
  void show_failure(const QString& line);
  void show_process(const QModelIndex& index);
  // Selects what was wished for, or else what the snapshot has in focus.
  void select_first();
  void go_to(int32_t pid, int32_t tid);
  void set_loading(const QString& name);  // "": nothing is being read
  void settle_if_done();
  void choose_file();
  void copy();
  void focus_filter();

  Services services_;
  Wishes wishes_;
  LoadedImagePointer image_;

  ProcessTreeModel process_model_;
  MappingModel mapping_model_;
  DescriptorModel descriptor_model_;
  MissingModel missing_model_;

  MessageBar* message_;
  QStackedWidget* pages_;
  QLabel* welcome_;
  ElidedLabel* program_;
  ElidedLabel* circumstances_;
  QAction* earlier_;
  QAction* later_;
  FilteredView* processes_;
  QTabWidget* tabs_;
  ThreadsPanel* threads_;
  FilteredView* mappings_;
  FilteredView* descriptors_;
  FilteredView* missing_;
  SummaryView* summary_;
  QLabel* status_;
  QProgressBar* progress_;
  int32_t next_tid_ = 0;  // the thread to select with the next process

  ImageLoader loader_;  // last: its signals reach widgets that are still there
};

}  // namespace snapgdb::gui
