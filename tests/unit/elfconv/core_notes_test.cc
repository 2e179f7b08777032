#include "elfconv/core_notes.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/user.h>

#include <catch2/catch.hpp>

#include "core/image/snapshot_builder.h"
#include "elfconv/core_file.h"
#include "elfconv/core_file_note.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

CoreView core_of(const SnapshotBuilder& builder) {
  const TemporaryDirectory directory;
  const auto snapshot = builder.build();
  write_core(*snapshot, snapshot->root(), directory / "core");
  return CoreView(directory / "core");
}

std::string xstate_of(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 256);
  return bytes;
}

std::string siginfo_of(int signal) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = SEGV_MAPERR;
  info.si_addr = reinterpret_cast<void*>(0xdeadbeef);
  return {reinterpret_cast<const char*>(&info), sizeof info};
}

std::string auxv_of(std::initializer_list<std::pair<uint64_t, uint64_t>> entries) {
  std::string bytes;
  for (const auto& [type, value] : entries) {
    bytes.append(reinterpret_cast<const char*>(&type), sizeof type);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return bytes;
}

// A process with three threads, of which the second has a signal.
void three_threads(SnapshotBuilder& builder) {
  auto& process = builder.process(10, 7);
  process.record().set_name("worker");
  process.record().set_auxv(auxv_of({{AT_ENTRY, 0x5555}, {AT_NULL, 0}}));
  for (const int32_t tid : {10, 11, 12}) {
    process.thread(tid, 0x1000u + static_cast<uint64_t>(tid), 0x2000);
    process.last_thread().set_xstate(xstate_of(2696));
  }
  const uint32_t file = builder.file("/bin/worker", "text", pb::FILE_EXECUTABLE);
  process.mapped_file(0x1000, 0x1000, file, 0, PROT_READ | PROT_EXEC);
  pb::Thread& crashed = *process.record().mutable_threads(1);
  crashed.set_stop_signal(SIGSEGV);
  crashed.set_stop_siginfo(siginfo_of(SIGSEGV));
}

}  // namespace

TEST_CASE("notes come in the kernel's order, those of the process after the first PRSTATUS") {
  SnapshotBuilder builder;
  three_threads(builder);
  builder.record().set_focus_tid(11);
  const CoreView core = core_of(builder);
  CHECK(core.note_types() == std::vector<uint32_t>{NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_AUXV,
                                                   NT_FILE, NT_FPREGSET, NT_X86_XSTATE,      // 11
                                                   NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE,  // 10
                                                   NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE});
  for (const Note& note : core.notes())
    CHECK(note.owner == (note.type == NT_X86_XSTATE ? "LINUX" : "CORE"));
}

TEST_CASE("the focus comes first, else a thread with a signal, else the leader") {
  SnapshotBuilder builder;
  three_threads(builder);
  const auto order = [&](int32_t focus) {
    builder.record().set_focus_tid(focus);
    std::vector<int> tids;
    for (const elf_prstatus& thread : core_of(builder).threads()) tids.push_back(thread.pr_pid);
    return tids;
  };
  CHECK(order(12) == std::vector<int>{12, 10, 11});
  CHECK(order(99) == std::vector<int>{11, 10, 12});  // the focus is in another process

  builder.record().set_focus_tid(99);
  SnapshotBuilder calm;
  calm.process(10).thread(11).thread(10);
  calm.record().set_focus_tid(99);
  CHECK(core_of(calm).threads()[0].pr_pid == 10);
}

TEST_CASE("a thread stopped by job control has no signal and does not come before the leader") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10).thread(11);
  process.last_thread().set_stop_signal(SIGSTOP);
  process.last_thread().set_job_stopped(true);
  builder.record().set_focus_tid(0);
  const CoreView core = core_of(builder);
  CHECK(core.threads()[0].pr_pid == 10);
  CHECK(core.threads()[1].pr_cursig == 0);
  CHECK_FALSE(core.note(NT_SIGINFO));
}

TEST_CASE("PRSTATUS holds every register as it was") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  std::string registers(27 * 8, '\0');
  for (size_t i = 0; i < registers.size(); ++i) registers[i] = static_cast<char>(i + 1);
  process.last_thread().set_registers(registers);
  const elf_prstatus status = core_of(builder).threads().at(0);
  CHECK(std::memcmp(&status.pr_reg, registers.data(), registers.size()) == 0);
}

TEST_CASE("the program counter is not moved, even where a system call would restart") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10, 0x401002, 0x7000);
  user_regs_struct registers;
  std::memcpy(&registers, process.last_thread().registers().data(), sizeof registers);
  registers.orig_rax = 34;                           // pause(2)
  registers.rax = static_cast<unsigned long>(-514);  // -ERESTARTNOHAND
  process.last_thread().set_registers(&registers, sizeof registers);
  const elf_prstatus status = core_of(builder).threads().at(0);
  CHECK(status.pr_reg[16] == 0x401002);  // rip in user_regs_struct
  CHECK(status.pr_reg[10] == static_cast<unsigned long>(-514));
}

