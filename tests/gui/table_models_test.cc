#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>

#include <QAbstractItemModelTester>

#include "core/image/snapshot_builder.h"
#include "gui/models/frame_model.h"
#include "gui/models/holding.h"
#include "gui/models/mapping_model.h"
#include "gui/models/missing_model.h"
#include "gui/models/summary.h"
#include "gui/models/thread_model.h"
#include "tests/gui/model_text.h"

using namespace snapgdb;
using namespace snapgdb::gui;
using Tester = QAbstractItemModelTester;

TEST_CASE("threads are shown with what they were doing") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10).thread(11);
  pb::Thread& leader = *process.record().mutable_threads(0);
  leader.set_name("main");
  leader.set_stop_signal(11);
  leader.set_state("R");
  leader.set_user_ticks(150);
  leader.set_system_ticks(25);
  pb::Thread& worker = process.last_thread();
  worker.set_name("worker");
  worker.set_wait_channel("pipe_read");
  process.in_call(SYS_read, 7);
  auto& pipe = *process.record().add_descriptors();
  pipe.set_number(7);
  pipe.set_target("pipe:[4711]");
  pipe.mutable_pipe();
  worker.set_signals_pending(1u << 9);        // SIGUSR1
  worker.set_signal_mask(uint64_t{3} << 33);  // the kernel's real-time signals 34 and 35
  const auto snapshot = builder.build();
  ThreadModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(snapshot, snapshot->process(10));

  using M = ThreadModel;
  CHECK(as_text(model, {M::kTid, M::kName, M::kState, M::kCall, M::kWaitsIn, M::kSignal,
                        M::kCpuTime, M::kMasked}) ==
        "10 | main | running |  |  | SIGSEGV | 1.75 s | \n"
        "11 | worker | sleeping | read(7) | pipe_read | SIGUSR1 (pending) | 0.00 s | "
        "SIGRTMIN SIGRTMIN+1\n");
  CHECK(cell_text(model, 1, M::kCall, Qt::ToolTipRole) ==
        "read(7)\n\nfd 7: pipe, read end, pipe:[4711]");
  CHECK(cell_text(model, 0, M::kCpuTime, Qt::ToolTipRole) ==
        "1.50 s in the program, 0.25 s in the kernel");
}

TEST_CASE("a thread that lacks something says so, one without registers is grey") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10).thread(11).thread(12);
  process.record().mutable_threads(2)->clear_registers();
  for (const int32_t tid : {11, 12}) {
    auto& missing = *builder.record().add_missing();
    missing.set_pid(10);
    missing.set_tid(tid);
    missing.set_resource(tid == 11 ? "scheduling" : "registers");
    missing.set_reason("refused");
  }
  const auto snapshot = builder.build();
  ThreadModel model;
  model.show(snapshot, snapshot->process(10));
  CHECK(as_text(model, {ThreadModel::kState}) ==
        "sleeping\nsleeping, incomplete\nsleeping, incomplete\n");
  CHECK(cell_text(model, 1, ThreadModel::kState, Qt::ToolTipRole) ==
        "Missing: scheduling: refused");
  CHECK(cell_text(model, 0, 0, kMissingRole) == "");
  CHECK(cell_text(model, 1, 0, kMissingRole) == "");
  CHECK(cell_text(model, 2, 0, kMissingRole) == "Missing: registers: refused");
}

TEST_CASE("a machine without clock ticks does not divide by zero") {
  SnapshotBuilder builder;
  builder.record().mutable_host()->set_clock_ticks_per_second(0);
  builder.process(10).thread(10).last_thread().set_user_ticks(100);
  const auto snapshot = builder.build();
  ThreadModel model;
  model.show(snapshot, snapshot->process(10));
  CHECK(cell_text(model, 0, ThreadModel::kCpuTime) == "1.00 s");
}

