#include "core/inspect/backtrace.h"

#include <elf.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "tests/unit/inspect/self_snapshot.h"

using namespace snapgdb;
using namespace snapgdb::test;

// A chain of calls whose names and lines are known. Nothing may be merged or become a jump.
#define KEEP asm volatile("" ::: "memory")

namespace chain {

using Made = std::shared_ptr<const Snapshot>;
int line_of_inlined_call, line_in_inlined, line_in_outer;

[[gnu::always_inline]] inline Made inlined(const SelfOptions& options) {
  line_in_inlined = __LINE__ + 1;
  Made made = snapshot_of_self(options);
  KEEP;
  return made;
}

[[gnu::noinline]] Made middle(const SelfOptions& options) {
  line_of_inlined_call = __LINE__ + 1;
  Made made = inlined(options);
  KEEP;
  return made;
}

[[gnu::noinline]] Made outer(const SelfOptions& options) {
  line_in_outer = __LINE__ + 1;
  Made made = middle(options);
  KEEP;
  return made;
}

}  // namespace chain

namespace {

Backtrace backtrace_of(const std::shared_ptr<const Snapshot>& snapshot) {
  const pb::Process& process = snapshot->root();
  return Backtracer(snapshot).backtrace(process, process.threads(0));
}

std::vector<Frame>::const_iterator find(const Backtrace& trace, std::string_view function) {
  return std::ranges::find_if(
      trace.frames, [&](const Frame& frame) { return frame.function.starts_with(function); });
}

// The first frame that is one of the stack; an optimiser may have inlined helpers into it.
Frame innermost(const Backtrace& trace) {
  const auto found = std::ranges::find(trace.frames, false, &Frame::inlined);
  return found == trace.frames.end() ? Frame{} : *found;
}

int64_t stack_frames(const Backtrace& trace) {
  return std::ranges::count(trace.frames, false, &Frame::inlined);
}

// The frames whose functions are in namespace chain, innermost first.
std::vector<Frame> chain_of(const Backtrace& trace) {
  std::vector<Frame> frames;
  std::ranges::copy_if(trace.frames, std::back_inserter(frames),
                       [](const Frame& frame) { return frame.function.starts_with("chain::"); });
  return frames;
}

}  // namespace

TEST_CASE("a known chain of calls is found, with the inlined one, its files and lines") {
  const Backtrace trace = backtrace_of(chain::outer({}));
  CHECK(innermost(trace).function.starts_with("snapgdb::test::snapshot_of_self("));
  const auto frames = chain_of(trace);
  REQUIRE(frames.size() == 3);
  CHECK(frames[0].function == "chain::inlined(snapgdb::test::SelfOptions const&)");
  CHECK(frames[0].inlined);
  CHECK(frames[0].line == static_cast<uint32_t>(chain::line_in_inlined));
  CHECK(frames[0].pc == frames[1].pc);
  CHECK_FALSE(frames[0].offset);
  CHECK(frames[1].function == "chain::middle(snapgdb::test::SelfOptions const&)");
  CHECK_FALSE(frames[1].inlined);
  CHECK(frames[1].line == static_cast<uint32_t>(chain::line_of_inlined_call));
  CHECK(frames[1].offset == frames[1].pc - reinterpret_cast<uint64_t>(&chain::middle));
  CHECK(frames[2].function == "chain::outer(snapgdb::test::SelfOptions const&)");
  CHECK(frames[2].line == static_cast<uint32_t>(chain::line_in_outer));
  for (const Frame& frame : frames) CHECK(frame.file == __FILE__);
}

TEST_CASE("a backtrace goes to the outermost frame and ends there without complaint") {
  const Backtrace trace = backtrace_of(chain::outer({}));
  CHECK(trace.end == StackEnd::kOutermost);
  CHECK(trace.stopped_because.empty());
  CHECK_FALSE(trace.incomplete());
  CHECK(find(trace, "main") != trace.frames.end());
  CHECK(trace.frames.back().function == "_start");
  CHECK(trace.name == "main");
  CHECK(trace.pid == kSelfPid);
}

