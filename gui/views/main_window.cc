#include "gui/views/main_window.h"

#include <QAction>
#include <QApplication>
#include <QDragEnterEvent>
#include <QFile>
#include <QFileDialog>
#include <QFileInfo>
#include <QGridLayout>
#include <QLabel>
#include <QMenuBar>
#include <QMimeData>
#include <QProgressBar>
#include <QPushButton>
#include <QStackedWidget>
#include <QStatusBar>
#include <QTabWidget>
#include <QToolButton>
#include <QVBoxLayout>

#include <array>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

struct Tab {
  const char* name;   // on the command line
  const char* title;  // & before the letter that Alt takes to it
  const char* tooltip;
};

// In the order of the tabs.
constexpr std::array kTabs{
    Tab{"threads", "&Threads", "The threads of the process and where each of them was"},
    Tab{"maps", "&Memory map", "The memory of the process and what the image holds of it"},
    Tab{"fds", "&Descriptors", "What the process had open, and who has the other end"},
    Tab{"missing", "M&issing", "What is not in the snapshot, and why"},
    Tab{"summary", "&Summary", "When, where, why and how the snapshot was taken"},
};
constexpr int kMissingTab = 3;

int tab_number(const QString& name) {
  for (size_t i = 0; i < kTabs.size(); ++i)
    if (name == QLatin1String(kTabs[i].name)) return static_cast<int>(i);
  return 0;
}

QString dropped_file(const QMimeData* data) {
  const QList<QUrl> urls = data->urls();
  return urls.size() == 1 && urls[0].isLocalFile() ? urls[0].toLocalFile() : QString();
}

// Who a thread belongs to; 0: nobody here.
int32_t process_of(const Snapshot& snapshot, int32_t tid) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      if (thread.tid() == tid) return process.pid();
  return 0;
}

bool has_thread(const pb::Process& process, int32_t tid) {
  for (const pb::Thread& thread : process.threads())
    if (thread.tid() == tid) return true;
  return false;
}

// "2 of 5", if there are others to be looked at.
QString place(const LoadedImage& image) {
  return image.count > 1 ? QStringLiteral("%1 of %2").arg(image.number).arg(image.count)
                         : QString();
}

std::vector<Fact> facts_of(const LoadedImage& image) {
  std::vector<Fact> facts = snapshot_facts(*image.snapshot);
  if (const QString which = place(image); !which.isEmpty())
    facts.insert(facts.begin(),
                 {QStringLiteral("Snapshot"), which,
                  QStringLiteral("Which of the image's snapshots it is; IMG@K opens the K-th")});
  return facts;
}

// "snapshot 2 of 5 · SIGSEGV in 12.14 · 2024-03-01 12:00:00 · build-7 · paused for 1.24 ms"
QString circumstances(const LoadedImage& image, const std::vector<Fact>& facts) {
  QStringList parts;
  if (const QString which = place(image); !which.isEmpty())
    parts += QStringLiteral("snapshot ") + which;
  for (const char* name : {"Reason", "Taken", "Host", "Paused for"})
    for (const Fact& fact : facts)
      if (fact.name == QLatin1String(name))
        parts += fact.name == QLatin1String("Paused for")
                     ? QStringLiteral("paused for ") + fact.value
                     : fact.value;
  return parts.join(QStringLiteral(" · "));
}

}  // namespace

MainWindow::MainWindow(Services services, Wishes wishes, QWidget* parent)
    : QMainWindow(parent),
      services_(std::move(services)),
      wishes_(std::move(wishes)),
      message_(new MessageBar),
      pages_(new QStackedWidget),
      loader_(nullptr, services_.open) {
  pages_->addWidget(make_welcome());
  pages_->addWidget(make_browser());
  auto* central = new QWidget;
  auto* layout = new QVBoxLayout(central);
  layout->setContentsMargins(6, 6, 6, 0);
  layout->addWidget(message_);
  layout->addWidget(pages_);
  setCentralWidget(central);
  make_status_bar();
  make_menus();
  setAcceptDrops(true);
  setWindowTitle(QStringLiteral("snapgdb"));
  resize(1360, 820);

  connect(&loader_, &ImageLoader::opened, this, &MainWindow::show_image);
  connect(&loader_, &ImageLoader::failed, this, &MainWindow::show_failure);
  connect(threads_, &ThreadsPanel::settled, this, &MainWindow::settle_if_done);
}

MainWindow::~MainWindow() {
  delete takeCentralWidget();
}  // views before the models they show

