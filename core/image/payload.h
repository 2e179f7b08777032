#pragma once

#include <span>
#include <string_view>

#include "core/base/fd.h"
#include "core/image/chunk.h"

namespace snapgdb {

// Bytes of a chunk: our own, or those of the file itself, which is mapped for that. What is mapped
// costs no copy, and the kernel may take its memory back at any time.
class Payload {
 public:
  explicit Payload(Bytes own) : own_(std::move(own)) {}
  // Throws Error where the file cannot be read, or has been cut off meanwhile.
  Payload(const Fd& file, uint64_t offset, size_t size, std::string_view what);
  ~Payload();
  Payload(const Payload&) = delete;
  Payload& operator=(const Payload&) = delete;

  std::span<const std::byte> bytes() const { return map_ ? mapped_ : std::span(own_); }

 private:
  Bytes own_;
  void* map_ = nullptr;
  size_t map_size_ = 0;
  std::span<const std::byte> mapped_ = {};
};

}  // namespace snapgdb
