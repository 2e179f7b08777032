// Whatever bytes stand in an image, opening and reading it ends in a Snapshot or in an Error.
#include "tests/fuzz/try_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace snapgdb;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  test::mend_checksums(std::as_writable_bytes(std::span(bytes)));
  fuzz::try_image(bytes);
  return 0;
}