QStringList MainWindow::tab_names() {
  QStringList names;
  for (const Tab& tab : kTabs) names += QLatin1String(tab.name);
  return names;
}

// ---- Making the window ----

QWidget* MainWindow::make_welcome() {
  auto* page = new QWidget;
  welcome_ = new QLabel;
  welcome_->setTextFormat(Qt::PlainText);
  welcome_->setAlignment(Qt::AlignCenter);
  auto* button = new QPushButton(QStringLiteral("&Open an image…"));
  connect(button, &QPushButton::clicked, this, &MainWindow::choose_file);
  auto* layout = new QVBoxLayout(page);
  layout->addStretch(2);
  layout->addWidget(welcome_);
  layout->addWidget(button, 0, Qt::AlignCenter);
  layout->addStretch(3);
  welcome_->setText(QStringLiteral("Drop an image (*.snapgdb) here, or open one with Ctrl+O."));
  return page;
}

// What it is a picture of, with the way to its neighbours.
QWidget* MainWindow::make_header() {
  program_ = new ElidedLabel;
  QFont bold = font();
  bold.setBold(true);
  program_->setFont(bold);
  circumstances_ = new ElidedLabel;
  circumstances_->setForegroundRole(QPalette::PlaceholderText);
  earlier_ = make_step(QStringLiteral("&Earlier"), QStringLiteral("◀"), Qt::Key_Left, -1);
  later_ = make_step(QStringLiteral("&Later"), QStringLiteral("▶"), Qt::Key_Right, +1);

  auto* header = new QWidget;
  auto* layout = new QGridLayout(header);
  layout->setContentsMargins({});
  layout->setSpacing(3);
  layout->setColumnStretch(2, 1);
  layout->addWidget(program_, 0, 0, 1, 3);
  for (QAction* step : {earlier_, later_}) {
    auto* button = new QToolButton;
    button->setAutoRaise(true);
    button->setDefaultAction(step);
    button->setAccessibleName(step->toolTip());
    button->hide();
    connect(step, &QAction::changed, button,
            [step, button] { button->setVisible(step->isVisible()); });
    layout->addWidget(button, 1, step == earlier_ ? 0 : 1);
  }
  layout->addWidget(circumstances_, 1, 2);
  return header;
}

QAction* MainWindow::make_step(const QString& text, const QString& arrow, Qt::Key key,
                               int snapshots) {
  auto* step = new QAction(text, this);
  step->setIconText(arrow);
  step->setShortcut(Qt::ALT | key);
  step->setToolTip(snapshots < 0 ? QStringLiteral("The snapshot before this one (Alt+Left)")
                                 : QStringLiteral("The snapshot after this one (Alt+Right)"));
  step->setVisible(false);
  connect(step, &QAction::triggered, this, [this, snapshots] { go_by(snapshots); });
  return step;
}

QWidget* MainWindow::make_browser() {
  processes_ = new FilteredView(&process_model_, QStringLiteral("Processes"),
                                FilteredView::Nouns{"process", "processes"});
  processes_->show_as_tree();
  processes_->view().setSelectionMode(QAbstractItemView::SingleSelection);
  connect(processes_, &FilteredView::current_changed, this, &MainWindow::show_process);

  tabs_ = new QTabWidget;
  tabs_->setDocumentMode(true);
  add_tabs();

  auto* splitter = new QSplitter;
  splitter->addWidget(processes_);
  splitter->addWidget(tabs_);
  splitter->setStretchFactor(0, 1);
  splitter->setStretchFactor(1, 3);
  splitter->setSizes({520, 840});
  splitter->setChildrenCollapsible(false);

  auto* page = new QWidget;
  auto* layout = new QVBoxLayout(page);
  layout->setContentsMargins({});
  layout->setSpacing(3);
  layout->addWidget(make_header());
  layout->addWidget(splitter, 1);
  return page;
}

