#include "gdbstub/snapshot_target.h"

#include <algorithm>

namespace snapgdb::gdbstub {
namespace {

bool has_signal(const pb::Thread& thread) {
  return thread.stop_signal() != 0 && !thread.job_stopped();
}

}  // namespace

// From the machine's record, or from what the kernel notes in the area it hands out, or just what
// every x86-64 has (x87 and SSE).
uint64_t xcr0_of(const Snapshot& snapshot) {
  if (const uint64_t xcr0 = snapshot.record().host().xcr0()) return xcr0;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      if (const auto xcr0 = xcr0_of(thread.xstate())) return *xcr0;
  return 3;
}

SnapshotTarget::SnapshotTarget(std::shared_ptr<const Snapshot> snapshot)
    : snapshot_(std::move(snapshot)),
      layout_(xcr0_of(*snapshot_),
              std::vector<pb::XstateComponent>(snapshot_->record().host().xstate().begin(),
                                               snapshot_->record().host().xstate().end())),
      files_(snapshot_) {
  for (const pb::Process& process : snapshot_->processes())
    for (const pb::Thread& thread : process.threads())
      threads_.emplace(ThreadId{Pid{process.pid()}, Tid{thread.tid()}}, &thread);
}

std::vector<Pid> SnapshotTarget::processes() const {
  std::vector<Pid> out;
  for (const pb::Process& process : snapshot_->processes()) out.push_back(Pid{process.pid()});
  return out;
}

std::vector<Tid> SnapshotTarget::threads(Pid pid) const {
  std::vector<Tid> out;
  if (const pb::Process* process = snapshot_->process(pid.value))
    for (const pb::Thread& thread : process->threads()) out.push_back(Tid{thread.tid()});
  return out;
}

const pb::Thread* SnapshotTarget::find(ThreadId thread) const {
  const auto found = threads_.find(thread);
  return found == threads_.end() ? nullptr : found->second;
}

Tid SnapshotTarget::focus(Pid pid) const {
  const ThreadId recorded{pid, Tid{snapshot_->record().focus_tid()}};
  if (find(recorded)) return recorded.tid;
  const auto& threads = snapshot_->process(pid.value)->threads();
  auto best = std::ranges::find_if(threads, has_signal);
  if (best == threads.end())  // a leader that has exited has no registers
    best = std::ranges::find_if(threads, [](const auto& t) { return !t.registers().empty(); });
  return Tid{(best == threads.end() ? threads.at(0) : *best).tid()};
}

ThreadDescription SnapshotTarget::describe(ThreadId thread) const {
  const pb::Thread& record = *find(thread);
  return {record.name(), record.cpu(),
          has_signal(record) ? static_cast<int>(record.stop_signal()) : 0};
}

MemoryOverlay::ReadBelow SnapshotTarget::below(const pb::Process& process) const {
  return [this, &process](uint64_t address, std::span<std::byte> out) {
    return snapshot_->read_memory(process, address, out);
  };
}

size_t SnapshotTarget::read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const {
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process) return 0;
  const auto overlay = changes_.memory.find(process->address_space());
  if (overlay == changes_.memory.end()) return snapshot_->read_memory(*process, address, out);
  return overlay->second.read(address, out, below(*process));
}

bool SnapshotTarget::write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) {
  const pb::Process* process = snapshot_->process(pid.value);
  return process &&
         changes_.memory[process->address_space()].write(address, bytes, below(*process));
}

std::optional<Mapping> SnapshotTarget::mapping_at_or_after(Pid pid, uint64_t address) const {
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process) return std::nullopt;
  const auto& mappings = process->mappings();
  const auto found = std::ranges::upper_bound(mappings, address, {}, &pb::Vma::end);
  std::optional<Mapping> next;
  if (found != mappings.end())
    next = {found->start(), found->end(), found->protection(), found->name()};
  if (const auto own = changes_.allocated.find(process->address_space());
      own != changes_.allocated.end())
    for (const auto& [start, mapping] : own->second)
      if (mapping.end > address && (!next || start < next->start)) next = mapping;
  return next;
}

// Far from where the kernel puts anything, so that what is restored finds its place free.
std::optional<Mapping> SnapshotTarget::allocate(Pid pid, uint64_t size, uint32_t protection) {
  constexpr uint64_t kFirst = 0x2000'0000'0000, kLast = 0x3000'0000'0000, kMost = 64 << 20;
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process || size == 0 || size > kMost) return std::nullopt;
  const uint64_t whole = page_up(size);
  uint64_t start = kFirst;
  for (auto next = mapping_at_or_after(pid, start); next && next->start < start + whole;
       next = mapping_at_or_after(pid, start))
    start = next->end;
  if (start + whole > kLast) return std::nullopt;
  const Mapping made{start, start + whole, protection, "[debugger]"};
  changes_.allocated[process->address_space()][start] = made;
  changes_.memory[process->address_space()].add(start, whole);
  return made;
}

std::optional<Mapping> SnapshotTarget::release(Pid pid, uint64_t start) {
  const pb::Process* process = snapshot_->process(pid.value);
  const auto own =
      process ? changes_.allocated.find(process->address_space()) : changes_.allocated.end();
  if (own == changes_.allocated.end()) return std::nullopt;
  const auto found = own->second.extract(start);
  if (found.empty()) return std::nullopt;
  changes_.memory[process->address_space()].drop(start, found.mapped().end - start);
  return found.mapped();
}

void SnapshotTarget::revert() {
  Changes kept;
  kept.allocated = changes_.allocated;
  for (const auto& [space, mappings] : kept.allocated)
    for (const auto& [start, mapping] : mappings)
      kept.memory[space].add(start, mapping.end - start);
  changes_ = std::move(kept);
}

RegisterSet SnapshotTarget::registers(ThreadId thread) const {
  if (const auto changed = changes_.registers.find(thread); changed != changes_.registers.end())
    return changed->second;
  const pb::Thread& record = *find(thread);
  return {record.registers(), record.xstate()};
}

void SnapshotTarget::set_registers(ThreadId thread, RegisterSet registers) {
  changes_.registers.insert_or_assign(thread, std::move(registers));
}

std::optional<std::string> SnapshotTarget::siginfo(ThreadId thread) const {
  const pb::Thread& record = *find(thread);
  if (record.stop_siginfo().empty()) return std::nullopt;
  return record.stop_siginfo();
}

std::optional<std::string> SnapshotTarget::auxv(Pid pid) const {
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process || process->auxv().empty()) return std::nullopt;
  return process->auxv();
}

std::optional<std::string> SnapshotTarget::executable(Pid pid) const {
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process || process->executable().empty()) return std::nullopt;
  return process->executable();
}

}  // namespace snapgdb::gdbstub
