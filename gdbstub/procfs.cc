#include "gdbstub/procfs.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

struct Subject {
  const Snapshot& snapshot;
  const pb::Process& process;
  const pb::Thread* thread;  // nullptr: nothing is left of it
  bool is_task = false;      // the thread alone, not the process
};

template <typename Strings>
std::string nul_terminated(const Strings& strings) {
  std::string out;
  for (const std::string& each : strings) out.append(each) += '\0';
  return out;
}

// [start, end) of it.
std::string maps_line(const pb::Vma& vma, uint64_t start, uint64_t end) {
  const auto letter = [&](uint32_t bit, char c) { return vma.protection() & bit ? c : '-'; };
  std::string line = fmt::format("{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}", start, end,
                                 letter(PROT_READ, 'r'), letter(PROT_WRITE, 'w'),
                                 letter(PROT_EXEC, 'x'), vma.shared() ? 's' : 'p', vma.offset(),
                                 vma.device_major(), vma.device_minor(), vma.inode());
  constexpr size_t kNameColumn = 73;
  if (!vma.name().empty()) {
    line.resize(std::max(line.size() + 1, kNameColumn), ' ');
    for (const char c : vma.name()) line += c == '\n' ? "\\012" : std::string(1, c);
    if (vma.deleted()) line += " (deleted)";
  }
  return line + "\n";
}

std::string maps(const Subject& subject) {
  std::string out;
  for (const pb::Vma& vma : subject.process.mappings())
    out += maps_line(vma, vma.start(), vma.end());
  return out;
}

// As the kernel shows a mapping; or, without amounts and with the flag of what is left out of
// cores, a part of one that is all zeros.
std::string smaps_entry(const pb::Vma& vma, uint64_t start, uint64_t end, bool touched) {
  constexpr uint64_t kKib = 1024;
  const std::pair<const char*, uint64_t> amounts[] = {{"Rss", vma.rss()},
                                                      {"Pss", vma.pss()},
                                                      {"Shared_Clean", vma.shared_clean()},
                                                      {"Shared_Dirty", vma.shared_dirty()},
                                                      {"Private_Clean", vma.private_clean()},
                                                      {"Private_Dirty", vma.private_dirty()},
                                                      {"Anonymous", vma.anonymous()},
                                                      {"Swap", vma.swap()},
                                                      {"Locked", vma.locked()}};
  const auto line = [](std::string_view name, uint64_t bytes) {
    return fmt::format("{:<16}{:>8} kB\n", fmt::format("{}:", name), bytes / kKib);
  };
  std::string out = maps_line(vma, start, end);
  out += line("Size", end - start) + line("KernelPageSize", vma.page_size());
  for (const auto& [name, bytes] : amounts) out += line(name, touched ? bytes : 0);
  return out + fmt::format("VmFlags: {}{}\n", vma.flags(), touched ? "" : " dd");
}

// gdb makes a core of what stands here, and reads every byte of it: parts of anonymous memory,
// large ones, that are nothing but zeros are therefore shown as mappings of their own. The others
// bear the amounts of the whole.
std::string smaps(const Subject& subject) {
  constexpr uint64_t kLarge = 64 << 20;
  std::string out;
  for (const pb::Vma& vma : subject.process.mappings()) {
    uint64_t start = vma.start();
    const auto show_until = [&](uint64_t end) {
      if (start < end) out += smaps_entry(vma, start, end, true);
      start = end;
    };
    if (vma.name().empty() && !vma.shared())
      for (const Extent& extent :
           subject.snapshot.extents(subject.process).overlapping(vma.start(), vma.end())) {
        const uint64_t first = std::max(extent.start, vma.start());
        const uint64_t last = std::min(extent.end(), vma.end());
        if (extent.source != pb::SOURCE_ZERO || last - first < kLarge) continue;
        show_until(first);
        out += smaps_entry(vma, first, last, false);
        start = last;
      }
    show_until(vma.end());
  }
  return out;
}

const char* state_name(char letter) {
  switch (letter) {
    case 'R':
      return "running";
    case 'S':
      return "sleeping";
    case 'D':
      return "disk sleep";
    case 'T':
      return "stopped";
    case 't':
      return "tracing stop";
    case 'Z':
      return "zombie";
    case 'X':
      return "dead";
    default:
      return "idle";
  }
}

char state_of(const Subject& subject) {
  const std::string& state = subject.thread ? subject.thread->state() : subject.process.state();
  return state.empty() ? '?' : state[0];
}

const std::string& name_of(const Subject& subject) {
  return subject.thread ? subject.thread->name() : subject.process.name();
}

int32_t id_of(const Subject& subject) {
  return subject.thread ? subject.thread->tid() : subject.process.pid();
}

std::string credentials_lines(const pb::Credentials& who) {
  std::string groups;
  for (const uint32_t group : who.groups()) groups += fmt::format("{} ", group);
  return fmt::format("Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nGroups:\t{}\n", who.ruid(),
                     who.euid(), who.suid(), who.fsuid(), who.rgid(), who.egid(), who.sgid(),
                     who.fsgid(), groups);
}

