#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/brief_name.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

pb::MmLayout layout_of(const ProcStat& stat) {
  pb::MmLayout layout;
  layout.set_start_code(stat.start_code);
  layout.set_end_code(stat.end_code);
  layout.set_start_data(stat.start_data);
  layout.set_end_data(stat.end_data);
  layout.set_start_brk(stat.start_brk);
  layout.set_start_stack(stat.start_stack);
  layout.set_arg_start(stat.arg_start);
  layout.set_arg_end(stat.arg_end);
  layout.set_env_start(stat.env_start);
  layout.set_env_end(stat.env_end);
  return layout;
}

// Strings that end in NUL each; the last one may lack it (a program may overwrite its own).
template <typename Field>
void add_strings(std::string_view text, Field* out) {
  for (const std::string_view string : split(text, '\0')) out->Add(std::string(string));
}

uint32_t number_in(const ProcDirectory& proc, const char* file) {
  const std::string text = proc.read_if_allowed(file).value_or("0");
  return parse_number<uint32_t>(trim(text), 16).value_or(0);
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  const ProcDirectory& proc = frozen.task_proc;
  std::string executable = proc.link("exe");
  if (executable.ends_with(kDeleted)) {
    executable.resize(executable.size() - kDeleted.size());
    process.set_executable_deleted(true);
  }
  process.set_executable(std::move(executable));
  add_strings(proc.read("cmdline"), process.mutable_arguments());
  add_strings(proc.read("environ"), process.mutable_environment());
  process.set_file_system(context.file_systems.of(frozen.a_task()));
  process.set_working_directory(proc.link("cwd"));
  process.set_root_directory(proc.link("root"));
  process.set_auxv(proc.read("auxv"));
  *process.mutable_layout() = layout_of(frozen.task_stat());
  process.set_personality(number_in(proc, "personality"));
  process.set_coredump_filter(number_in(frozen.living(), "coredump_filter"));
  const std::string adjustment = proc.read("oom_score_adj");
  process.set_oom_score_adj(parse_number<int32_t>(trim(adjustment)).value_or(0));
  // The kernel gives root the files of a process that is not dumpable (proc(5)). Of root's own,
  // only the process itself is told (inside.cc).
  struct stat status {};
  process.set_dumpable(::fstatat(proc.fd(), "environ", &status, 0) == 0 &&
                       status.st_uid == frozen.task_status().number("Uid"));
}

// ---- Restoring ----------------------------------------------------------------------------------

struct MmMap {  // struct prctl_mm_map
  uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start,
      arg_end, env_start, env_end, auxv;
  uint32_t auxv_size, exe_fd;
};

// The descriptor that leads to it; -1: none does.
int removed_directory(const RestorePlan& plan, std::string_view path) {
  for (const PlannedFile& file : plan.files)
    if (file.descriptor && file.how == PlannedFile::How::kOpened &&
        file.descriptor->has_directory() && file.descriptor->removed() &&
        file.descriptor->target() == path)
      return plan.file_of(*file.descriptor);
  return -1;
}

uint32_t executable_in(const RestorePlan& plan, const pb::Process& process) {
  for (const pb::Vma& vma : process.mappings())
    if (vma.name() == process.executable() && !vma.shared())
      if (const int file = plan.file_of(vma); file >= 0) return static_cast<uint32_t>(file);
  return UINT32_MAX;  // -1: leave it as it is
}

// Only CAP_SYS_RESOURCE may make it less likely to be killed than it was born.
void restore_oom_score(RestoreContext& context, const pb::Process& process,
                       const ProcDirectory& proc) {
  try {
    proc.write("oom_score_adj", std::to_string(process.oom_score_adj()));
  } catch (const SystemError& error) {
    if (error.error_number() != EACCES) throw;
    context.notes.push_back(fmt::format("process {}: oom_score_adj stays {} instead of {}",
                                        process.pid(), trim(proc.read("oom_score_adj")),
                                        process.oom_score_adj()));
  }
}