TEST_CASE("PRSTATUS says who, why and for how long") {
  SnapshotBuilder builder;
  three_threads(builder);
  auto snapshot_process = builder.build()->root();
  SnapshotBuilder other;
  other.record().mutable_host()->set_clock_ticks_per_second(100);
  auto& process = other.process(10, 7);
  process.record() = snapshot_process;
  process.record().clear_mappings();
  process.record().set_group(8);
  process.record().set_session(6);
  auto& leader = *process.record().mutable_threads(0);
  leader.set_user_ticks(150);
  leader.set_system_ticks(5);
  leader.set_signal_mask(0x8000000000000001);
  leader.set_signals_pending(0x10);
  process.record().mutable_threads(2)->set_user_ticks(100);
  process.record().set_signals_caught(0x10);

  const std::vector<elf_prstatus> threads = core_of(other).threads();
  const elf_prstatus& first = threads.at(0);
  CHECK(first.pr_pid == 10);
  CHECK(first.pr_ppid == 7);
  CHECK(first.pr_pgrp == 8);
  CHECK(first.pr_sid == 6);
  CHECK(first.pr_sighold == 0x8000000000000001);
  CHECK(first.pr_sigpend == 0x10);
  CHECK(first.pr_cursig == 0);
  CHECK(first.pr_utime.tv_sec == 2);  // the leader shows its whole group
  CHECK(first.pr_utime.tv_usec == 500'000);
  CHECK(first.pr_stime.tv_usec == 50'000);
  CHECK(threads.at(2).pr_utime.tv_sec == 1);
}

TEST_CASE("the vector registers are whole, whatever their size") {
  for (const size_t size : {size_t{576}, size_t{832}, size_t{2696}, size_t{11008}}) {
    SnapshotBuilder builder;
    auto& process = builder.process(10).thread(10);
    process.last_thread().set_xstate(xstate_of(size));
    const CoreView core = core_of(builder);
    CHECK(core.note(NT_X86_XSTATE).value().bytes == xstate_of(size));
    CHECK(core.note(NT_FPREGSET).value().bytes ==
          xstate_of(size).substr(0, 464) + std::string(48, '\0'));
    CHECK(core.threads()[0].pr_fpvalid == 1);
  }
}

TEST_CASE("registers that no debugger knows follow in a note of our own, if they are used") {
  const auto owners_with = [](char last_byte) {
    SnapshotBuilder builder;
    for (const auto& [number, offset, size] : {std::array{2u, 576u, 256u}, {18u, 2816u, 8192u}}) {
      auto& component = *builder.record().mutable_host()->add_xstate();
      component.set_number(number);
      component.set_offset(offset);
      component.set_size(size);
    }
    std::string area(11008, '\0');
    area[464] = 7;    // x87, SSE, AVX
    area[466] = 0x4;  // tiles
    area.back() = last_byte;
    builder.process(10).thread(10).last_thread().set_xstate(area);
    const CoreView core = core_of(builder);
    std::vector<std::pair<std::string, size_t>> owners;
    for (const Note& note : core.notes())
      if (note.type == NT_X86_XSTATE) owners.emplace_back(note.owner, note.bytes.size());
    return owners;
  };
  using Owners = std::vector<std::pair<std::string, size_t>>;
  CHECK(owners_with(0) == Owners{{"LINUX", 832}});
  CHECK(owners_with(1) == Owners{{"LINUX", 832}, {"SNAPGDB", 11008}});
}

TEST_CASE("SIGINFO is that of the signal, in each thread that has one, and never zeros") {
  SnapshotBuilder builder;
  three_threads(builder);
  const CoreView core = core_of(builder);
  REQUIRE(core.note(NT_SIGINFO));
  CHECK(core.note(NT_SIGINFO)->bytes == siginfo_of(SIGSEGV));
  CHECK(core.note_types() ==
        std::vector<uint32_t>{NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE, NT_FPREGSET,
                              NT_X86_XSTATE,                                        // 10
                              NT_PRSTATUS, NT_SIGINFO, NT_FPREGSET, NT_X86_XSTATE,  // 11
                              NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE});
}

TEST_CASE("every thread shows the signal of the first one, as gdb wants it") {
  SnapshotBuilder builder;
  three_threads(builder);
  const auto signals = [&](int32_t focus) {
    builder.record().set_focus_tid(focus);
    std::vector<std::pair<int, int>> seen;
    for (const elf_prstatus& thread : core_of(builder).threads())
      seen.emplace_back(thread.pr_cursig, thread.pr_info.si_signo);
    return seen;
  };
  CHECK(signals(11) == std::vector<std::pair<int, int>>(3, {SIGSEGV, SIGSEGV}));
  CHECK(signals(12) == std::vector<std::pair<int, int>>(3, {0, 0}));
}

TEST_CASE("siginfo about another signal is left out") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.last_thread().set_stop_signal(SIGABRT);
  process.last_thread().set_stop_siginfo(siginfo_of(SIGSEGV));
  const CoreView core = core_of(builder);
  CHECK(core.threads()[0].pr_cursig == SIGABRT);
  CHECK_FALSE(core.note(NT_SIGINFO));
}

TEST_CASE("a pending signal counts if it is about to end the process") {
  const auto signal_with = [](uint64_t pending, uint64_t mask, uint64_t caught) {
    SnapshotBuilder builder;
    auto& process = builder.process(10).thread(10);
    process.record().set_signals_pending(pending);
    process.record().add_pending_siginfo(siginfo_of(SIGTERM));
    process.record().set_signals_caught(caught);
    process.last_thread().set_signal_mask(mask);
    const CoreView core = core_of(builder);
    const auto note = core.note(NT_SIGINFO);
    if (note) CHECK(note->as<siginfo_t>().si_signo == SIGTERM);
    return std::pair(static_cast<int>(core.threads()[0].pr_cursig), note.has_value());
  };
  const uint64_t term = 1u << (SIGTERM - 1), child = 1u << (SIGCHLD - 1);
  CHECK(signal_with(term, 0, 0) == std::pair(SIGTERM, true));
  CHECK(signal_with(term | child, 0, 0) == std::pair(SIGTERM, true));
  CHECK(signal_with(term, term, 0) == std::pair(0, false));
  CHECK(signal_with(term, 0, term) == std::pair(0, false));
  CHECK(signal_with(child, 0, 0) == std::pair(0, false));
}

TEST_CASE("PRPSINFO describes the process") {
  SnapshotBuilder builder;
  auto& process = builder.process(10, 7).thread(10);
  process.record().set_name("a name of over fifteen bytes");
  process.record().set_state("T");
  for (const char* argument : {"prog", "--flag", "value"}) process.record().add_arguments(argument);
  process.last_thread().mutable_credentials()->set_ruid(4294967294);
  process.last_thread().mutable_credentials()->set_rgid(100000);
  process.last_thread().mutable_scheduling()->set_nice(-5);
  const auto info = core_of(builder).note(NT_PRPSINFO).value().as<elf_prpsinfo>();
  CHECK(info.pr_sname == 'T');
  CHECK(info.pr_state == 3);
  CHECK(info.pr_zomb == 0);
  CHECK(info.pr_nice == -5);
  CHECK(info.pr_uid == 4294967294);
  CHECK(info.pr_gid == 100000);
  CHECK(info.pr_pid == 10);
  CHECK(info.pr_ppid == 7);
  CHECK(std::string(info.pr_fname) == "a name of over ");
  CHECK(std::string(info.pr_psargs) == "prog --flag value");
}

TEST_CASE("a long command line is cut and stays terminated") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.record().add_arguments(std::string(1000, 'a'));
  const auto info = core_of(builder).note(NT_PRPSINFO).value().as<elf_prpsinfo>();
  CHECK(std::string(info.pr_psargs) == std::string(79, 'a'));
}

