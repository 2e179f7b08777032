#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "tests/unit/image/sample_image.h"

namespace snapgdb::test {

// Cuts a sample image filled with 'a' off at one place after the other: what can be salvaged of it
// is right, and if nothing can be, that is said.
inline void check_salvaged_wherever_cut(const std::string& image, OpenOptions options = {}) {
  options.salvage = true;
  const TemporaryDirectory directory;
  const std::string whole = read_file(image), path = directory.file("cut");
  size_t readable = 0;
  for (size_t size = ImageHeader::kSize; size < whole.size(); size += 5) {
    write_file(path, whole.substr(0, size));
    try {
      const auto snapshot = open_snapshot(path, options);
      ++readable;
      CHECK(snapshot->root().name() == "sample");
      const std::string got = memory(*snapshot, 0x1000, 1);
      CHECK((got == "a" || got.empty()));
    } catch (const Error& error) {
      CHECK_THAT(error.what(), Catch::Matchers::Contains("no snapshot that is whole"));
    }
  }
  CHECK(readable > 10);
}

}  // namespace snapgdb::test
