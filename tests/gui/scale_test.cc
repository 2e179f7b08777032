#include <fmt/format.h>
#include <sys/mman.h>
#include <catch2/catch.hpp>

#include <QApplication>
#include <QElapsedTimer>
#include <QTest>

#include "core/image/snapshot_builder.h"
#include "gui/models/filter_proxy.h"
#include "gui/models/mapping_model.h"
#include "gui/models/missing_model.h"
#include "gui/models/process_tree_model.h"
#include "gui/models/thread_model.h"
#include "gui/views/filtered_view.h"

using namespace snapgdb;
using namespace snapgdb::gui;

// Times are far above what an optimised build needs (a few ms to 100 ms), so that a debug build
// under a sanitizer on a busy machine passes, and far below what quadratic work takes (minutes).
namespace {

constexpr int kMappings = 100'000;

qint64 milliseconds(const std::function<void()>& work) {
  QElapsedTimer timer;
  timer.start();
  work();
  return timer.elapsed();
}

std::shared_ptr<const Snapshot> many_processes() {
  SnapshotBuilder builder;
  for (int32_t pid = 1; pid <= 1000; ++pid) {
    auto& process = builder.process(pid, pid / 4);
    process.record().set_name(fmt::format("worker-{}", pid));
    for (int32_t thread = 0; thread < 10; ++thread) process.thread(pid + thread * 1000);
    for (uint64_t i = 1; i <= 100; ++i) process.zeros(i * 0x10000, 0x1000);
  }
  return builder.build();
}

std::shared_ptr<const Snapshot> many_mappings() {
  SnapshotBuilder builder;
  auto& process = builder.process(1).thread(1);
  for (uint64_t i = 1; i <= kMappings; ++i) {
    if (i % 2)
      process.zeros(i * 0x10000, 0x1000 * (i % 7 + 1));
    else
      process.unavailable(i * 0x10000, 0x1000, "refused");
  }
  return builder.build();
}

}  // namespace

TEST_CASE("a thousand processes of ten threads fill tree and tables at once") {
  const auto snapshot = many_processes();
  ProcessTreeModel tree;
  ThreadModel threads;
  FilteredView view(&tree, "Processes", {"process", "processes"});
  view.show_as_tree();
  view.show();
  const qint64 populate = milliseconds([&] {
    tree.show(snapshot);
    threads.show(snapshot, snapshot->process(1000));
    QApplication::processEvents();
  });
  const qint64 filter = milliseconds([&] { view.set_filter("worker-77"); });
  INFO(populate << " ms to fill, " << filter << " ms to filter");
  CHECK(threads.rowCount() == 10);
  CHECK(populate < 1000);
  CHECK(filter < 1000);
}

TEST_CASE("a hundred thousand mappings fill, sort and filter without freezing the window") {
  const auto snapshot = many_mappings();
  MappingModel model;
  FilteredView view(&model, "Memory map", {"mapping", "mappings"});
  view.show();
  const qint64 populate = milliseconds([&] {
    model.show(snapshot, &snapshot->root());
    QApplication::processEvents();
  });
  const qint64 sort = milliseconds([&] {
    view.view().sortByColumn(MappingModel::kSize, Qt::DescendingOrder);
    QApplication::processEvents();
  });
  const qint64 filter = milliseconds([&] {
    view.set_filter("missing");  // every other row goes
    REQUIRE(QTest::qWaitFor([&] { return view.proxy().rowCount() == kMappings / 2; }, 60'000));
  });
  const qint64 missing = milliseconds([&] { find_missing(*snapshot); });
  INFO(populate << " ms to fill, " << sort << " ms to sort, " << filter << " ms to filter, "
                << missing << " ms to find what is missing");
  CHECK(populate < 2000);
  CHECK(sort < 10'000);
  CHECK(filter < 10'000);
  CHECK(missing < 5000);
}

TEST_CASE("a row that was selected before the view had its size is in sight then") {
  const auto snapshot = many_mappings();
  MappingModel model;
  FilteredView view(&model, "Memory map", {"mapping", "mappings"});
  model.show(snapshot, &snapshot->root());
  view.select(model.index(kMappings / 2, 0));
  view.resize(300, 200);
  view.show();
  QApplication::processEvents();
  const QRect row = view.view().visualRect(view.view().currentIndex());
  INFO(row.top() << " to " << row.bottom() << " of " << view.view().viewport()->height());
  CHECK(row.height() > 0);
  CHECK(row.top() >= 0);
  CHECK(row.bottom() < view.view().viewport()->height());
}
