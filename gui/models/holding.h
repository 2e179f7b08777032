#pragma once

#include <QString>

#include <cstdint>
#include <string>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb::gui {

// What an image holds of one mapping, in bytes.
struct Holding {
  struct Lack {
    std::string reason;
    uint64_t start = 0;  // of the first byte that is missing for this reason
    uint64_t bytes = 0;
    bool withheld = false;  // the kernel or the program keeps it from everybody: nothing is lost
  };

  uint64_t stored = 0;
  uint64_t zero = 0;
  uint64_t in_file = 0;  // in a file that the image carries
  uint64_t beyond_end =
      0;  // behind the end of the file mapped: the program could not read it either
  std::vector<Lack> lacks;  // one a reason; those beyond kMostReasons are in the last one

  // What can be read.
  uint64_t held() const { return stored + zero + in_file; }
  uint64_t content() const { return stored + in_file; }  // without what is merely known to be zero
  uint64_t missing() const;
  uint64_t withheld() const;
};

Holding holding(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma);

// "stored 3.2 MiB, zero 1 MiB, missing 4 KiB"
QString holding_text(const Holding& holding);
// The missing parts with their reasons, a line each; "" if nothing is missing.
QString lacks_text(const Holding& holding);

}  // namespace snapgdb::gui