TEST_CASE("a second thread's stack is unwound to where the thread began") {
  chain::Made snapshot;
  std::thread([&] { snapshot = chain::outer({}); }).join();
  const Backtrace trace = backtrace_of(snapshot);
  CHECK(chain_of(trace).size() == 3);
  CHECK(trace.end == StackEnd::kOutermost);
  CHECK(find(trace, "main") == trace.frames.end());
}

TEST_CASE("libraries are named with the path and the file's own address") {
  const Backtrace trace = backtrace_of(chain::outer({}));
  const auto caller = find(trace, "__libc_start_main");
  REQUIRE(caller != trace.frames.end());
  CHECK(caller->module.ends_with("/libc.so.6"));
  CHECK(*caller->module_offset < 0x400000);
}

TEST_CASE("a separate debug file gives libraries lines and the names of local functions") {
  const chain::Made snapshot = chain::outer({.debug_files = true});
  const bool installed = std::ranges::any_of(snapshot->files(), [](const pb::FileRecord& file) {
    return file.role() == pb::FILE_DEBUG && file.path().find("libc6") == std::string::npos;
  });
  if (!installed) return;  // libc6-dbg is not there
  const Backtrace trace = backtrace_of(snapshot);
  const auto caller = find(trace, "__libc_start_call_main");
  REQUIRE(caller != trace.frames.end());
  CHECK(caller->file.ends_with("libc_start_call_main.h"));
  CHECK(caller->line > 0);
}

TEST_CASE("a stack that is partly not in the image ends with the reason") {
  const Backtrace trace = backtrace_of(chain::outer({.stack_bytes = 1}));
  CHECK(trace.incomplete());
  CHECK(innermost(trace).function.starts_with("snapgdb::test::snapshot_of_self("));
  CHECK(find(trace, "main") == trace.frames.end());
  CHECK(trace.stopped_because.starts_with("the stack cannot be read at 0x"));
  CHECK(trace.stopped_because.ends_with(": left out by the test"));
}

TEST_CASE("frames are numbered up to a limit, which is told") {
  const chain::Made snapshot = chain::outer({});
  const pb::Process& process = snapshot->root();
  const Backtrace trace = Backtracer(snapshot).backtrace(process, process.threads(0), 2);
  CHECK(trace.end == StackEnd::kLimit);
  CHECK(trace.stopped_because == "there are more than 2 frames");
  CHECK_FALSE(trace.incomplete());
  CHECK(stack_frames(trace) == 2);
  CHECK(trace.frames.back().function.starts_with("chain::middle("));
}

TEST_CASE("without the program's files the place is named, and what is missing") {
  const Backtrace trace = backtrace_of(chain::outer({.embed_files = false}));
  REQUIRE(trace.frames.size() == 1);
  CHECK(function_or_place(trace.frames[0]) == "??");
  CHECK(trace.incomplete());
  CHECK(trace.stopped_because.ends_with("is no usable ELF file"));
}

TEST_CASE("a thread without registers has no stack, and lacks nothing") {
  SnapshotBuilder builder;
  builder.process(7).thread(7).last_thread().clear_registers();
  const Backtrace trace = backtrace_of(builder.build());
  CHECK(trace.end == StackEnd::kNone);
  CHECK(trace.frames.empty());
  CHECK_FALSE(trace.incomplete());
}

TEST_CASE("a process without modules yields one bare frame") {
  SnapshotBuilder builder;
  builder.process(7).thread(7, 0x1000, 0x3000).memory(0x1000, "\x90", PROT_READ | PROT_EXEC);
  const Backtrace trace = backtrace_of(builder.build());
  REQUIRE(trace.frames.size() == 1);
  CHECK(trace.frames[0].pc == 0x1000);
  CHECK(trace.incomplete());
  CHECK(trace.stopped_because == "0x1000 lies in no file, so nothing tells who called it");
}

// ---- Beginnings ------------------------------------------------------------------------------

