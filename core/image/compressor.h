#pragma once

#include <memory>
#include <optional>
#include <span>

#include "core/image/chunk.h"

struct ZSTD_CCtx_s;

namespace snapgdb {

// zstd, for one thread. Memory that holds what is compressed or encrypted already goes by in large
// pieces: after one that was compressed in vain, a sample of the next is tried first. That takes a
// sixteenth of the time, and loses what only the whole would have yielded.
class Compressor {
 public:
  explicit Compressor(int level);  // of ZSTD_compressCCtx()

  // Compresses into `out`, which has the size of `in` at least; returns how many bytes it took.
  // nullopt: it would not get smaller, and is best left as it is. Throws Error.
  std::optional<size_t> compress(std::span<const std::byte> in, std::span<std::byte> out);

 private:
  std::optional<size_t> try_to(std::span<const std::byte> in, std::span<std::byte> out);
  bool is_sample_smaller(std::span<const std::byte> in, std::span<std::byte> out);

  int level_;
  std::unique_ptr<ZSTD_CCtx_s, size_t (*)(ZSTD_CCtx_s*)> context_;
  bool in_vain_ = false;  // the last time
  Bytes sample_;
};

}  // namespace snapgdb
