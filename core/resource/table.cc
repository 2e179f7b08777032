#include <algorithm>

#include <fmt/format.h>

#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

#define SNAPGDB_ADDRESS(name) &name,
constexpr const ProcessResource* kProcessTable[] = {SNAPGDB_PROCESS_RESOURCES(SNAPGDB_ADDRESS)};
constexpr const ThreadResource* kThreadTable[] = {SNAPGDB_THREAD_RESOURCES(SNAPGDB_ADDRESS)};
constexpr const DescriptorResource* kDescriptorTableRows[] = {
    SNAPGDB_DESCRIPTOR_RESOURCES(SNAPGDB_ADDRESS)};
constexpr const ProcessRestorer* kProcessRestorers[] = {SNAPGDB_PROCESS_RESTORERS(SNAPGDB_ADDRESS)};
constexpr const ThreadRestorer* kThreadRestorers[] = {SNAPGDB_THREAD_RESTORERS(SNAPGDB_ADDRESS)};
constexpr const DescriptorRestorer* kDescriptorRestorers[] = {
    SNAPGDB_DESCRIPTOR_RESTORERS(SNAPGDB_ADDRESS)};
constexpr const SocketFamily* kSocketFamilies[] = {SNAPGDB_SOCKET_FAMILIES(SNAPGDB_ADDRESS)};
#undef SNAPGDB_ADDRESS

}  // namespace

std::span<const ProcessResource* const> process_resources() {
  return kProcessTable;
}
std::span<const ThreadResource* const> thread_resources() {
  return kThreadTable;
}
std::span<const DescriptorResource* const> descriptor_resources() {
  return kDescriptorTableRows;
}

std::span<const ProcessRestorer* const> process_restorers() {
  return kProcessRestorers;
}
std::span<const ThreadRestorer* const> thread_restorers() {
  return kThreadRestorers;
}
void restore_alone(RestoreContext& context, const pb::Process& process, const pb::Thread& thread,
                   Seed& seed) {
  for (const ThreadRestorer* row : {&kThreadIdentityRestorer, &kCredentialRestorer})
    row->restore(context, process, thread, seed);
}
const DescriptorRestorer* restorer_of(const pb::Descriptor& descriptor) {
  const auto found = std::ranges::find(kDescriptorRestorers, descriptor.kind_case(),
                                       [](const DescriptorRestorer* row) { return row->kind; });
  return found == std::end(kDescriptorRestorers) ? nullptr : *found;
}

std::span<const SocketFamily* const> socket_families() {
  return kSocketFamilies;
}

void RestoreContext::perform(Seed& seed, int32_t id) {
  for (const std::string& failure : seed.perform())
    notes.push_back(fmt::format("task {}: {}", id, failure));
}

const ProcDirectory& StoppedTask::proc() const {
  if (task.proc) return *task.proc;
  if (!proc_) proc_.emplace(process.proc.task(task.tid));
  return *proc_;
}

const ProcFields& StoppedTask::status() const {
  if (task.tid == process.tasks.front().tid) return process.task_status();
  if (!status_) status_ = std::make_unique<const ProcFields>(proc().read("status"));
  return *status_;
}

void CaptureContext::lacks(Pid pid, Tid tid, std::string_view resource, std::string_view reason) {
  const std::lock_guard lock(mutex);
  pb::Missing& entry = missing.emplace_back();
  entry.set_pid(pid.value);
  entry.set_tid(tid.value);
  entry.set_resource(std::string(resource));
  entry.set_reason(std::string(reason));
}

std::map<std::string_view, std::string_view> key_value_pairs(std::string_view line) {
  std::map<std::string_view, std::string_view> pairs;
  while (true) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return pairs;
    const std::string_view key = trim(line.substr(0, colon));
    line.remove_prefix(colon + 1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    const std::string_view value = line.substr(0, line.find_first_of(" \t\n"));
    line.remove_prefix(value.size());
    pairs[key] = value;
  }
}

uint64_t pair_number(const std::map<std::string_view, std::string_view>& pairs,
                     std::string_view key, int base) {
  const auto found = pairs.find(key);
  return found == pairs.end() ? 0 : parse_number<uint64_t>(found->second, base).value_or(0);
}

}  // namespace snapgdb
