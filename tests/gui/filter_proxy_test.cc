#include "gui/models/filter_proxy.h"

#include <sys/mman.h>
#include <catch2/catch.hpp>

#include <QAbstractItemModelTester>

#include "core/image/snapshot_builder.h"
#include "gui/models/mapping_model.h"
#include "gui/models/process_tree_model.h"
#include "gui/models/thread_model.h"
#include "tests/gui/model_text.h"

using namespace snapgdb;
using namespace snapgdb::gui;
using Tester = QAbstractItemModelTester;

namespace {

// A proxy over the mappings of a process.
struct Mappings {
  Mappings() {
    SnapshotBuilder builder;
    builder.process(10)
        .thread(10)
        .memory(0x1000, "x", PROT_READ | PROT_EXEC, "/bin/prog")
        .memory(0x9000, std::string(0x9000, 'x'), PROT_READ | PROT_WRITE, "[heap]")
        .memory(0x20000, std::string(0x19000, 'x'), PROT_READ, "/lib/libc.so");
    snapshot = builder.build();
    model.show(snapshot, snapshot->process(10));
    proxy.setSourceModel(&model);
  }

  QString names() const { return as_text(proxy, {MappingModel::kName}); }

  std::shared_ptr<const Snapshot> snapshot;
  MappingModel model;
  FilterProxy proxy;
};

}  // namespace

TEST_CASE("sorting is by value, not by how the value is written") {
  Mappings mappings;
  mappings.proxy.sort(MappingModel::kSize, Qt::DescendingOrder);
  CHECK(as_text(mappings.proxy, {MappingModel::kSize}) == "100 KiB\n36 KiB\n4 KiB\n");
  mappings.proxy.sort(MappingModel::kRange);  // 0x20000 is after 0x9000
  CHECK(mappings.names() == "/bin/prog\n[heap]\n/lib/libc.so\n");
}

TEST_CASE("thread numbers sort as numbers") {
  SnapshotBuilder builder;
  builder.process(9).thread(9).thread(100).thread(20);
  const auto snapshot = builder.build();
  ThreadModel model;
  model.show(snapshot, snapshot->process(9));
  FilterProxy proxy;
  proxy.setSourceModel(&model);
  proxy.sort(ThreadModel::kTid);
  CHECK(as_text(proxy, {0}) == "9\n20\n100\n");
}

TEST_CASE("sorting by no column gives the original order back") {
  Mappings mappings;
  mappings.proxy.sort(MappingModel::kName);
  mappings.proxy.sort(-1);
  CHECK(mappings.names() == "/bin/prog\n[heap]\n/lib/libc.so\n");
}

TEST_CASE("a row stays if every word occurs in one of its columns, in any case of letters") {
  Mappings mappings;
  mappings.proxy.set_filter("LIB");
  CHECK(mappings.names() == "/lib/libc.so\n");
  mappings.proxy.set_filter(" r-xp  bin ");
  CHECK(mappings.names() == "/bin/prog\n");
  mappings.proxy.set_filter("r-xp libc");
  CHECK(mappings.names() == "");
  mappings.proxy.set_filter("");
  CHECK(mappings.proxy.rowCount() == 3);
}

TEST_CASE("an address finds the mapping that holds it") {
  Mappings mappings;
  mappings.proxy.set_filter("0x9abc");
  CHECK(mappings.names() == "[heap]\n");
  mappings.proxy.set_filter(
      "0x2000");  // behind /bin/prog, but written in its range; part of 0x20000
  CHECK(mappings.names() == "/bin/prog\n/lib/libc.so\n");
  mappings.proxy.set_filter("0x2345");
  CHECK(mappings.names() == "");
}

TEST_CASE("a process that matches keeps its parents in the tree") {
  SnapshotBuilder builder;
  const char* names[] = {"init", "make", "cc1", "sshd"};
  const int32_t parents[] = {0, 1, 2, 1};
  for (int32_t i = 0; i < 4; ++i)
    builder.process(i + 1, parents[i]).thread(i + 1).record().set_name(names[i]);
  ProcessTreeModel model;
  model.show(builder.build());
  FilterProxy proxy;
  proxy.setSourceModel(&model);
  proxy.set_filter("cc1");
  const Tester tester(&proxy, Tester::FailureReportingMode::Fatal);
  CHECK(as_text(proxy, {ProcessTreeModel::kName}) == "init\n  make\n    cc1\n");
  proxy.set_filter("make");
  CHECK(as_text(proxy, {ProcessTreeModel::kName}) == "init\n  make\n");
}
