#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/seed.h"

namespace snapgdb {

// Shows so many pages from the `first` on, piece by piece. Throws Error where they cannot be had.
using PageSource = std::function<void(
    uint64_t first, uint64_t count, const std::function<void(std::span<const std::byte>)>& visit)>;

inline constexpr std::string_view kUserfaultDevice = "/dev/userfaultfd";

// An address space that runs before its pages are there: the kernel tells, through a userfaultfd,
// which of them it waits for, and what becomes of the mappings meanwhile. Once the last
// descriptor is closed what is absent reads as zeros: not before all is there, or nobody is left.
class LazySpace {
 public:
  // That of a seed. Throws SystemError where the kernel does not let us.
  explicit LazySpace(Seed& seed);

  // A whole mapping, since watching a part would split it. What is not absent reads as zeros.
  void watch(uint64_t start, uint64_t size);
  // Pages of the source from the `first` on belong at `start`.
  void add_absent(uint64_t start, uint64_t size, uint64_t first);

  int descriptor() const { return userfault_.get(); }
  // All is there, or there is nobody to have it any more.
  bool done() const { return gone_ || (absent_.empty() && faults_.empty()); }
  // Does as the kernel has told; appends the spaces of forked children. Throws Error.
  void answer(const PageSource& source, std::vector<LazySpace>& born);
  // Brings a few pages that nobody waits for yet. False: the kernel has something to tell first.
  bool bring_some(const PageSource& source);

 private:
  struct Run {
    uint64_t size = 0, first = 0;
  };
  using Runs = std::map<uint64_t, Run>;  // by address, none overlapping

  LazySpace(Fd userfault, Runs absent)
      : userfault_(std::move(userfault)), absent_(std::move(absent)) {}
  Runs cut(uint64_t start, uint64_t end);
  Runs::iterator split(uint64_t at);
  void move(uint64_t from, uint64_t to, uint64_t size);
  Runs::const_iterator run_with(uint64_t address) const;
  bool bring(const PageSource& source, uint64_t start, uint64_t end);
  bool put(uint64_t& at, std::span<const std::byte> pages);
  bool serve(const PageSource& source, uint64_t address);
  bool put_zeros(uint64_t address);
  void wake(uint64_t address) const;

  Fd userfault_;
  Runs absent_;
  std::vector<uint64_t> faults_;  // not yet served
  uint64_t next_ = 0;             // where to go on with what nobody waits for
  bool gone_ = false;
};

}  // namespace snapgdb
