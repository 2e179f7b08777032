#include "core/image/compressor.h"

#include <zstd.h>
#include <zstd_errors.h>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// Neighbours that resemble each other show in a sample of two pages.
constexpr size_t kSamples = 8, kSampleSize = 8192;

// What it takes to count as a success: a reader has to undo it.
bool is_little(size_t compressed, size_t size) {
  return compressed > size - size / 32;
}

}  // namespace

Compressor::Compressor(int level) : level_(level), context_(::ZSTD_createCCtx(), ::ZSTD_freeCCtx) {}

std::optional<size_t> Compressor::compress(std::span<const std::byte> in,
                                           std::span<std::byte> out) {
  if (in_vain_ && !is_sample_smaller(in, out)) return std::nullopt;
  const auto size = try_to(in, out);
  in_vain_ = !size || is_little(*size, in.size());
  return size;
}

std::optional<size_t> Compressor::try_to(std::span<const std::byte> in, std::span<std::byte> out) {
  const size_t n = ::ZSTD_compressCCtx(context_.get(), out.data(), std::min(out.size(), in.size()),
                                       in.data(), in.size(), level_);
  if (!ZSTD_isError(n)) return n < in.size() ? std::optional(n) : std::nullopt;
  if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall) return std::nullopt;
  throw Error("cannot compress a chunk", ZSTD_getErrorName(n));
}

// What is hardly larger than a sample is compressed whole.
bool Compressor::is_sample_smaller(std::span<const std::byte> in, std::span<std::byte> out) {
  if (in.size() < 4 * kSamples * kSampleSize) return true;
  sample_.clear();
  for (size_t i = 0; i < kSamples; ++i) {
    const auto piece = in.subspan(in.size() / kSamples * i, kSampleSize);
    sample_.insert(sample_.end(), piece.begin(), piece.end());
  }
  const auto size = try_to(sample_, out);
  return size && !is_little(*size, sample_.size());
}

}  // namespace snapgdb