void MainWindow::add_tabs() {
  threads_ = new ThreadsPanel;
  mappings_ = new FilteredView(&mapping_model_, QStringLiteral("Memory map"),
                               FilteredView::Nouns{"mapping", "mappings"});
  descriptors_ = new FilteredView(&descriptor_model_, QStringLiteral("Descriptors"),
                                  FilteredView::Nouns{"descriptor", "descriptors"});
  missing_ = new FilteredView(&missing_model_, QStringLiteral("Missing"),
                              FilteredView::Nouns{"missing", "missing"});
  mappings_->set_nothing(QStringLiteral("The process has no memory"));
  descriptors_->set_nothing(QStringLiteral("The process has nothing open"));
  missing_->set_nothing(QStringLiteral("Nothing is missing"));
  summary_ = new SummaryView;
  const std::array<QWidget*, kTabs.size()> widgets{threads_, mappings_, descriptors_, missing_,
                                                   summary_};
  for (size_t i = 0; i < kTabs.size(); ++i) {
    const int number = tabs_->addTab(widgets[i], QString::fromUtf8(kTabs[i].title));
    tabs_->setTabToolTip(number, QString::fromUtf8(kTabs[i].tooltip));
  }
  connect(&missing_->view(), &QTreeView::activated, this, [this] {
    const QModelIndex index = missing_->current();
    if (!index.isValid()) return;
    const MissingRow& row = missing_model_.rows()[static_cast<size_t>(index.row())];
    go_to(row.pid, row.tid);
  });
}

void MainWindow::make_menus() {
  QMenu* file = menuBar()->addMenu(QStringLiteral("&File"));
  file->addAction(QStringLiteral("&Open…"), QKeySequence::Open, this, &MainWindow::choose_file);
  file->addSeparator();
  file->addAction(QStringLiteral("&Quit"), QKeySequence(Qt::CTRL | Qt::Key_Q), this,
                  &QWidget::close);
  QMenu* edit = menuBar()->addMenu(QStringLiteral("&Edit"));
  edit->addAction(QStringLiteral("&Copy rows"), QKeySequence::Copy, this, &MainWindow::copy);
  edit->addAction(QStringLiteral("&Filter"), QKeySequence(Qt::CTRL | Qt::Key_F), this,
                  &MainWindow::focus_filter);
  make_view_menu();
}

void MainWindow::make_view_menu() {
  QMenu* view = menuBar()->addMenu(QStringLiteral("&View"));
  view->addAction(QStringLiteral("&Processes"), QKeySequence(Qt::CTRL | Qt::Key_1), this,
                  [this] { processes_->setFocus(); });
  for (size_t i = 0; i < kTabs.size(); ++i) {
    const int number = static_cast<int>(i);
    view->addAction(QString::fromUtf8(kTabs[i].title),
                    QKeySequence(Qt::CTRL | (Qt::Key_2 + number)), this, [this, number] {
                      tabs_->setCurrentIndex(number);
                      tabs_->currentWidget()->setFocus();
                    });
  }
  view->addSeparator();
  view->addActions({earlier_, later_});
}

void MainWindow::make_status_bar() {
  status_ = new QLabel;
  status_->setTextFormat(Qt::PlainText);
  progress_ = new QProgressBar;
  progress_->setRange(0, 0);  // how long it takes is not known
  progress_->setMaximumWidth(120);
  progress_->setMaximumHeight(fontMetrics().height());
  progress_->hide();
  statusBar()->addWidget(status_, 1);
  statusBar()->addPermanentWidget(progress_);
}

// ---- Opening ----

void MainWindow::open(const QString& name) {
  set_loading(name);
  loader_.open(name);
}

void MainWindow::go_by(int snapshots) {
  if (!image_) return;
  const auto number = static_cast<int64_t>(image_->number) + snapshots;
  if (number < 1 || number > static_cast<int64_t>(image_->count)) return;
  const pb::Process* process = process_model_.process(processes_->current());
  const pb::Thread* thread = threads_->current();
  wishes_ = {.tab = {},
             .pid = process ? process->pid() : 0,
             .tid = thread ? thread->tid() : 0,
             .must_be_there = false};
  const std::string path = parse_snapshot_name(QFile::encodeName(image_->name).toStdString()).path;
  open(QStringLiteral("%1@%2").arg(QFile::decodeName(path.c_str())).arg(number));
}

void MainWindow::set_loading(const QString& name) {
  progress_->setVisible(!name.isEmpty());
  if (!name.isEmpty())
    status_->setText(QStringLiteral("Reading %1…").arg(name));
  else
    status_->setText(image_
                         ? QStringLiteral("%1: %2").arg(image_->name, tree_size(*image_->snapshot))
                         : QString());
}