namespace {

// A process whose code no file holds.
SnapshotBuilder::ProcessBuilder& add_process(SnapshotBuilder& builder, std::string_view code) {
  return builder.process(7).memory(0x1000, code, PROT_READ | PROT_EXEC);
}

void set_entry(pb::Process& process, uint64_t address) {
  const Elf64_auxv_t auxv[] = {{AT_ENTRY, {address}}, {AT_NULL, {0}}};
  process.set_auxv(auxv, sizeof auxv);
}

}  // namespace

TEST_CASE("nobody has called the code where a program begins") {
  for (const uint64_t pc : {0x1100, 0x1128}) {
    SnapshotBuilder builder;
    auto& process = add_process(builder, "\x90").thread(7, pc, 0x3100);
    set_entry(process.record(), 0x1100);
    const Backtrace trace = backtrace_of(builder.build());
    CHECK(trace.frames.size() == 1);
    CHECK(trace.end == StackEnd::kOutermost);
    CHECK(trace.stopped_because.empty());
  }
}

TEST_CASE("other code without call frame information has a caller that is not known") {
  for (const uint64_t pc : {0x10ff, 0x1200}) {
    SnapshotBuilder builder;
    auto& process = add_process(builder, "\x90").thread(7, pc, 0x3100);
    set_entry(process.record(), 0x1100);
    CHECK(backtrace_of(builder.build()).incomplete());
  }
}

TEST_CASE("a thread that has just been made has nothing on its stack") {
  const auto end_of = [](int32_t tid, unsigned long long call) {
    SnapshotBuilder builder;
    auto& process = add_process(builder, "\x0f\x05\x90").thread(tid, 0x1002, 0x3100);
    user_regs_struct registers{};
    registers.rip = 0x1002, registers.rsp = 0x3100, registers.orig_rax = call;
    process.last_thread().set_registers(&registers, sizeof registers);
    return backtrace_of(builder.build()).end;
  };
  CHECK(end_of(8, SYS_clone3) == StackEnd::kOutermost);
  CHECK(end_of(8, SYS_clone) == StackEnd::kOutermost);
  CHECK(end_of(8, SYS_read) == StackEnd::kBroken);
  CHECK(end_of(7, SYS_clone) == StackEnd::kBroken);  // fork(2): it has a copy of its parent's stack
}

// ---- Signals -------------------------------------------------------------------------------

namespace {

chain::Made made_in_handler;

void handler(int) {
  made_in_handler = chain::outer({});
}

[[gnu::noinline]] void interrupted() {
  raise(SIGUSR1);
  KEEP;
}

}  // namespace

TEST_CASE("a signal handler's caller is the kernel, and what it interrupted is found") {
  struct sigaction action {};
  action.sa_handler = handler;
  struct sigaction before;
  sigaction(SIGUSR1, &action, &before);
  interrupted();
  sigaction(SIGUSR1, &before, nullptr);

  const Backtrace trace = backtrace_of(made_in_handler);
  const auto kernel = std::ranges::find_if(trace.frames, &Frame::signal_frame);
  REQUIRE(kernel != trace.frames.end());
  REQUIRE(kernel != trace.frames.begin());
  CHECK(std::prev(kernel)->function == "(anonymous namespace)::handler(int)");
  CHECK(std::count_if(trace.frames.begin(), trace.frames.end(),
                      [](const Frame& frame) { return frame.signal_frame; }) == 1);
  const auto below = find(trace, "(anonymous namespace)::interrupted()");
  REQUIRE(below != trace.frames.end());
  CHECK(below > kernel);
  CHECK(trace.end == StackEnd::kOutermost);
}

namespace {

sigjmp_buf after_crash;

void crash_handler(int) {
  made_in_handler = chain::outer({});
  siglongjmp(after_crash, 1);
}

[[gnu::noinline]] void calls_nothing() {
  void (*volatile nothing)() = nullptr;
  nothing();
  KEEP;
}

}  // namespace

