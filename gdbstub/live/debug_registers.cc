#include "gdbstub/live/debug_registers.h"

#include <algorithm>
#include <bit>

namespace snapgdb::gdbstub {
namespace {

// DR7's two bits R/W of a slot.
uint64_t condition_bits(BreakpointKind kind) {
  if (kind == BreakpointKind::kHardware) return 0;
  return kind == BreakpointKind::kWrite ? 1 : 3;
}

// DR7's two bits LEN: 1, 2, 8 and 4 bytes.
uint64_t length_bits(uint64_t size) {
  return size == 8 ? 2 : size - 1;
}

}  // namespace

// The fewest slots that cover it.
std::vector<DebugRegisters::Slot> DebugRegisters::pieces(const Breakpoint& breakpoint) {
  if (breakpoint.kind == BreakpointKind::kHardware)
    return {{breakpoint.kind, breakpoint.address, 1}};
  std::vector<Slot> out;
  constexpr uint64_t kMost = 8;
  uint64_t at = breakpoint.address;
  for (uint64_t left = breakpoint.size; left > 0 && out.size() <= kAddresses;) {
    const uint64_t aligned = at == 0 ? kMost : at & -at;
    const uint64_t size = std::min({kMost, aligned, std::bit_floor(left)});
    out.push_back({breakpoint.kind, at, size});
    at += size, left -= size;
  }
  return out;
}

std::optional<DebugRegisters::Slot>* DebugRegisters::find(const Slot& piece) {
  const auto found = std::ranges::find_if(slots_, [&](const std::optional<Slot>& slot) {
    return slot && slot->kind == piece.kind && slot->address == piece.address &&
           slot->size == piece.size;
  });
  return found == slots_.end() ? nullptr : &*found;
}

bool DebugRegisters::insert(const Breakpoint& breakpoint) {
  if (breakpoint.kind == BreakpointKind::kSoftware || breakpoint.kind == BreakpointKind::kRead)
    return false;
  const auto before = slots_;
  for (const Slot& piece : pieces(breakpoint)) {
    std::optional<Slot>* slot = find(piece);
    if (!slot) {
      const auto unused = std::ranges::find(slots_, false, &std::optional<Slot>::has_value);
      if (unused == slots_.end()) {
        slots_ = before;
        return false;
      }
      *unused = piece;
      slot = &*unused;
    }
    ++(*slot)->users;
  }
  return true;
}

void DebugRegisters::remove(const Breakpoint& breakpoint) {
  for (const Slot& piece : pieces(breakpoint))
    if (std::optional<Slot>* slot = find(piece); slot && --(*slot)->users == 0) slot->reset();
}

bool DebugRegisters::empty() const {
  return std::ranges::none_of(slots_, [](const auto& slot) { return slot.has_value(); });
}

bool DebugRegisters::watches_memory() const {
  return std::ranges::any_of(
      slots_, [](const auto& slot) { return slot && slot->kind != BreakpointKind::kHardware; });
}

std::optional<DebugRegisters::Met> DebugRegisters::changed(const Read& read) {
  std::optional<Met> met;
  for (auto& slot : slots_) {
    if (!slot || slot->kind == BreakpointKind::kHardware) continue;
    std::vector<std::byte> now(slot->size);
    if (read(slot->address, now) != now.size()) continue;
    if (slot->content && *slot->content != now) met = Met{slot->kind, slot->address};
    slot->content = std::move(now);
  }
  return met;
}

void DebugRegisters::take_note(const Read& read, uint64_t address, uint64_t size) {
  for (auto& slot : slots_) {
    if (!slot || slot->address >= address + size || address >= slot->address + slot->size) continue;
    slot->content.emplace(slot->size);
    if (read(slot->address, *slot->content) != slot->size) slot->content.reset();
  }
}

std::array<uint64_t, DebugRegisters::kAddresses> DebugRegisters::addresses() const {
  std::array<uint64_t, kAddresses> out{};
  for (size_t i = 0; i < slots_.size(); ++i)
    if (slots_[i]) out[i] = slots_[i]->address;
  return out;
}

uint64_t DebugRegisters::control() const {
  uint64_t out = 0;
  for (size_t i = 0; i < slots_.size(); ++i)
    if (slots_[i])
      out |= uint64_t{1} << 2 * i |
             (condition_bits(slots_[i]->kind) | length_bits(slots_[i]->size) << 2) << (16 + 4 * i);
  return out;
}

std::optional<DebugRegisters::Met> DebugRegisters::met(uint64_t status) const {
  for (size_t i = 0; i < slots_.size(); ++i)
    if (slots_[i] && status >> i & 1) return Met{slots_[i]->kind, slots_[i]->address};
  return std::nullopt;
}

}  // namespace snapgdb::gdbstub