void MainWindow::show_image(const LoadedImagePointer& image) {
  message_->hide();
  threads_->set_snapshot(image->snapshot, services_.unwinder(image->snapshot));
  show_process({});  // nothing of the old one is shown below the new one's tree
  image_ = image;
  process_model_.show(image->snapshot);
  missing_model_.set_rows(image->missing, image);
  tabs_->setTabText(kMissingTab, image->missing.empty()
                                     ? QString::fromUtf8(kTabs[kMissingTab].title)
                                     : QStringLiteral("M&issing (%1)").arg(image->missing.size()));
  const std::vector<Fact> facts = facts_of(*image);
  summary_->show_snapshot(facts);
  program_->set_text(program_title(*image->snapshot));
  circumstances_->set_text(circumstances(*image, facts));
  for (QAction* step : {earlier_, later_}) step->setVisible(image->count > 1);
  earlier_->setEnabled(image->number > 1);
  later_->setEnabled(image->number < image->count);
  setWindowTitle(QStringLiteral("%1 - snapgdb").arg(QFileInfo(image->name).fileName()));
  pages_->setCurrentIndex(1);
  set_loading({});
  select_first();
}

void MainWindow::show_failure(const QString& line) {
  set_loading({});
  message_->show_error(line);
  settle_if_done();
}

void MainWindow::select_first() {
  const Wishes wishes = std::exchange(wishes_, {});
  const Snapshot& snapshot = *image_->snapshot;
  if (!wishes.tab.isEmpty()) tabs_->setCurrentIndex(tab_number(wishes.tab));
  const int32_t wished = wishes.pid || !wishes.tid ? wishes.pid : process_of(snapshot, wishes.tid);
  const pb::Process* process = snapshot.process(wished);
  if (wishes.must_be_there && wishes.pid && !process)
    message_->show_error(
        QStringLiteral("there is no process %1 in %2").arg(wishes.pid).arg(image_->name));
  else if (wishes.must_be_there && wishes.tid && !(process && has_thread(*process, wishes.tid)))
    message_->show_error(
        QStringLiteral("there is no such thread %1 in %2").arg(wishes.tid).arg(image_->name));
  const pb::Process* focus = snapshot.process(snapshot.record().focus_pid());
  if (!process) process = focus ? focus : &snapshot.root();
  go_to(process->pid(), wishes.tid);
  processes_->view().setFocus();
}

void MainWindow::go_to(int32_t pid, int32_t tid) {
  const QModelIndex index = process_model_.find(pid);
  if (!index.isValid()) return;
  next_tid_ = tid;
  if (processes_->current() == index)
    show_process(index);
  else
    processes_->select(index);
}

void MainWindow::show_process(const QModelIndex& index) {
  const pb::Process* process = process_model_.process(index);
  const std::shared_ptr<const Snapshot> snapshot = image_ ? image_->snapshot : nullptr;
  mapping_model_.show(snapshot, process);
  if (image_) descriptor_model_.show(snapshot, process, *image_->peers);
  if (!process) {
    summary_->show_process({}, {});
    threads_->show_process(nullptr, 0);
    return;
  }
  summary_->show_process(
      QStringLiteral("Process %1, %2").arg(process->pid()).arg(text(process->name())),
      process_facts(*process));
  int32_t tid = std::exchange(next_tid_, 0);
  const pb::SnapshotRecord& record = snapshot->record();
  if (!tid && process->pid() == record.focus_pid()) tid = record.focus_tid();
  threads_->show_process(process, tid);
}

bool MainWindow::is_settled() const {
  return !loader_.busy() && !threads_->busy();
}

void MainWindow::settle_if_done() {
  if (is_settled()) Q_EMIT settled();
}

void MainWindow::choose_file() {
  auto* dialog = new QFileDialog(this, QStringLiteral("Open an image"), QString(),
                                 QStringLiteral("Images (*.snapgdb);;All files (*)"));
  dialog->setFileMode(QFileDialog::ExistingFile);
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  connect(dialog, &QFileDialog::fileSelected, this, &MainWindow::open);
  dialog->open();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
  if (!dropped_file(event->mimeData()).isEmpty()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) {
  const QString file = dropped_file(event->mimeData());
  if (file.isEmpty()) return;
  event->acceptProposedAction();
  open(file);
}

// ---- Acting on what has the focus ----

void MainWindow::copy() {
  if (const auto* view = dynamic_cast<TableView*>(QApplication::focusWidget()))
    view->copy_selection();
}

void MainWindow::focus_filter() {
  const QWidget* focus = QApplication::focusWidget();
  const std::array<FilteredView*, kTabs.size()> of_tab{&threads_->threads(), mappings_,
                                                       descriptors_, missing_, nullptr};
  FilteredView* in_tab = of_tab[static_cast<size_t>(tabs_->currentIndex())];
  if (!in_tab || (focus && processes_->isAncestorOf(focus)))
    processes_->focus_filter();
  else
    in_tab->focus_filter();
}

}  // namespace snapgdb::gui