std::string capability_lines(const pb::Credentials& who) {
  return fmt::format(
      "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n"
      "NoNewPrivs:\t{:d}\nSeccomp:\t{}\nSeccomp_filters:\t{}\n",
      who.cap_inheritable(), who.cap_permitted(), who.cap_effective(), who.cap_bounding(),
      who.cap_ambient(), who.no_new_privs(), who.seccomp_mode(), who.seccomp_filters());
}

uint64_t resident(const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings()) bytes += vma.rss();
  return bytes;
}

// The kernel lists the page of vsyscall, but counts it nowhere.
uint64_t mapped(const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings())
    if (vma.name() != "[vsyscall]") bytes += vma.end() - vma.start();
  return bytes;
}

std::string memory_lines(const pb::Process& process) {
  constexpr uint64_t kKib = 1024;
  uint64_t locked = 0, swapped = 0, stack = 0;
  for (const pb::Vma& vma : process.mappings()) {
    locked += vma.locked();
    swapped += vma.swap();
    if (vma.name() == "[stack]") stack += vma.end() - vma.start();
  }
  return fmt::format(
      "VmSize:\t{:8} kB\nVmLck:\t{:8} kB\nVmRSS:\t{:8} kB\nVmStk:\t{:8} kB\nVmSwap:\t{:8} kB\n",
      mapped(process) / kKib, locked / kKib, resident(process) / kKib, stack / kKib,
      swapped / kKib);
}

std::string status(const Subject& subject) {
  const pb::Process& process = subject.process;
  const pb::Thread& thread = subject.thread ? *subject.thread : pb::Thread::default_instance();
  const char state = state_of(subject);
  std::string out = fmt::format(
      "Name:\t{}\nUmask:\t{:04o}\nState:\t{} ({})\nTgid:\t{}\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n",
      name_of(subject), process.umask(), state, state_name(state), process.pid(), id_of(subject),
      process.parent());
  out += credentials_lines(thread.credentials()) + memory_lines(process);
  out += fmt::format(
      "Threads:\t{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\n"
      "SigCgt:\t{:016x}\n",
      process.threads_size(), thread.signals_pending(), process.signals_pending(),
      thread.signal_mask(), process.signals_ignored(), process.signals_caught());
  out += capability_lines(thread.credentials());
  return out + fmt::format(
                   "Cpus_allowed_list:\t{}\nvoluntary_ctxt_switches:\t{}\n"
                   "nonvoluntary_ctxt_switches:\t{}\n",
                   thread.scheduling().cpus_allowed(), thread.voluntary_switches(),
                   thread.involuntary_switches());
}

// The priority column of stat: for real-time policies negative, else 20 + nice.
int64_t priority_of(const pb::Scheduling& scheduling) {
  const int64_t realtime = scheduling.realtime_priority();
  return realtime > 0 ? -1 - realtime : 20 + scheduling.nice();
}

// Of all its threads, unless one was asked for.
uint64_t ticks(const Subject& subject, uint64_t (pb::Thread::*kind)() const) {
  if (subject.is_task) return subject.thread ? (subject.thread->*kind)() : 0;
  uint64_t sum = 0;
  for (const pb::Thread& thread : subject.process.threads()) sum += (thread.*kind)();
  return sum;
}

uint64_t resident_limit(const pb::Process& process) {
  for (const pb::Limit& limit : process.limits())
    if (limit.name() == "Max resident set") return limit.soft();
  return UINT64_MAX;
}

// proc(5). Counters that a snapshot does not keep read -1, which no counter can be.
std::string stat(const Subject& subject) {
  const pb::Process& process = subject.process;
  const pb::Thread& thread = subject.thread ? *subject.thread : pb::Thread::default_instance();
  const pb::Scheduling& scheduling = thread.scheduling();
  const pb::MmLayout& mm = process.layout();
  std::string out = fmt::format(
      "{} ({}) {} {} {} {} {} {} 0 -1 -1 -1 -1 {} {} -1 -1 {} {} {} 0 {} {} {} {}", id_of(subject),
      name_of(subject), state_of(subject), process.parent(), process.group(), process.session(),
      process.terminal(), process.foreground_group(), ticks(subject, &pb::Thread::user_ticks),
      ticks(subject, &pb::Thread::system_ticks), priority_of(scheduling), scheduling.nice(),
      process.threads_size(), thread.start_ticks(), mapped(process), resident(process) / kPageSize,
      resident_limit(process));
  out += fmt::format(" {} {} {} 0 0 {} {} {} {} 1 0 0 17 {} {} {} 0 0 0", mm.start_code(),
                     mm.end_code(), mm.start_stack(), thread.signals_pending(),
                     thread.signal_mask(), process.signals_ignored(), process.signals_caught(),
                     thread.cpu(), scheduling.realtime_priority(), scheduling.policy());
  return out + fmt::format(" {} {} {} {} {} {} {} {}\n", mm.start_data(), mm.end_data(),
                           mm.start_brk(), mm.arg_start(), mm.arg_end(), mm.env_start(),
                           mm.env_end(), process.exit_status());
}

