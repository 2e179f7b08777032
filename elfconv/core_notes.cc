// The notes of a core, in the kernel's order (fs/binfmt_elf.c, write_note_info):
//
//   first thread   PRSTATUS, PRPSINFO, SIGINFO, AUXV, FILE, FPREGSET, X86_XSTATE
//   every other    PRSTATUS, SIGINFO, FPREGSET, X86_XSTATE
//
// The kernel writes one SIGINFO, that of the fatal signal. Like gdb's gcore we write one for every
// thread that has a signal; which thread a note belongs to follows from the PRSTATUS before it
// (bfd/elf.c, elfcore_grok_note). A thread without a signal has no SIGINFO, in gcore's cores too:
// one of zeros would be an invention.
//
// Where a thread has used registers that no debugger knows (core_xstate.h), a second X86_XSTATE of
// the owner SNAPGDB follows, which is whole. Debuggers pass over owners they do not know.
#include "elfconv/core_notes.h"

#include <elf.h>
#include <signal.h>
#include <sys/procfs.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "elfconv/core_file_note.h"
#include "elfconv/core_signal.h"
#include "elfconv/core_xstate.h"

namespace snapgdb {
namespace {

constexpr size_t kFxsaveSize = 512;        // the legacy region of an XSAVE area: NT_FPREGSET
constexpr size_t kSoftwareReserved = 464;  // from here to its end
constexpr size_t kSmallestXstate = kFxsaveSize + 64;  // … with the XSAVE header

template <typename Struct>
std::string_view bytes_of(const Struct& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// All bytes zero, the padding too: equal snapshots make equal cores.
template <typename Struct>
Struct zeroed() {
  Struct value;
  std::memset(&value, 0, sizeof value);
  return value;
}

// elf(5): name and descriptor are each padded to 4 bytes.
void append_note(std::string& notes, std::string_view owner, uint32_t type,
                 std::string_view descriptor) {
  if (descriptor.size() > UINT32_MAX)
    throw Error("cannot write the core", "a note would be larger than 4 GiB");
  const Elf64_Nhdr header{static_cast<Elf64_Word>(owner.size() + 1),
                          static_cast<Elf64_Word>(descriptor.size()), type};
  const auto pad = [&] { notes.resize((notes.size() + 3) & ~size_t{3}); };
  notes += bytes_of(header);
  notes += owner;
  notes += '\0';
  pad();
  notes += descriptor;
  pad();
}

timeval to_timeval(uint64_t ticks, uint32_t ticks_per_second) {
  if (ticks_per_second == 0) return {};
  const uint64_t rest = ticks % ticks_per_second;
  return {static_cast<time_t>(ticks / ticks_per_second),
          static_cast<suseconds_t>(rest * 1'000'000 / ticks_per_second)};
}

// fs/binfmt_elf.c, fill_prstatus: the leader shows the time of its whole group.
void fill_times(elf_prstatus& status, const pb::Process& process, const pb::Thread& thread,
                uint32_t ticks_per_second) {
  uint64_t user = thread.user_ticks(), system = thread.system_ticks();
  if (thread.tid() == process.pid()) {
    user = system = 0;
    for (const pb::Thread& each : process.threads()) {
      user += each.user_ticks();
      system += each.system_ticks();
    }
  }
  status.pr_utime = to_timeval(user, ticks_per_second);
  status.pr_stime = to_timeval(system, ticks_per_second);
}

class NoteBuilder {
 public:
  NoteBuilder(const Snapshot& snapshot, const pb::Process& process, const CoreMemory& memory)
      : snapshot_(snapshot), process_(process), memory_(memory) {}

  CoreNotes build() {
    const auto threads = threads_to_show(snapshot_, process_);
    const ThreadSignal reason = signal_of(process_, *threads.front(), true);
    bool first = true;
    for (const pb::Thread* thread : threads) {
      const ThreadSignal signal = first ? reason : signal_of(process_, *thread, false);
      prstatus(*thread, reason.number);
      if (first) prpsinfo();
      siginfo(signal);
      if (first) auxv();
      if (first) files();
      xstate(*thread);
      first = false;
    }
    for (const pb::Thread& thread : process_.threads())
      if (thread.registers().empty() && !has_exited(thread))
        lacks(fmt::format("thread {}: its registers are not in the image", thread.tid()));
    return std::move(notes_);
  }

 private:
  static bool has_exited(const pb::Thread& thread) {
    return thread.state() == "Z" || thread.state() == "X";
  }

  void append(std::string_view owner, uint32_t type, std::string_view descriptor) {
    append_note(notes_.bytes, owner, type, descriptor);
  }
  void lacks(std::string what) { notes_.missing.push_back(std::move(what)); }

  // Every thread shows the signal of the first one, as in the kernel's cores: gdb takes the reason
  // for the core from the last PRSTATUS (bfd/elf64-x86-64.c, elf_x86_64_grok_prstatus).
  void prstatus(const pb::Thread& thread, int signal) {
    auto status = zeroed<elf_prstatus>();
    status.pr_info.si_signo = signal;
    status.pr_cursig = static_cast<short>(signal);
    status.pr_sigpend = thread.signals_pending();
    status.pr_sighold = thread.signal_mask();
    status.pr_pid = thread.tid();
    status.pr_ppid = process_.parent();
    status.pr_pgrp = process_.group();
    status.pr_sid = process_.session();
    fill_times(status, process_, thread, snapshot_.record().host().clock_ticks_per_second());
    static_assert(sizeof status.pr_reg == 27 * 8);  // what Snapshot promises for registers
    std::memcpy(&status.pr_reg, thread.registers().data(), sizeof status.pr_reg);
    status.pr_fpvalid = thread.xstate().size() >= kFxsaveSize;
    append("CORE", NT_PRSTATUS, bytes_of(status));
  }

  // fs/binfmt_elf.c, fill_psinfo. pr_flag, the task's PF_ flags, is nothing user space can see.
  void prpsinfo() {
    auto info = zeroed<elf_prpsinfo>();
    static constexpr std::string_view kStates = "RSDTZW";
    const char state = process_.state() == "t" ? 'T' : process_.state()[0];
    const size_t number = kStates.find(state);
    info.pr_state = static_cast<char>(number == kStates.npos ? kStates.size() : number);
    info.pr_sname = number == kStates.npos ? '.' : state;
    info.pr_zomb = state == 'Z';
    info.pr_pid = process_.pid();
    info.pr_ppid = process_.parent();
    info.pr_pgrp = process_.group();
    info.pr_sid = process_.session();
    if (process_.threads_size() > 0) {
      const pb::Thread& leader = process_.threads(0);
      info.pr_nice = static_cast<char>(leader.scheduling().nice());
      info.pr_uid = leader.credentials().ruid();
      info.pr_gid = leader.credentials().rgid();
    }
    process_.name().copy(info.pr_fname, sizeof info.pr_fname - 1);
    command_line().copy(info.pr_psargs, sizeof info.pr_psargs - 1);
    append("CORE", NT_PRPSINFO, bytes_of(info));
  }

  std::string command_line() const {
    std::string line;
    for (const std::string& argument : process_.arguments()) {
      if (!line.empty()) line += ' ';
      line += argument;
      if (line.size() >= ELF_PRARGSZ) break;
    }
    return line;
  }

  void siginfo(const ThreadSignal& signal) {
    if (!signal.siginfo.empty()) append("CORE", NT_SIGINFO, signal.siginfo);
  }

  // Up to AT_NULL and with it, as the kernel has it in mm->saved_auxv.
  void auxv() {
    const std::string_view all = process_.auxv();
    for (size_t at = 0; at + sizeof(Elf64_auxv_t) <= all.size(); at += sizeof(Elf64_auxv_t)) {
      Elf64_auxv_t entry;
      std::memcpy(&entry, all.data() + at, sizeof entry);
      if (entry.a_type == AT_NULL) return append("CORE", NT_AUXV, all.substr(0, at + sizeof entry));
    }
    lacks("the auxiliary vector, without which debuggers do not find the symbols");
  }

  void xstate(const pb::Thread& thread) {
    const std::string_view area = thread.xstate();
    if (area.size() < kSmallestXstate)
      return lacks(
          fmt::format("thread {}: its vector and floating point registers are not in the "
                      "image",
                      thread.tid()));
    // Without what the kernel keeps in it for XSAVE (arch/x86/kernel/fpu/regset.c, xfpregs_get).
    std::string fxsave(area.substr(0, kSoftwareReserved));
    fxsave.resize(kFxsaveSize);
    append("CORE", NT_FPREGSET, fxsave);
    const std::string known = core_xstate(snapshot_.record().host(), area);
    append("LINUX", NT_X86_XSTATE, known);
    const bool has_more = area.find_first_not_of('\0', known.size()) != area.npos;
    if (has_more) append("SNAPGDB", NT_X86_XSTATE, area);
  }

  void files() {
    const std::string note = file_note(snapshot_, process_, memory_);
    if (!note.empty()) append("CORE", NT_FILE, note);
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
  const CoreMemory& memory_;
  CoreNotes notes_;
};

}  // namespace

std::vector<const pb::Thread*> threads_to_show(const Snapshot& snapshot,
                                               const pb::Process& process) {
  std::vector<const pb::Thread*> threads;
  for (const pb::Thread& thread : process.threads())
    if (!thread.registers().empty()) threads.push_back(&thread);

  const auto rank = [&](const pb::Thread* thread) {
    if (thread->tid() == snapshot.record().focus_tid()) return 0;
    if (thread->stop_signal() != 0 && !thread->job_stopped()) return 1;
    return thread->tid() == process.pid() ? 2 : 3;
  };
  const auto first = std::ranges::min_element(threads, {}, rank);
  if (first != threads.end()) std::rotate(threads.begin(), first, std::next(first));
  return threads;
}

CoreNotes build_notes(const Snapshot& snapshot, const pb::Process& process,
                      const CoreMemory& memory) {
  return NoteBuilder(snapshot, process, memory).build();
}

}  // namespace snapgdb
