// Whatever bytes stand in an image, opening and reading it ends in a Snapshot or in an Error.
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/image/chunk.h"
#include "core/image/image_reader.h"

namespace {

using namespace snapgdb;

// The checksums would keep a fuzzer from getting anywhere: it writes what it likes, and they are
// put right before the image is read.
void mend_checksums(std::span<std::byte> bytes) {
  if (bytes.size() < ImageHeader::kSize) return;
  const auto id = get<uint64_t>(bytes, 16);
  put(bytes, 24, checksum(bytes.first(24)));
  for (size_t at = ImageHeader::kSize; at + ChunkHeader::kSize <= bytes.size();) {
    const auto header = bytes.subspan(at, ChunkHeader::kSize);
    const auto stored = get<uint64_t>(header, 16);
    const size_t room = bytes.size() - at - ChunkHeader::kSize;
    if (stored <= room) put(header, 32, checksum(bytes.subspan(at + ChunkHeader::kSize, stored)));
    put(header, 40, checksum(header.first(40), chunk_seed(id, at)));
    if (stored > room) return;
    at += ChunkHeader::kSize + stored;
  }
}

void read_everything(const Snapshot& snapshot) {
  std::array<std::byte, 64> buffer;
  for (const pb::Process& process : snapshot.processes()) {
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

void try_everything(const std::string& path, OpenOptions options) {
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  mend_checksums(std::as_writable_bytes(std::span(bytes)));
  const Fd file = memory_file("fuzz", bytes);
  const std::string path = fmt::format("/proc/self/fd/{}", file.get());
  try_everything(path, {});
  try_everything(path, {.salvage = true});
  return 0;
}
