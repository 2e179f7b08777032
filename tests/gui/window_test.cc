#include <sys/mman.h>
#include <catch2/catch.hpp>

#include <QApplication>
#include <QClipboard>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QElapsedTimer>
#include <QFile>
#include <QLabel>
#include <QLineEdit>
#include <QMimeData>
#include <QSignalSpy>
#include <QTabWidget>
#include <QTemporaryDir>
#include <QTest>
#include <QUrl>

#include <algorithm>
#include <semaphore>
#include <set>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "gui/views/item_delegate.h"
#include "gui/views/main_window.h"
#include "tests/gui/model_text.h"

using namespace snapgdb;
using namespace snapgdb::gui;

namespace {

// A shell (10) with a child (11) of two threads, the second of which is in focus.
std::shared_ptr<const Snapshot> shell_and_child() {
  SnapshotBuilder builder;
  auto& shell = builder.process(10).thread(10).memory(0x1000, "x", PROT_READ, "/bin/sh");
  shell.record().set_name("sh");
  shell.record().add_arguments("sh");
  shell.record().add_arguments("-c");
  auto& child = builder.process(11, 10).thread(11).thread(12).unavailable(0x4000, 4096, "refused");
  child.record().set_name("sort");
  auto& descriptor = *child.record().add_descriptors();
  descriptor.set_number(3);
  descriptor.mutable_eventfd();
  builder.record().set_focus_pid(11);
  builder.record().set_focus_tid(12);
  builder.record().set_reason("SIGSEGV in 11.12");
  return builder.build();
}

BacktraceLoader::Unwind unwind_to_names(std::shared_ptr<const Snapshot>) {
  return [](const pb::Process& process, const pb::Thread& thread) {
    if (process.pid() == 10) throw Error("cannot unwind", "there is no stack");
    return std::vector<FrameRow>{
        {.number = 0, .address = 1, .function = QStringLiteral("inner%1").arg(thread.tid())},
        {.number = 1, .address = 2, .function = QStringLiteral("main")}};
  };
}

Services services(ImageLoader::Open open) {
  return {std::move(open), unwind_to_names};
}
Services good() {
  return services([](const std::string&) { return shell_and_child(); });
}

void open_and_wait(MainWindow& window, const QString& name = "x.snapgdb") {
  QSignalSpy settled(&window, &MainWindow::settled);
  window.open(name);
  REQUIRE(QTest::qWaitFor([&] { return !settled.isEmpty() && window.is_settled(); }, 10'000));
}

QString current_text(FilteredView& view, int column) {
  return view.current().siblingAtColumn(column).data().toString();
}

QString frames_text(MainWindow& window) {
  return as_text(*window.threads().frames().model(), {1});
}

void drop(MainWindow& window, const QString& file) {
  QMimeData data;
  data.setUrls({QUrl::fromLocalFile(file)});
  QDragEnterEvent enter(QPoint(5, 5), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
  QApplication::sendEvent(&window, &enter);
  REQUIRE(enter.isAccepted());
  QDropEvent dropped(QPointF(5, 5), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
  QApplication::sendEvent(&window, &dropped);
}

int colours_in(const QImage& image) {
  std::set<QRgb> colours;
  for (int y = 0; y < image.height(); ++y)
    for (int x = 0; x < image.width(); ++x) colours.insert(image.pixel(x, y));
  return static_cast<int>(colours.size());
}

}  // namespace

TEST_CASE("a window opens an image at the thread in focus, with its backtrace") {
  MainWindow window(good());
  window.show();
  open_and_wait(window);
  CHECK(window.error() == "");
  CHECK(window.windowTitle() == "x.snapgdb - snapgdb");
  CHECK(as_text(*window.processes().view().model(), {0, 1}) == "10 | sh\n  11 | sort\n");
  CHECK(current_text(window.processes(), 0) == "11");
  CHECK(current_text(window.threads().threads(), 0) == "12");
  CHECK(frames_text(window) == "inner12\nmain\n");
  CHECK(as_text(*window.descriptors().view().model(), {0, 1}) == "3 | eventfd\n");
  CHECK(as_text(*window.missing().view().model(), {0, 5}) == "11 | refused\n");
}

TEST_CASE("a window says that it is settled when the backtrace is there, not before") {
  MainWindow window(good());
  QStringList at_signal;
  QObject::connect(&window, &MainWindow::settled, [&] { at_signal += frames_text(window); });
  open_and_wait(window);
  CHECK(at_signal == QStringList{"inner12\nmain\n"});
}

TEST_CASE("selecting a process shows what is its, and a failed backtrace as a line") {
  MainWindow window(good());
  window.show();
  open_and_wait(window);
  QSignalSpy settled(&window, &MainWindow::settled);
  QTest::keyClick(&window.processes().view(), Qt::Key_Up);
  REQUIRE(QTest::qWaitFor([&] { return !settled.isEmpty(); }));
  CHECK(current_text(window.processes(), 0) == "10");
  CHECK(as_text(*window.mappings().view().model(), {0}) == "0x1000-0x2000\n");
  CHECK(window.descriptors().view().model()->rowCount() == 0);
  CHECK(frames_text(window) == "");
  const auto labels = window.threads().findChildren<QLabel*>();
  CHECK(std::ranges::any_of(labels, [](const QLabel* label) {
    return label->text().contains("cannot unwind: there is no stack");
  }));
}

TEST_CASE("process, thread and tab can be wished for") {
  MainWindow by_process(good(), {.tab = "fds", .pid = 10});
  open_and_wait(by_process);
  CHECK(current_text(by_process.processes(), 0) == "10");
  CHECK(by_process.findChild<QTabWidget*>()->currentIndex() == 2);

  MainWindow by_thread(good(), {.tid = 11});
  open_and_wait(by_thread);
  CHECK(current_text(by_thread.threads().threads(), 0) == "11");
  CHECK(frames_text(by_thread) == "inner11\nmain\n");

  MainWindow in_vain(good(), {.pid = 99});
  open_and_wait(in_vain);
  CHECK(in_vain.error() == "there is no process 99 in x.snapgdb");
  CHECK(current_text(in_vain.processes(), 0) == "11");
}

TEST_CASE("a broken file is one line in the window, and the next image opens all the same") {
  QTemporaryDir directory;
  QFile file(directory.filePath("broken.snapgdb"));
  REQUIRE(file.open(QIODevice::WriteOnly));
  file.write("This is no image.\n");
  file.close();
  MainWindow window;
  window.show();
  open_and_wait(window, file.fileName());
  CHECK(window.error().contains("image"));
  CHECK_FALSE(window.error().contains('\n'));
  CHECK(QApplication::activeModalWidget() == nullptr);
}

TEST_CASE("an image that fails to open leaves the one that is shown") {
  MainWindow window(services([](const std::string& name) -> std::shared_ptr<const Snapshot> {
    if (name == "bad") throw Error("cannot read the image", "it was cut off");
    return shell_and_child();
  }));
  window.show();
  open_and_wait(window, "good");
  open_and_wait(window, "bad");
  CHECK(window.error() == "cannot read the image: it was cut off");
  CHECK(window.windowTitle() == "good - snapgdb");
  CHECK(window.processes().view().model()->rowCount() == 1);
  open_and_wait(window, "good");
  CHECK(window.error() == "");
}

TEST_CASE("another image replaces everything that was shown of the first") {
  MainWindow window(services([](const std::string& name) -> std::shared_ptr<const Snapshot> {
    if (name == "first") return shell_and_child();
    SnapshotBuilder builder;
    builder.process(77).thread(77);
    return builder.build();
  }));
  window.show();
  open_and_wait(window, "first");
  open_and_wait(window, "second");
  CHECK(as_text(*window.processes().view().model(), {0}) == "77\n");
  CHECK(frames_text(window) == "inner77\nmain\n");
  CHECK(window.mappings().view().model()->rowCount() == 0);
  CHECK(window.missing().view().model()->rowCount() == 0);
}

TEST_CASE("an image can be dropped on the window") {
  QStringList asked;
  MainWindow window(services([&](const std::string& name) {
    asked += QString::fromStdString(name);
    return shell_and_child();
  }));
  window.show();
  QSignalSpy settled(&window, &MainWindow::settled);
  drop(window, "/tmp/dropped.snapgdb");
  REQUIRE(QTest::qWaitFor([&] { return !settled.isEmpty(); }));
  CHECK(asked == QStringList{"/tmp/dropped.snapgdb"});
  CHECK(window.processes().view().model()->rowCount() == 1);
}

TEST_CASE("text and several files cannot be dropped") {
  MainWindow window(good());
  QMimeData data;
  data.setText("hello");
  QDragEnterEvent text(QPoint(5, 5), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
  QApplication::sendEvent(&window, &text);
  CHECK_FALSE(text.isAccepted());
  data.setUrls({QUrl::fromLocalFile("/a"), QUrl::fromLocalFile("/b")});
  QDragEnterEvent two(QPoint(5, 5), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
  QApplication::sendEvent(&window, &two);
  CHECK_FALSE(two.isAccepted());
}

TEST_CASE("one of several snapshots is said to be that") {
  const auto says_which = [](size_t count) {
    MainWindow window(services([count](const std::string&) {
      Opened opened(shell_and_child());
      opened.number = 2;
      opened.count = count;
      return opened;
    }));
    window.show();
    open_and_wait(window);
    return std::ranges::any_of(window.findChildren<QLabel*>(), [](const QLabel* label) {
      return label->accessibleName() == "Snapshot" && label->text() == "2 of 5";
    });
  };
  CHECK(says_which(5));
  CHECK_FALSE(says_which(1));
}

TEST_CASE("the neighbours of a snapshot are gone to, and what was looked at stays") {
  // The second one lacks the shell's child.
  const auto open = [](const std::string& name) {
    const auto k = parse_snapshot_name(name).k;
    SnapshotBuilder shell;
    shell.process(10).thread(10).thread(13);
    Opened opened(k == 2 ? shell.build() : shell_and_child());
    opened.number = static_cast<size_t>(k);
    opened.count = 3;
    return opened;
  };
  MainWindow window(services(open), {.tab = "maps", .pid = 11, .tid = 11});
  window.show();
  open_and_wait(window, "x.snapgdb@1");
  const auto go = [&](int snapshots) {
    QSignalSpy settled(&window, &MainWindow::settled);
    window.go_by(snapshots);
    REQUIRE(QTest::qWaitFor([&] { return !settled.isEmpty() && window.is_settled(); }, 10'000));
    CHECK(window.error() == "");
    CHECK(window.findChild<QTabWidget*>()->currentIndex() == 1);
  };
  go(+2);
  CHECK(window.windowTitle() == "x.snapgdb@3 - snapgdb");
  CHECK(current_text(window.threads().threads(), 0) == "11");
  go(-1);  // not there: what this one has in focus
  CHECK(window.windowTitle() == "x.snapgdb@2 - snapgdb");
  CHECK(current_text(window.processes(), 0) == "10");
  window.go_by(+2);
  CHECK(window.is_settled());
}

TEST_CASE("a window may be closed while it reads an image, and while it unwinds") {
  struct Gate {
    std::counting_semaphore<> entered{0}, open{0};
  };
  auto gate = std::make_shared<Gate>();
  auto pass = [gate] {
    gate->entered.release();
    gate->open.acquire();
  };
  const bool while_reading = GENERATE(true, false);
  CAPTURE(while_reading);
  Services slow;
  slow.open = [=](const std::string&) {
    if (while_reading) pass();
    return shell_and_child();
  };
  slow.unwinder = [=](std::shared_ptr<const Snapshot>) -> BacktraceLoader::Unwind {
    return [=](const pb::Process&, const pb::Thread&) {
      pass();
      return std::vector<FrameRow>{};
    };
  };
  auto window = std::make_unique<MainWindow>(std::move(slow));
  window->show();
  window->open("x");
  REQUIRE(QTest::qWaitFor([&] { return gate->entered.try_acquire(); }));
  CHECK_FALSE(window->is_settled());
  window->close();
  window.reset();
  gate->open.release();
  CHECK(background_threads().waitForDone(10'000));
  QApplication::processEvents();
}

TEST_CASE("the window answers while an image is read") {
  auto gate = std::make_shared<std::counting_semaphore<>>(0);
  MainWindow window(services([gate](const std::string&) {
    gate->acquire();
    return shell_and_child();
  }));
  window.show();
  window.open("x");
  QElapsedTimer timer;
  timer.start();
  for (int i = 0; i < 10; ++i) {
    window.resize(900 + i, 600);
    QApplication::processEvents();
  }
  CHECK(timer.elapsed() < 5000);
  CHECK_FALSE(window.is_settled());
  gate->release();
  CHECK(QTest::qWaitFor([&] { return window.is_settled(); }));
}

TEST_CASE("the selected rows are copied as lines of cells, in the order shown") {
  MainWindow window(good(), {.pid = 11});
  window.show();
  open_and_wait(window);
  TableView& frames = window.threads().frames();
  frames.setFocus();
  frames.selectAll();
  QApplication::clipboard()->clear();
  QTest::keyClick(&frames, Qt::Key_C, Qt::ControlModifier);
  CHECK(QApplication::clipboard()->text() == "0\tinner12\t\t\t0x1\n1\tmain\t\t\t0x2\n");
}

TEST_CASE("Ctrl+F goes to the filter of what has the focus") {
  MainWindow window(good());
  window.show();
  window.activateWindow();
  open_and_wait(window);
  REQUIRE(QTest::qWaitForWindowActive(&window));
  window.processes().view().setFocus();
  QTest::keyClick(&window, Qt::Key_F, Qt::ControlModifier);
  CHECK(window.processes().isAncestorOf(QApplication::focusWidget()));
  CHECK(qobject_cast<QLineEdit*>(QApplication::focusWidget()));
  window.threads().frames().setFocus();
  QTest::keyClick(&window, Qt::Key_F, Qt::ControlModifier);
  CHECK(window.threads().threads().isAncestorOf(QApplication::focusWidget()));
  QTest::keyClick(&window, Qt::Key_3, Qt::ControlModifier);
  QTest::keyClick(&window, Qt::Key_F, Qt::ControlModifier);
  CHECK(window.mappings().isAncestorOf(QApplication::focusWidget()));
}

TEST_CASE("what is missing leads to the process that lacks it") {
  MainWindow window(good(), {.tab = "missing", .pid = 10});
  window.show();
  open_and_wait(window);
  REQUIRE(current_text(window.processes(), 0) == "10");
  TableView& view = window.missing().view();
  view.setCurrentIndex(view.model()->index(0, 0));
  Q_EMIT view.activated(view.currentIndex());
  CHECK(current_text(window.processes(), 0) == "11");
}

TEST_CASE("a filter that hides a process gives way when that process is gone to") {
  MainWindow window(good(), {.pid = 10});
  window.show();
  open_and_wait(window);
  window.processes().set_filter("nothing has this name");
  CHECK(window.processes().view().model()->rowCount() == 0);
  window.missing().view().setCurrentIndex(window.missing().view().model()->index(0, 0));
  Q_EMIT window.missing().view().activated({});
  CHECK(current_text(window.processes(), 0) == "11");
}

TEST_CASE("a window has something to look at") {
  MainWindow window(good());
  window.resize(1000, 700);
  window.show();
  open_and_wait(window);
  QApplication::processEvents();
  const QImage picture = window.grab().toImage();
  CHECK(picture.size() == QSize(1000, 700));
  CHECK(colours_in(picture) > 30);  // text is antialiased; a blank window has one
}

TEST_CASE("tooltips show markup as it is written") {
  CHECK(plain_tooltip("<img src=x>\nb") == "<qt>&lt;img src=x&gt;<br>b</qt>");
  CHECK(plain_tooltip("") == "");
}
