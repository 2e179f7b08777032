#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/image/image_reader.h"
#include "tests/unit/image/chunk_walk.h"

// What every fuzzer of images does with one.
namespace snapgdb::fuzz {

inline void read_everything(const Snapshot& snapshot) {
  std::array<std::byte, 64> buffer;
  for (const pb::Process& process : snapshot.processes()) {
    snapshot.missing_memory(process);
    for (const pb::Vma& vma : process.mappings()) {
      for (const uint64_t address : {vma.start(), vma.end() - 1, vma.end()}) {
        snapshot.read_memory(process, address, buffer);
        snapshot.missing_reason(process, address);
      }
      snapshot.captured_bytes(process, vma.start(), vma.end());
    }
  }
  for (const pb::FileRecord& file : snapshot.files())
    if (file.embedded()) snapshot.read_file(file, 0, buffer);
}

inline void try_to_read(const std::string& path, const OpenOptions& options) {
  try {
    const auto image = Image::open(path, options);
    for (const uint64_t sequence : image->snapshots()) {
      try {
        read_everything(*image->snapshot(sequence));
      } catch (const Error&) {
        continue;
      }
    }
    image->verify();
  } catch (const Error&) {
    return;
  }
}

inline std::string path_of(const Fd& file) {
  return fmt::format("/proc/self/fd/{}", file.get());
}

inline void try_image(const std::string& bytes, const std::string& key_file = "") {
  const Fd file = memory_file("fuzz", bytes);
  for (const bool salvage : {false, true})
    try_to_read(path_of(file), {.salvage = salvage, .key_file = key_file});
}

}  // namespace snapgdb::fuzz
