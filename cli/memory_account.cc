#include "cli/memory_account.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/base/strings.h"
#include "core/inspect/json.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

constexpr size_t kPidsShown = 8;

// One process of each address space.
std::vector<const pb::Process*> owners(const std::vector<const pb::Process*>& processes) {
  std::vector<const pb::Process*> found;
  std::set<uint32_t> seen;
  for (const pb::Process* process : processes)
    if (process->address_space() && seen.insert(process->address_space()).second)
      found.push_back(process);
  return found;
}

std::vector<const pb::Process*> all_processes(const Snapshot& snapshot) {
  std::vector<const pb::Process*> processes;
  for (const pb::Process& process : snapshot.processes()) processes.push_back(&process);
  return processes;
}

// "twin: it writes faster than could be copied"
std::string method(const pb::AddressSpace& space) {
  const std::string why = printable(space.why_not_better());
  return printable(space.method()) + (why.empty() ? "" : ": " + why);
}

std::string list(const std::vector<int32_t>& pids) {
  if (pids.size() <= kPidsShown) return fmt::format("{}", fmt::join(pids, ", "));
  return fmt::format("{} and {} more", fmt::join(pids.begin(), pids.begin() + kPidsShown, ", "),
                     pids.size() - kPidsShown);
}

const char* name(KeptBy kept_by) {
  switch (kept_by) {
    case KeptBy::kKernel:
      return "kernel";
    case KeptBy::kProgram:
      return "program";
    default:
      return "nobody";
  }
}

}  // namespace

std::vector<std::string> secured_by(const Snapshot& snapshot) {
  std::map<std::string, std::vector<int32_t>> processes;
  for (const pb::Process& process : snapshot.processes())
    if (const auto& space = snapshot.address_space(process); !space.method().empty())
      processes[method(space)].push_back(process.pid());
  if (processes.size() == 1) return {processes.begin()->first};
  std::vector<std::string> lines{printable(snapshot.record().memory_method())};
  for (const auto& [how, pids] : processes)
    lines.push_back(fmt::format("{} by {}", list(pids), how));
  return lines;
}

std::vector<std::string> left_out(const Snapshot& snapshot) {
  std::map<std::string, uint64_t> bytes;
  for (const pb::Process* process : owners(all_processes(snapshot)))
    for (const Snapshot::Lack& lack : snapshot.missing_memory(*process))
      if (lack.kept_by == KeptBy::kProgram) bytes[lack.reason] += lack.bytes;
  std::vector<std::string> lines;
  for (const auto& [reason, size] : bytes)
    lines.push_back(fmt::format("{}: {}", human_size(size), printable(reason)));
  return lines;
}

llvm::json::Array address_spaces_json(const Snapshot& snapshot,
                                      const std::vector<const pb::Process*>& processes) {
  llvm::json::Array spaces;
  for (const pb::Process* process : owners(processes)) {
    llvm::json::Object space = *to_json(snapshot.address_space(*process)).getAsObject();
    space["id"] = process->address_space();
    llvm::json::Array missing;
    for (const Snapshot::Lack& lack : snapshot.missing_memory(*process))
      missing.push_back(llvm::json::Object{{"reason", printable(lack.reason)},
                                           {"kept_by", name(lack.kept_by)},
                                           {"bytes", lack.bytes}});
    space["missing"] = std::move(missing);
    spaces.push_back(std::move(space));
  }
  return spaces;
}

}  // namespace snapgdb::cli
