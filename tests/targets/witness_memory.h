#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "target.h"

// Memory of every sort with known bytes in it.
namespace witness {

// A run of bytes of which one pattern is expected. Seed 0 expects zeros.
struct Region {
  const char* name;
  char* address;
  size_t size;
  uint64_t seed;
  bool readable = true;
  bool absent = false;  // no page may be there: a hole, which a capture must not fill
  bool fault = false;   // beyond the end of its file: nothing to be read at all
};

// What is shared between the processes: mapped by the root, inherited by all.
class SharedMemory {
 public:
  explicit SharedMemory(const target::ScratchDirectory& scratch);
  const std::vector<Region>& regions() const { return regions_; }

 private:
  std::vector<Region> regions_;
};

class PrivateMemory {
 public:
  // `role` numbers the process; it seeds what differs between processes.
  PrivateMemory(const target::ScratchDirectory& scratch, uint64_t role);
  const std::vector<Region>& regions() const { return regions_; }

 private:
  void map_files(const target::ScratchDirectory& scratch);
  void map_anonymous();
  void map_sparse();
  void map_with_advice();
  void allocate();

  uint64_t role_;
  std::vector<Region> regions_;
};

// One line each for the test that reads the same bytes with a debugger.
void say_regions(const std::vector<Region>& regions);
void check_regions(const std::vector<Region>& regions);

}  // namespace witness