void restore_layout(RestoreContext& context, const pb::Process& process, Seed& seed) {
  const pb::MmLayout& from = process.layout();
  MmMap map{};
  map.start_code = from.start_code(), map.end_code = from.end_code();
  map.start_data = from.start_data(), map.end_data = from.end_data();
  map.start_brk = from.start_brk(), map.brk = program_break(process);
  map.start_stack = from.start_stack();
  map.arg_start = from.arg_start(), map.arg_end = from.arg_end();
  map.env_start = from.env_start(), map.env_end = from.env_end();
  map.exe_fd = executable_in(context.plan, process);
  map.auxv = seed.put(process.auxv());
  map.auxv_size = static_cast<uint32_t>(process.auxv().size());
  const std::string executable = printable(process.executable());
  seed.add(fmt::format("make {} the executable, and set the bounds of its memory", executable),
           SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, seed.put_value(map), sizeof map});
}

// Any process does, for the moment in which its directory is entered: only the name shows its
// number.
void enter_directory_of_ended(Seed& seed) {
  Seed child = seed.clone("make a process that ends", 0, 0);
  const int64_t number = child.call("ask for its number", SYS_getpid);
  const std::string directory = fmt::format("/proc/{}", number);
  seed.add("change to " + directory, SYS_chdir, {seed.put(directory)});
  seed.perform();
  child.end(0);
  seed.add("reap a process", SYS_wait4, {static_cast<uint64_t>(number), 0, __WALL, 0});
}

// A removed one is made for a moment, unless a descriptor leads to it.
void change_directory(RestoreContext& context, const pb::Process& process, Seed& seed) {
  const std::string& path = process.working_directory();
  const std::string what = "change to " + printable(path);
  const auto removed = removed_name(path);
  if (!removed) return seed.add_if_allowed(what, SYS_chdir, {seed.put(path)});
  if (const int file = removed_directory(context.plan, *removed); file >= 0)
    return seed.add(what, SYS_fchdir, {static_cast<uint64_t>(file)});
  if (is_directory_of_ended(*removed)) return enter_directory_of_ended(seed);
  const uint64_t name = seed.put(*removed);
  constexpr uint64_t kRights = 0755;
  seed.add("make " + printable(*removed) + " for a moment", SYS_mkdir, {name, kRights});
  seed.add(what, SYS_chdir, {name});
  seed.add("remove " + printable(*removed), SYS_rmdir, {name});
}

void restore_file_system(RestoreContext& context, const pb::Process& process, Seed& seed) {
  change_directory(context, process, seed);
  if (has_other_root(process))  // not before: all names are as we see them
    seed.add("make " + printable(process.root_directory()) + " its root", SYS_chroot,
             {seed.put(process.root_directory())});
  seed.add("set the umask", SYS_umask, {process.umask()});
}

void restore(RestoreContext& context, const pb::Process& process, Seed& seed) {
  if (is_first_to_share(context.snapshot, process, kMemory)) restore_layout(context, process, seed);
  if (is_last_to_share(context.snapshot, process, kFileSystem))
    restore_file_system(context, process, seed);
  seed.add("set the personality", SYS_personality, {process.personality()});
  context.perform(seed, process.pid());
  const ProcDirectory proc = ProcDirectory::of(Pid{seed.tid().value});
  restore_oom_score(context, process, proc);
  proc.write("coredump_filter", fmt::format("{:#x}", process.coredump_filter()));
}

}  // namespace

uint64_t program_break(const pb::Process& process) {
  const uint64_t start = process.layout().start_brk();
  uint64_t end = start;
  for (const pb::Vma& vma : process.mappings())
    if (vma.name() == "[heap]") end = std::max(end, vma.end());
  const uint64_t low = process.layout().brk_low();
  uint64_t brk = (end & ~uint64_t{0xffffffff}) | low;
  if (brk > end) brk -= uint64_t{1} << 32;
  return end - brk < kPageSize && low ? brk : end;
}

std::optional<std::string> removed_name(const std::string& directory) {
  if (!directory.ends_with(kDeleted)) return std::nullopt;
  return directory.substr(0, directory.size() - kDeleted.size());
}

bool has_other_root(const pb::Process& process) {
  return !process.root_directory().empty() && process.root_directory() != "/";
}

const ProcessRestorer kProgramRestorer{"program", restore};
const ProcessResource kProgram{"program", capture};

}  // namespace snapgdb
