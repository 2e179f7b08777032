#include "core/base/strings.h"
#include "core/resource/resources.h"

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

void capture(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const ProcDirectory& proc = frozen.task_proc;
  std::string executable = proc.link("exe");
  if (executable.ends_with(kDeleted)) {
    executable.resize(executable.size() - kDeleted.size());
    process.set_executable_deleted(true);
  }
  process.set_executable(std::move(executable));
  add_strings(proc.read("cmdline"), process.mutable_arguments());
  add_strings(proc.read("environ"), process.mutable_environment());
  process.set_working_directory(proc.link("cwd"));
  process.set_root_directory(proc.link("root"));
  process.set_auxv(proc.read("auxv"));
  *process.mutable_layout() = layout_of(proc.stat());
  process.set_personality(number_in(proc, "personality"));
  process.set_coredump_filter(number_in(frozen.proc, "coredump_filter"));
  const std::string adjustment = proc.read("oom_score_adj");
  process.set_oom_score_adj(parse_number<int32_t>(trim(adjustment)).value_or(0));
  // The kernel gives root the files of a process that is not dumpable (proc(5)).
  struct stat status {};
  process.set_dumpable(::fstatat(proc.fd(), "environ", &status, 0) == 0 &&
                       status.st_uid == ProcFields(proc.read("status")).number("Uid"));
}

}  // namespace

const ProcessResource kProgram{"program", capture};

}  // namespace snapgdb
