#include <catch2/catch.hpp>

#include <QCoreApplication>
#include <QSignalSpy>
#include <QTest>

#include <atomic>
#include <semaphore>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "gui/jobs/backtrace_loader.h"
#include "gui/jobs/image_loader.h"
#include "tests/gui/model_text.h"
#include "tests/unit/image/sample_image.h"

using namespace snapgdb;
using namespace snapgdb::gui;

namespace {

std::shared_ptr<const Snapshot> snapshot_of(int32_t pid) {
  SnapshotBuilder builder;
  builder.process(pid).thread(pid).thread(pid + 1).thread(pid + 2);
  return builder.build();
}

// Work that waits until the test lets it go on.
struct Gate {
  std::counting_semaphore<> entered{0};
  std::counting_semaphore<> open{0};

  void pass() {
    entered.release();
    open.acquire();
  }
};

std::vector<FrameRow> frame_named(const QString& function) {
  return {FrameRow{.number = 0, .address = 0, .function = function}};
}

}  // namespace

TEST_CASE("an image is read in another thread and arrives by signal") {
  QThread* reader = nullptr;
  ImageLoader loader(nullptr, [&](const std::string& name) {
    CHECK(name == "x.snapgdb");
    reader = QThread::currentThread();
    return snapshot_of(10);
  });
  LoadedImagePointer image;
  QObject::connect(&loader, &ImageLoader::opened,
                   [&](const LoadedImagePointer& opened) { image = opened; });
  loader.open("x.snapgdb");
  CHECK(loader.busy());
  REQUIRE(QTest::qWaitFor([&] { return image != nullptr; }));
  CHECK_FALSE(loader.busy());
  CHECK(image->name == "x.snapgdb");
  CHECK(image->snapshot->root().pid() == 10);
  CHECK(reader != QThread::currentThread());
}

TEST_CASE("which of an image's snapshots it is comes with it") {
  const test::TemporaryDirectory directory;
  ImageLoader loader;
  LoadedImagePointer image;
  QObject::connect(&loader, &ImageLoader::opened,
                   [&](const LoadedImagePointer& opened) { image = opened; });
  loader.open(QString::fromStdString(test::sample_image(directory, 1, "aba") + "@2"));
  REQUIRE(QTest::qWaitFor([&] { return image != nullptr; }));
  CHECK(image->number == 2);
  CHECK(image->count == 3);
}

TEST_CASE("an image that cannot be read is a line of text") {
  ImageLoader loader(nullptr, [](const std::string&) -> std::shared_ptr<const Snapshot> {
    throw Error("cannot read the image", "it was cut off");
  });
  QSignalSpy failed(&loader, &ImageLoader::failed);
  loader.open("x");
  REQUIRE(failed.wait());
  CHECK(failed[0][0].toString() == "cannot read the image: it was cut off");
}

TEST_CASE("a real file that is no image is refused by the real reader") {
  ImageLoader loader;
  QSignalSpy failed(&loader, &ImageLoader::failed);
  loader.open("/nonexistent.snapgdb");
  REQUIRE(failed.wait());
  CHECK(failed[0][0].toString() == "cannot open /nonexistent.snapgdb: No such file or directory");
}

TEST_CASE("of two images asked for, the later one is shown, whichever is read first") {
  auto gate = std::make_shared<Gate>();
  ImageLoader loader(nullptr, [gate](const std::string& name) {
    if (name == "slow") gate->pass();
    return snapshot_of(name == "slow" ? 1 : 2);
  });
  std::vector<int32_t> shown;
  QObject::connect(&loader, &ImageLoader::opened, [&](const LoadedImagePointer& image) {
    shown.push_back(image->snapshot->root().pid());
  });
  loader.open("slow");
  gate->entered.acquire();
  loader.open("fast");
  REQUIRE(QTest::qWaitFor([&] { return !shown.empty(); }));
  gate->open.release();
  background_threads().waitForDone();
  QCoreApplication::processEvents();
  CHECK(shown == std::vector<int32_t>{2});
}

TEST_CASE("a loader may go while it reads") {
  auto gate = std::make_shared<Gate>();
  auto loader = std::make_unique<ImageLoader>(nullptr, [gate](const std::string&) {
    gate->pass();
    return snapshot_of(1);
  });
  bool heard = false;
  QObject::connect(loader.get(), &ImageLoader::opened, [&] { heard = true; });
  loader->open("x");
  gate->entered.acquire();
  loader.reset();
  gate->open.release();
  background_threads().waitForDone();
  QCoreApplication::processEvents();
  CHECK_FALSE(heard);
}

TEST_CASE("running through many threads unwinds the first and the last") {
  auto gate = std::make_shared<Gate>();
  auto unwound = std::make_shared<std::vector<int32_t>>();
  const auto snapshot = snapshot_of(10);
  BacktraceLoader loader(snapshot, [=](const pb::Process&, const pb::Thread& thread) {
    unwound->push_back(thread.tid());
    gate->pass();
    return frame_named(QString::number(thread.tid()));
  });
  QStringList shown;
  QObject::connect(&loader, &BacktraceLoader::ready,
                   [&](const std::vector<FrameRow>& frames) { shown += frames[0].function; });
  for (const pb::Thread& thread : snapshot->root().threads()) loader.want(snapshot->root(), thread);
  gate->open.release(10);
  REQUIRE(QTest::qWaitFor([&] { return !shown.isEmpty(); }));
  CHECK(*unwound == std::vector<int32_t>{10, 12});
  CHECK(shown == QStringList{"12"});
  CHECK_FALSE(loader.busy());
}

TEST_CASE("unwinding never runs twice at once") {
  std::atomic<int> running = 0;
  std::atomic<bool> overlapped = false;
  const auto snapshot = snapshot_of(10);
  BacktraceLoader loader(snapshot, [&](const pb::Process&, const pb::Thread&) {
    if (++running > 1) overlapped = true;
    QThread::msleep(5);
    --running;
    return frame_named("f");
  });
  for (int i = 0; i < 30; ++i) {
    loader.want(snapshot->root(), snapshot->root().threads(i % 3));
    QCoreApplication::processEvents();
    QThread::msleep(2);
  }
  REQUIRE(QTest::qWaitFor([&] { return !loader.busy(); }));
  CHECK_FALSE(overlapped);
}

TEST_CASE("a backtrace that nobody wants any more is not delivered") {
  const auto snapshot = snapshot_of(10);
  BacktraceLoader loader(snapshot,
                         [](const pb::Process&, const pb::Thread&) { return frame_named("f"); });
  QSignalSpy ready(&loader, &BacktraceLoader::ready);
  loader.want(snapshot->root(), snapshot->root().threads(0));
  loader.forget();
  CHECK_FALSE(loader.busy());
  background_threads().waitForDone();
  QCoreApplication::processEvents();
  CHECK(ready.isEmpty());
}