TEST_CASE("mappings say where the bytes of each come from") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/bin/prog", std::string(6000, 'x'));
  auto& process = builder.process(10).thread(10);
  process.mapped_file(0x1000, 0x4000, file, 0, PROT_READ | PROT_EXEC)
      .memory(0x10000, "hello", PROT_READ | PROT_WRITE, "[heap]")
      .zeros(0x20000, 0x100000)
      .unavailable(0x200000, 0x1000, "device memory");
  process.record().mutable_mappings(1)->set_rss(4096);
  process.record().mutable_mappings(1)->set_private_dirty(4096);
  process.record().mutable_mappings(2)->set_shared(true);
  const auto snapshot = builder.build();
  MappingModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(snapshot, snapshot->process(10));

  using M = MappingModel;
  CHECK(as_text(model, {M::kRange, M::kSize, M::kAccess, M::kHolds, M::kRss, M::kName}) ==
        "0x1000-0x5000 | 16 KiB | r-xp | from file 8 KiB, behind end of file 8 KiB |  | "
        "/bin/prog\n"
        "0x10000-0x11000 | 4 KiB | rw-p | stored 4 KiB | 4 KiB | [heap]\n"
        "0x20000-0x120000 | 1 MiB | rw-s | zero 1 MiB |  | (shared anonymous)\n"
        "0x200000-0x201000 | 4 KiB | r--p | missing 4 KiB |  | (anonymous)\n");
  CHECK(cell_text(model, 3, 0, kMissingRole) == "4 KiB missing, from 0x200000 on: device memory");
  CHECK(cell_text(model, 0, 0, kMissingRole) == "");
  CHECK(model.index(0, M::kRange).data(kLookRole).toInt() == static_cast<int>(Look::kCode));
  CHECK(model.index(0, M::kName).data(kLookRole).toInt() == static_cast<int>(Look::kPath));
}

TEST_CASE("what a mapping is said to hold is what the snapshot can read") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/bin/prog", std::string(6000, 'x'));
  builder.process(10)
      .thread(10)
      .mapped_file(0x1000, 0x4000, file, 0x1000, PROT_READ)
      .zeros(0x10000, 0x3000)
      .unavailable(0x20000, 0x1000, "refused");
  const auto snapshot = builder.build();
  const pb::Process& process = *snapshot->process(10);
  uint64_t held = 0;
  for (const pb::Vma& vma : process.mappings()) held += holding(*snapshot, process, vma).held();
  CHECK(held == snapshot->captured_bytes(process, 0, UINT64_MAX));
  CHECK(held == 0x4000);
}

TEST_CASE("memory that the kernel withholds is grey, but nothing that is missing") {
  Snapshot::Contents contents;
  contents.record.set_root_pid(10);
  pb::Process& process = contents.processes.emplace_back();
  process.set_pid(10);
  process.set_address_space(1);
  pb::Vma& vma = *process.add_mappings();
  vma.set_start(0x1000);
  vma.set_end(0x3000);
  vma.set_name("[vvar]");
  contents.address_spaces[1].append_missing(0x1000, 0x2000, "the kernel's own", KeptBy::kKernel);
  const auto snapshot = std::make_shared<const Snapshot>(std::move(contents));
  MappingModel model;
  model.show(snapshot, &snapshot->root());
  CHECK(cell_text(model, 0, MappingModel::kHolds) == "withheld 8 KiB");
  CHECK(cell_text(model, 0, 0, kMissingRole) == "8 KiB withheld, from 0x1000 on: the kernel's own");
  CHECK(find_missing(*snapshot).empty());
}

TEST_CASE("a mapping that no extent covers was not captured") {
  SnapshotBuilder builder;
  auto& vma = *builder.process(10).thread(10).record().add_mappings();
  vma.set_start(0x1000);
  vma.set_end(0x3000);
  vma.set_name("[vvar]");
  const auto snapshot = builder.build();
  MappingModel model;
  model.show(snapshot, snapshot->process(10));
  CHECK(cell_text(model, 0, MappingModel::kHolds) == "missing 8 KiB");
  CHECK(cell_text(model, 0, 0, kMissingRole) == "8 KiB missing, from 0x1000 on: not captured");
}

