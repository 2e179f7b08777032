#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb {

// One PT_LOAD of a core: a range of addresses and where the file holds it.
struct LoadSegment {
  uint64_t address = 0;
  uint64_t size = 0;
  uint32_t flags = 0;   // PF_R | PF_W | PF_X
  bool zeros = false;   // nothing but zeros: lies in the hole that all such segments share
  uint64_t offset = 0;  // in the file; given by place_segments

  uint64_t end() const { return address + size; }
};

// Memory that the process has mapped and the core has not.
struct MissingMemory {
  uint64_t address = 0;
  uint64_t size = 0;
  std::string mapping;  // name of the mapping, "" for an anonymous one
  std::string reason;
  // The bytes are those of the mapped file, so a debugger that finds the file may read them there.
  bool in_file = false;
  // Something is lost; if not, program or kernel keep it from everybody, and from cores too.
  bool lost = true;

  uint64_t end() const { return address + size; }
};

// The memory of a process, divided into what a core can hold and what it cannot. Both ascend.
struct CoreMemory {
  std::vector<LoadSegment> segments;
  std::vector<MissingMemory> missing;
};

// With `probe`, every page is read once to find those that a damaged image has lost; without it, a
// damaged page surfaces as an Error when the core is written.
CoreMemory divide_memory(const Snapshot& snapshot, const pb::Process& process, bool probe = false);

// Gives every segment its offset, from `offset` on; returns where the file ends.
uint64_t place_segments(std::span<LoadSegment> segments, uint64_t offset);

}  // namespace snapgdb