TEST_CASE("AUXV is kept entry by entry and ends with AT_NULL") {
  const std::string auxv =
      auxv_of({{AT_SYSINFO_EHDR, 0x7fff0000}, {AT_PHDR, 0x40}, {AT_ENTRY, 0x5555}, {AT_NULL, 0}});
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.record().set_auxv(auxv + std::string(64, 'x'));
  CHECK(core_of(builder).note(NT_AUXV).value().bytes == auxv);
}

TEST_CASE("what the notes lack is said") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10).thread(11).thread(12);
  process.record().mutable_threads(1)->clear_registers();
  process.record().mutable_threads(2)->clear_registers();
  process.record().mutable_threads(2)->set_state("Z");
  const auto snapshot = builder.build();
  const CoreNotes notes = build_notes(*snapshot, snapshot->root(), {});
  REQUIRE(notes.missing.size() == 3);
  CHECK(notes.missing[0].starts_with("the auxiliary vector"));
  CHECK(notes.missing[1].starts_with("thread 10: its vector"));
  CHECK(notes.missing[2].starts_with("thread 11: its registers"));
}

// ---- NT_FILE -------------------------------------------------------------------------------

namespace {

struct NamedRange {
  uint64_t start, end, offset;
  std::string name;
  bool operator==(const NamedRange&) const = default;
};

// Reads NT_FILE as its description in fs/binfmt_elf.c says.
std::vector<NamedRange> files_of(const Note& note) {
  const auto number = [&](size_t index) {
    uint64_t value;
    if ((index + 1) * 8 > note.bytes.size()) throw std::runtime_error("NT_FILE is too short");
    std::memcpy(&value, note.bytes.data() + index * 8, sizeof value);
    return value;
  };
  std::vector<NamedRange> files(number(0));
  size_t name = (2 + 3 * files.size()) * 8;
  for (size_t i = 0; i < files.size(); ++i) {
    const size_t end = note.bytes.find('\0', name);
    if (end == std::string::npos) throw std::runtime_error("a name is not ended");
    files[i] = {number(2 + 3 * i), number(3 + 3 * i), number(4 + 3 * i) * number(1),
                note.bytes.substr(name, end - name)};
    name = end + 1;
  }
  if (name != note.bytes.size()) throw std::runtime_error("bytes are left over");
  return files;
}

}  // namespace