std::string limits(const Subject& subject) {
  const auto shown = [](uint64_t value) {
    return value == UINT64_MAX ? std::string("unlimited") : fmt::format("{}", value);
  };
  std::string out = fmt::format("{:<25} {:<20} {:<20}\n", "Limit", "Soft Limit", "Hard Limit");
  for (const pb::Limit& limit : subject.process.limits())
    out += fmt::format("{:<25} {:<20} {:<20}\n", limit.name(), shown(limit.soft()),
                       shown(limit.hard()));
  return out;
}

std::string cgroups(const Subject& subject) {
  std::string out;
  for (const std::string& line : subject.process.cgroups()) out += line + "\n";
  return out;
}

struct Row {
  std::string_view name;
  std::string (*content)(const Subject&);
};

constexpr Row kFiles[] = {
    {"auxv", [](const Subject& s) { return s.process.auxv(); }},
    {"cgroup", cgroups},
    {"cmdline", [](const Subject& s) { return nul_terminated(s.process.arguments()); }},
    {"comm", [](const Subject& s) { return name_of(s) + "\n"; }},
    {"coredump_filter",
     [](const Subject& s) { return fmt::format("{:08x}\n", s.process.coredump_filter()); }},
    {"environ", [](const Subject& s) { return nul_terminated(s.process.environment()); }},
    {"limits", limits},
    {"maps", maps},
    {"personality",
     [](const Subject& s) { return fmt::format("{:08x}\n", s.process.personality()); }},
    {"smaps", smaps},
    {"stat", stat},
    {"status", status},
};

std::string executable_link(const Subject& subject) {
  return subject.process.executable() + (subject.process.executable_deleted() ? " (deleted)" : "");
}

constexpr Row kLinks[] = {
    {"cwd", [](const Subject& s) { return s.process.working_directory(); }},
    {"exe", executable_link},
    {"root", [](const Subject& s) { return s.process.root_directory(); }},
};

const pb::Thread* find_thread(const pb::Process& process, int32_t tid) {
  const auto found = std::ranges::find(process.threads(), tid, &pb::Thread::tid);
  return found == process.threads().end() ? nullptr : &*found;
}

// Takes "NUMBER/" off the front of `path`.
std::optional<int32_t> take_id(std::string_view& path) {
  const size_t slash = path.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto id = parse_number<int32_t>(path.substr(0, slash));
  path.remove_prefix(slash + 1);
  return id;
}

// Whose file it is; `path` is then what follows.
std::optional<Subject> take_subject(const Snapshot& snapshot, std::string_view& path) {
  constexpr std::string_view kRoot = "/proc/", kTask = "task/";
  if (!path.starts_with(kRoot)) return std::nullopt;
  path.remove_prefix(kRoot.size());
  const auto pid = take_id(path);
  const pb::Process* process = pid ? snapshot.process(*pid) : nullptr;
  if (!process) return std::nullopt;
  if (!path.starts_with(kTask))
    return Subject{snapshot, *process, find_thread(*process, process->pid())};
  path.remove_prefix(kTask.size());
  const auto tid = take_id(path);
  const pb::Thread* thread = tid ? find_thread(*process, *tid) : nullptr;
  const bool is_leader = tid == process->pid();  // it may have exited before the others
  if (!thread && !is_leader) return std::nullopt;
  return Subject{snapshot, *process, thread, true};
}

std::optional<std::string> content(std::span<const Row> rows, const Subject& subject,
                                   std::string_view name) {
  const auto row = std::ranges::find(rows, name, &Row::name);
  if (row == rows.end()) return std::nullopt;
  return row->content(subject);
}

std::optional<std::string> descriptor_link(const Subject& subject, std::string_view name) {
  const auto number =
      name.starts_with("fd/") ? parse_number<int32_t>(name.substr(3)) : std::nullopt;
  if (!number) return std::nullopt;
  const auto& descriptors = subject.process.descriptors();
  const auto found = std::ranges::find(descriptors, *number, &pb::Descriptor::number);
  if (found == descriptors.end()) return std::nullopt;
  return found->target();
}

}  // namespace

std::optional<std::string> proc_file(const Snapshot& snapshot, std::string_view path) {
  const auto subject = take_subject(snapshot, path);
  return subject ? content(kFiles, *subject, path) : std::nullopt;
}

std::optional<std::string> proc_link(const Snapshot& snapshot, std::string_view path) {
  const auto subject = take_subject(snapshot, path);
  if (!subject) return std::nullopt;
  if (auto link = content(kLinks, *subject, path)) return link;
  return descriptor_link(*subject, path);
}

std::string resolve_self(std::string_view path, int32_t seen_by) {
  constexpr std::string_view kSelf = "/proc/self/";
  if (!path.starts_with(kSelf)) return std::string(path);
  return fmt::format("/proc/{}/{}", seen_by, path.substr(kSelf.size()));
}

}  // namespace snapgdb::gdbstub