TEST_CASE("what is missing is listed with its reason") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.record().set_name("srv");
  process.memory(0x1000, "x", PROT_READ).unavailable(0x2000, 0x2000, "device memory");
  auto& missing = *builder.record().add_missing();
  missing.set_pid(10);
  missing.set_tid(11);
  missing.set_resource("thread");
  missing.set_reason("it ended meanwhile");
  auto& descriptor = *process.record().add_descriptors();
  descriptor.set_number(4);
  descriptor.set_target("socket:[7]");
  descriptor.mutable_socket()->set_why_incomplete("another network namespace");
  MissingModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  const auto snapshot = builder.build();
  model.set_rows(find_missing(*snapshot), snapshot);

  CHECK(as_text(model, {0, 1, 2, 3, 4, 5}) ==
        "10 | srv | 11 | thread |  | it ended meanwhile\n"
        "10 | srv |  | memory from 0x2000 on | 8 KiB | device memory\n"
        "10 | srv |  | part of descriptor 4 (socket:[7]) |  | another network namespace\n");
  CHECK(cell_text(model, 0, MissingModel::kReason, Qt::ToolTipRole) == "it ended meanwhile");
}

TEST_CASE("what the capture noted is not told twice") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).unavailable(0x2000, 0x1000, "the kernel refuses to read it");
  for (const char* resource : {"4096 bytes of memory", "environment"}) {
    auto& missing = *builder.record().add_missing();
    missing.set_pid(10);
    missing.set_resource(resource);
    missing.set_reason(*resource == 'e' ? "permission denied" : "the kernel refuses to read it");
  }
  const auto snapshot = builder.build();
  MissingModel model;
  model.set_rows(find_missing(*snapshot), snapshot);
  CHECK(as_text(model, {3, 5}) ==
        "environment | permission denied\n"
        "memory from 0x2000 on | the kernel refuses to read it\n");
}

TEST_CASE("things that lack for one reason are all told") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).thread(11).unavailable(0x2000, 0x1000, "the kernel refuses");
  for (const int32_t tid : {0, 11}) {
    auto& missing = *builder.record().add_missing();
    missing.set_pid(10);
    missing.set_tid(tid);
    missing.set_resource(tid ? "registers" : "timers");
    missing.set_reason("the kernel refuses");
  }
  const auto snapshot = builder.build();
  MissingModel model;
  model.set_rows(find_missing(*snapshot), snapshot);
  CHECK(as_text(model, {2, 3, 5}) ==
        " | timers | the kernel refuses\n"
        "11 | registers | the kernel refuses\n"
        " | memory from 0x2000 on | the kernel refuses\n");
}

TEST_CASE("of a socket or a file that is told at length, the note is left out") {
  SnapshotBuilder builder;
  auto& sent = *builder.process(10).thread(10).record().add_in_flight();
  sent.set_number(kInFlight);
  sent.set_target("socket:[7]");
  sent.mutable_socket()->set_why_incomplete("refused");
  const auto note = [&](int32_t pid, const char* resource) {
    auto& missing = *builder.record().add_missing();
    missing.set_pid(pid);
    missing.set_resource(resource);
    missing.set_reason("refused");
  };
  note(10, "socket:[7]");
  note(10, "socket:[8]");
  const auto snapshot = builder.build();
  MissingModel model;
  model.set_rows(find_missing(*snapshot), snapshot);
  CHECK(as_text(model, {3, 5}) ==
        "socket:[8] | refused\n"
        "part of a descriptor in flight (socket:[7]) | refused\n");
}

TEST_CASE("lost pages of a mapped file are missing from the mapping") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/lib/x", std::string(2 * kPageSize, 'x'));
  builder.process(10).thread(10).mapped_file(0x1000, 0x2000, file, 0, PROT_READ);
  Snapshot::Contents contents = builder.contents();
  contents.salvaged_files[file].append({0, kPageSize, pb::SOURCE_STORED, 0, 0});
  contents.salvaged_files[file].append_missing(kPageSize, kPageSize, "lost");
  const auto snapshot = std::make_shared<const Snapshot>(std::move(contents));
  MappingModel model;
  model.show(snapshot, &snapshot->root());
  CHECK(cell_text(model, 0, MappingModel::kHolds) == "from file 4 KiB, missing 4 KiB");
  const auto missing = find_missing(*snapshot);
  REQUIRE(missing.size() == 1);
  CHECK(missing[0].bytes == kPageSize);
  CHECK(missing[0].missing == "it lies in /lib/x, and is lost");
}