TEST_CASE(
    "a crash by a call through a null pointer, seen from its signal handler, has its caller") {
  struct sigaction action {};
  action.sa_handler = crash_handler;
  struct sigaction before;
  sigaction(SIGSEGV, &action, &before);
  if (sigsetjmp(after_crash, 1) == 0) calls_nothing();
  sigaction(SIGSEGV, &before, nullptr);

  const Backtrace trace = backtrace_of(made_in_handler);
  const auto kernel = std::ranges::find_if(trace.frames, &Frame::signal_frame);
  REQUIRE(trace.frames.end() - kernel > 3);
  CHECK(kernel[1].pc == 0);
  CHECK(kernel[2].function == "(anonymous namespace)::calls_nothing()");
  CHECK_FALSE(kernel[2].guessed);
  CHECK(trace.end == StackEnd::kOutermost);
}

// ---- Calls into nowhere ----------------------------------------------------------------------

TEST_CASE("a call through a null pointer shows who called it") {
  const chain::Made snapshot = chain::outer({});
  const Backtrace whole = backtrace_of(snapshot);

  // Below the stack pointer stands the return address of the innermost function's last call; this
  // is how the thread would look had that call gone to address 0.
  pb::Thread thread = snapshot->root().threads(0);
  user_regs_struct registers;
  std::memcpy(&registers, thread.registers().data(), sizeof registers);
  registers.rip = 0;
  registers.rsp -= 8;
  thread.set_registers(&registers, sizeof registers);

  const Backtrace trace = Backtracer(snapshot).backtrace(snapshot->root(), thread);
  CHECK(stack_frames(trace) == stack_frames(whole) + 1);
  CHECK(trace.frames.at(0).pc == 0);
  CHECK(trace.frames.at(0).module.empty());
  CHECK(find(trace, innermost(whole).function) != trace.frames.end());
  CHECK(chain_of(trace).size() == 3);
}

// ---- Code made at run time -------------------------------------------------------------------

namespace {

chain::Made made_by_callback;

void callback() {
  made_by_callback = chain::outer({});
}

// Calls the function it is given, with a frame pointer and without any unwind information.
constexpr unsigned char kTrampoline[] = {
    0x55,              // push %rbp
    0x48, 0x89, 0xe5,  // mov %rsp, %rbp
    0xff, 0xd7,        // call *%rdi
    0x5d,              // pop %rbp
    0xc3,              // ret
};

}  // namespace

TEST_CASE(
    "code that no file holds is unwound by its frame pointer, and its caller called a guess") {
  void* page = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(page != MAP_FAILED);
  std::memcpy(page, kTrampoline, sizeof kTrampoline);
  reinterpret_cast<void (*)(void (*)())>(page)(callback);
  munmap(page, kPageSize);

  const Backtrace trace = backtrace_of(made_by_callback);
  const auto made = std::ranges::find(trace.frames, "", &Frame::module);
  REQUIRE(made != trace.frames.end());
  CHECK(made->pc == reinterpret_cast<uint64_t>(page) + 6);
  CHECK_FALSE(made->guessed);
  CHECK(std::prev(made)->function == "(anonymous namespace)::callback()");
  CHECK(std::next(made)->guessed);
  CHECK(find(trace, "main") != trace.frames.end());
  CHECK(trace.end == StackEnd::kOutermost);
}

// ---- Groups --------------------------------------------------------------------------------

namespace {

Backtrace trace_at(int32_t tid, std::vector<uint64_t> counters) {
  Backtrace trace{.pid = 1, .tid = tid};
  for (uint64_t pc : counters) trace.frames.push_back({.pc = pc});
  return trace;
}

}  // namespace

TEST_CASE("threads that stand at the same place are one group, the largest group first") {
  const std::vector<Backtrace> traces = {trace_at(1, {5, 6}), trace_at(2, {5, 7}), trace_at(3, {5}),
                                         trace_at(4, {5, 7})};
  const auto groups = group_backtraces(traces);
  REQUIRE(groups.size() == 3);
  CHECK(groups[0] == BacktraceGroup{&traces[1], &traces[3]});
  CHECK(groups[1] == BacktraceGroup{&traces[0]});
  CHECK(groups[2] == BacktraceGroup{&traces[2]});
}

TEST_CASE("equal frames that end for different reasons are different stacks") {
  std::vector<Backtrace> traces = {trace_at(1, {5}), trace_at(2, {5})};
  traces[1].stopped_because = "something is missing";
  CHECK(group_backtraces(traces).size() == 2);
}
