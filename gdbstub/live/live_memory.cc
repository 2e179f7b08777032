#include "gdbstub/live/live_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"

namespace snapgdb::gdbstub {
namespace {

constexpr std::byte kInt3{0xcc};

}  // namespace

LiveMemory::LiveMemory(Tid tid)
    : memory_(tid, ProcDirectory::of(Pid{tid.value})),
      writable_(ProcDirectory::of(Pid{tid.value}).open("mem", O_RDWR)) {
  if (!writable_.valid()) throw_errno("cannot open the memory of {}", tid.value);
}

std::unique_ptr<LiveMemory> LiveMemory::of_child(Tid tid) const {
  auto child = std::make_unique<LiveMemory>(tid);
  child->sites_ = sites_;
  child->removed_ = removed_;
  return child;
}

size_t LiveMemory::read(uint64_t address, std::span<std::byte> out) const {
  const size_t n = memory_.read(address, out);
  for (auto site = sites_.lower_bound(address); site != sites_.end() && site->first - address < n;
       ++site)
    out[site->first - address] = site->second.original;
  return n;
}

// Memory that comes later (userfaultfd(2)) can be written by the system call only, memory that is
// protected through the file only.
bool LiveMemory::put(uint64_t address, std::span<const std::byte> bytes) {
  const auto at = static_cast<off_t>(address);
  if (::pwrite(writable_.get(), bytes.data(), bytes.size(), at) ==
      static_cast<ssize_t>(bytes.size()))
    return true;
  try {
    write_remote(memory_.tid(), address, bytes);
    return true;
  } catch (const SystemError&) {
    return false;
  }
}

bool LiveMemory::write(uint64_t address, std::span<const std::byte> bytes) {
  std::vector<std::byte> seen(bytes.begin(), bytes.end());
  const auto first = sites_.lower_bound(address);
  const auto last = sites_.lower_bound(address + bytes.size());
  for (auto site = first; site != last; ++site) seen[site->first - address] = kInt3;
  if (!put(address, seen)) return false;
  for (auto site = first; site != last; ++site)
    site->second.original = bytes[site->first - address];
  return true;
}

bool LiveMemory::insert(uint64_t address, AgentCode code, BreakpointKind kind) {
  if (const auto known = sites_.find(address); known != sites_.end()) {
    known->second.codes.insert_or_assign(kind, std::move(code));
    return true;
  }
  Site site{{}, {{kind, std::move(code)}}};
  if (memory_.read(address, std::span(&site.original, 1)) != 1 ||
      !put(address, std::span(&kInt3, 1)))
    return false;
  sites_.emplace(address, std::move(site));
  removed_.erase(address);
  return true;
}

bool LiveMemory::remove(uint64_t address, BreakpointKind kind) {
  const auto site = sites_.find(address);
  if (site == sites_.end()) return true;
  site->second.codes.erase(kind);
  if (!site->second.codes.empty()) return true;
  std::byte now{};
  const bool is_there = memory_.read(address, std::span(&now, 1)) == 1;
  if (is_there && now == kInt3) put(address, std::span(&site->second.original, 1));
  sites_.erase(site);
  removed_.insert(address);
  return is_there;
}

void LiveMemory::remove_all() {
  while (!sites_.empty())
    remove(sites_.begin()->first, sites_.begin()->second.codes.begin()->first);
}

const LiveMemory::Codes* LiveMemory::breakpoints(uint64_t address) const {
  const auto site = sites_.find(address);
  return site == sites_.end() ? nullptr : &site->second.codes;
}

bool LiveMemory::was_breakpoint(uint64_t address) const {
  std::byte now{};
  return removed_.contains(address) && memory_.read(address, std::span(&now, 1)) == 1 &&
         now != kInt3;
}

void LiveMemory::uncover(uint64_t address) {
  put(address, std::span(&sites_.at(address).original, 1));
}
void LiveMemory::cover(uint64_t address) {
  put(address, std::span(&kInt3, 1));
}
void LiveMemory::uncover_all() {
  for (const auto& [address, site] : sites_) uncover(address);
}
void LiveMemory::cover_all() {
  for (const auto& [address, site] : sites_) cover(address);
}

}  // namespace snapgdb::gdbstub