TEST_CASE("a process is described with its limits, keyrings and environment") {
  pb::Process process;
  process.set_pid(10);
  auto& limit = *process.add_limits();
  limit.set_name("Max open files");
  limit.set_soft(1024);
  limit.set_hard(UINT64_MAX);
  for (int i = 0; i < 2; ++i) {
    auto& ring = *process.add_threads()->add_keyrings();
    ring.set_kind("session");
    ring.set_keys(1);
    ring.add_key_descriptions("user;0;0;3f010000;name");
  }
  process.add_environment("HOME=/root");
  process.add_environment("EVIL=\x1b[31m");
  const auto value = [&](const char* name) {
    for (const Fact& fact : process_facts(process))
      if (fact.name == QLatin1String(name)) return fact.value;
    return QString();
  };
  CHECK(value("Limits") == "Max open files: 1024, at most unlimited");
  CHECK(value("Keyrings") == "session: 1 key, user;0;0;3f010000;name");
  CHECK(value("Environment") == "HOME=/root\nEVIL=\\033[31m");
}

TEST_CASE("processes that share their memory lack it once") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).unavailable(0x2000, 0x1000, "refused");
  auto& sharer = builder.process(11, 10).thread(11).record();
  const auto alone = find_missing(*builder.build());
  sharer.set_address_space(10);
  *sharer.add_mappings() = builder.build()->process(10)->mappings(0);
  CHECK(alone.size() == 1);
  CHECK(find_missing(*builder.build()).size() == 1);
}

TEST_CASE("a backtrace names functions, and ends with the reason if it is not whole") {
  Backtrace backtrace;
  backtrace.frames.push_back({.pc = 0x1234,
                              .inlined = true,
                              .function = "std::sort<int*>",
                              .file = "/usr/include/algo.h",
                              .line = 7,
                              .module = "/bin/prog"});
  backtrace.frames.push_back({.pc = 0x1234, .function = "main", .module = "/bin/prog"});
  backtrace.stopped_because = "the stack is not in the image";
  FrameModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.set_rows(frame_rows(backtrace, {"libx.so.debug is damaged"}));

  CHECK(as_text(model, {0, 1, 2, 3, 4}) ==
        "0 | std::sort<int*> | algo.h:7 | prog | 0x1234\n"
        "1 | main |  | prog | 0x1234\n"
        " | No more frames: the stack is not in the image |  |  | \n"
        " | Frames, names or lines may be missing: libx.so.debug is damaged |  |  | \n");
  CHECK(cell_text(model, 0, 1, Qt::ToolTipRole) ==
        "std::sort<int*>\nInlined into the function below");
  CHECK(cell_text(model, 0, 2, Qt::ToolTipRole) == "/usr/include/algo.h:7");
  CHECK(cell_text(model, 2, 1, kMissingRole) == "the stack is not in the image");
  CHECK(cell_text(model, 3, 1, kMissingRole) == "libx.so.debug is damaged");
}

TEST_CASE("every column of every table explains itself") {
  ThreadModel threads;
  MappingModel mappings;
  MissingModel missing;
  FrameModel frames;
  for (const QAbstractItemModel* model :
       std::initializer_list<QAbstractItemModel*>{&threads, &mappings, &missing, &frames})
    for (int column = 0; column < model->columnCount(); ++column) {
      CHECK(!model->headerData(column, Qt::Horizontal, Qt::DisplayRole).toString().isEmpty());
      CHECK(model->headerData(column, Qt::Horizontal, Qt::ToolTipRole).toString().size() > 5);
    }
}