TEST_CASE("FILE names programs and libraries, however odd their names") {
  const std::string odd = "/tmp/a b\n\"c\" \xff\xfe (deleted)";
  SnapshotBuilder builder;
  const uint32_t one = builder.file("/lib/one", std::string(100, 'x'), pb::FILE_EXECUTABLE);
  const uint32_t two = builder.file(odd, std::string(0x6000, 'y'), pb::FILE_LIBRARY);
  const uint32_t nul = builder.file(std::string("/nul\0tail", 9), "z", pb::FILE_LIBRARY);
  auto& process = builder.process(10).thread(10);
  process.mapped_file(0x1000, 0x1000, one, 0, PROT_READ)
      .mapped_file(0x2000, 0x2000, two, 0x3000, PROT_READ)
      .memory(0x5000, "z", PROT_READ, "[heap]")
      .memory(0x6000, "z", PROT_READ, "")
      .mapped_file(0x8000, 0x1000, nul, 0, PROT_READ);
  CHECK(files_of(core_of(builder).note(NT_FILE).value()) ==
        std::vector<NamedRange>{{0x1000, 0x2000, 0, "/lib/one"},
                                {0x2000, 0x4000, 0x3000, odd},
                                {0x8000, 0x9000, 0, "/nul"}});
}

TEST_CASE("FILE leaves out what debuggers must not or need not read from a file") {
  SnapshotBuilder builder;
  const uint32_t gone = builder.file("/lib/gone", "x", pb::FILE_LIBRARY);
  const uint32_t data = builder.file("/data", "x", pb::FILE_DATA);
  auto& process = builder.process(10).thread(10);
  process.mapped_file(0x1000, 0x1000, gone, 0, PROT_READ)
      .mapped_file(0x2000, 0x1000, data, 0, PROT_READ)
      .memory(0x3000, "shared", PROT_READ | PROT_WRITE, "/shared");
  process.record().mutable_mappings(0)->set_deleted(true);
  CHECK_FALSE(core_of(builder).note(NT_FILE));
}

TEST_CASE("FILE leaves out memory that is missing and differs from the file") {
  SnapshotBuilder builder;
  const uint32_t one = builder.file("/lib/one", std::string(0x3000, 'x'), pb::FILE_LIBRARY);
  auto& process = builder.process(10).thread(10);
  process.mapped_file(0x1000, 0x1000, one, 0, PROT_READ).unavailable(0x2000, 0x1000, "lost");
  process.mapped_file(0x3000, 0x1000, one, 0x2000, PROT_READ);
  auto* mappings = process.record().mutable_mappings();
  mappings->Mutable(0)->set_end(0x4000);
  mappings->DeleteSubrange(1, 2);
  CHECK(files_of(core_of(builder).note(NT_FILE).value()) ==
        std::vector<NamedRange>{{0x1000, 0x2000, 0, "/lib/one"},
                                {0x3000, 0x4000, 0x2000, "/lib/one"}});
}

TEST_CASE("FILE names a data file that is not in the image, so that a debugger can read it there") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/data/big", "big");
  builder.process(10).thread(10).mapped_file(0x10000, 0x1000, file, 0, PROT_READ);
  Snapshot::Contents contents = builder.contents();
  contents.files[0].set_embedded(false);
  const Snapshot snapshot(std::move(contents));
  const auto memory = divide_memory(snapshot, snapshot.root());
  const Note note{"CORE", NT_FILE, file_note(snapshot, snapshot.root(), memory)};
  CHECK(files_of(note) == std::vector<NamedRange>{{0x10000, 0x11000, 0, "/data/big"}});
}

TEST_CASE("a process that maps no file has no FILE note") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, "x", PROT_READ);
  CHECK_FALSE(core_of(builder).note(NT_FILE));
}
