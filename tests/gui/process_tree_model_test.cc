#include "gui/models/process_tree_model.h"

#include <sys/mman.h>
#include <catch2/catch.hpp>

#include <QAbstractItemModelTester>

#include "core/image/snapshot_builder.h"
#include "tests/gui/model_text.h"

using namespace snapgdb;
using namespace snapgdb::gui;
using Tester = QAbstractItemModelTester;

namespace {

SnapshotBuilder::ProcessBuilder& named(SnapshotBuilder& builder, int32_t pid, int32_t parent,
                                       const char* name) {
  auto& process = builder.process(pid, parent).thread(pid);
  process.record().set_name(name);
  return process;
}

}  // namespace

TEST_CASE("processes stand under their parents") {
  SnapshotBuilder builder;
  named(builder, 10, 1, "make");
  named(builder, 11, 10, "sh");
  named(builder, 12, 11, "cc1").thread(13);
  named(builder, 14, 10, "ld");
  ProcessTreeModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(builder.build());

  using M = ProcessTreeModel;
  CHECK(as_text(model, {M::kPid, M::kName, M::kState, M::kThreads, M::kCommand}) ==
        "10 | make | sleeping | 1 | [make]\n"
        "  11 | sh | sleeping | 1 | [sh]\n"
        "    12 | cc1 | sleeping | 2 | [cc1]\n"
        "  14 | ld | sleeping | 1 | [ld]\n");
  CHECK(model.process(model.find(12))->name() == "cc1");
  CHECK(model.parent(model.find(12)) == model.find(11));
  CHECK_FALSE(model.find(99).isValid());
}

TEST_CASE("a zombie is shown with how it ended") {
  SnapshotBuilder builder;
  named(builder, 10, 1, "sh");
  auto& zombie = builder.process(11, 10).record();
  zombie.set_name("ls");
  zombie.set_state("Z");
  zombie.set_address_space(0);
  zombie.set_exit_status(2 << 8);
  ProcessTreeModel model;
  model.show(builder.build());

  const QModelIndex state = model.find(11).siblingAtColumn(ProcessTreeModel::kState);
  CHECK(state.data().toString() == "zombie");
  CHECK(state.data(Qt::ToolTipRole).toString() ==
        "zombie: ended with exit status 2, not yet waited for by its parent");
}

TEST_CASE("the memory captured of a process is what has content, not what is merely zero") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/lib/x.so", std::string(4096, 'x'));
  named(builder, 10, 1, "a")
      .memory(0x1000, std::string(0x2000, 'x'), PROT_READ)
      .zeros(0x10000, 0x30000)
      .unavailable(0x50000, 0x5000, "refused")
      .mapped_file(0x60000, 0x1000, file, 0, PROT_READ);
  ProcessTreeModel model;
  model.show(builder.build());
  const QModelIndex captured = model.find(10).siblingAtColumn(ProcessTreeModel::kCaptured);
  CHECK(captured.data(kSortRole).toULongLong() == 0x3000);
  CHECK(captured.data(Qt::ToolTipRole).toString().startsWith("12,288 bytes"));
}

TEST_CASE("a process that lacks something says so, one of which nothing is known is grey") {
  SnapshotBuilder builder;
  named(builder, 10, 1, "a");
  named(builder, 11, 10, "b");
  builder.process(12, 10).record().set_name("c");
  for (const int32_t pid : {11, 12}) {
    auto& missing = *builder.record().add_missing();
    missing.set_pid(pid);
    missing.set_resource("environment");
    missing.set_reason("permission denied");
  }
  ProcessTreeModel model;
  model.show(builder.build());
  using M = ProcessTreeModel;
  CHECK(as_text(model, {M::kName, M::kState}) ==
        "a | sleeping\n"
        "  b | sleeping, incomplete\n"
        "  c | sleeping, incomplete\n");
  const QString why = "Missing: environment: permission denied";
  CHECK(model.find(11).siblingAtColumn(M::kState).data(Qt::ToolTipRole).toString() ==
        "sleeping\n" + why);
  CHECK(model.find(11).data(kMissingRole).toString() == "");
  CHECK(model.find(12).data(kMissingRole).toString() == why);
}

TEST_CASE("arguments from a hostile program are shown harmlessly") {
  SnapshotBuilder builder;
  auto& process = named(builder, 10, 1, "a\x1b[2J").record();
  process.add_arguments("evil\nname");
  process.add_arguments("\xff");
  ProcessTreeModel model;
  model.show(builder.build());
  CHECK(model.find(10).siblingAtColumn(ProcessTreeModel::kName).data().toString() == "a\\033[2J");
  CHECK(model.find(10).siblingAtColumn(ProcessTreeModel::kCommand).data().toString() ==
        "evil\\012name \\377");
}

TEST_CASE("a command line of megabytes is cut") {
  SnapshotBuilder builder;
  named(builder, 10, 1, "a").record().add_arguments(std::string(2 << 20, 'x'));
  ProcessTreeModel model;
  model.show(builder.build());
  CHECK(model.find(10).siblingAtColumn(ProcessTreeModel::kCommand).data().toString().size() < 3000);
}

TEST_CASE("processes that claim to be each other's parents are all shown, once") {
  SnapshotBuilder builder;
  named(builder, 10, 11, "a");
  named(builder, 11, 10, "b");
  named(builder, 12, 12, "c");
  ProcessTreeModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(builder.build());
  CHECK(as_text(model, {0}) == "10\n  11\n12\n");
}

TEST_CASE("a chain of ten thousand processes stays shallow enough to be walked by recursion") {
  SnapshotBuilder builder;
  for (int32_t pid = 1; pid <= 10000; ++pid) builder.process(pid, pid - 1).thread(pid);
  ProcessTreeModel model;
  model.show(builder.build());
  int depth = 0;
  for (QModelIndex index = model.find(10000); index.isValid(); index = index.parent()) ++depth;
  CHECK(depth > 100);
  CHECK(depth < 1000);
}

TEST_CASE("showing another snapshot, or none, replaces the tree") {
  SnapshotBuilder first, second;
  named(first, 10, 1, "a");
  named(second, 20, 1, "b");
  ProcessTreeModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(first.build());
  model.show(second.build());
  CHECK(as_text(model, {0, 1}) == "20 | b\n");
  model.show(nullptr);
  CHECK(model.rowCount() == 0);
}
