#include "elfconv/core_content.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/fd.h"

namespace snapgdb {
namespace {

constexpr uint64_t kBlock = uint64_t{4} << 20;  // of which each thread has a buffer
constexpr size_t kMaxThreads = 4;               // more would only wait for the disk

struct Block {
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t offset = 0;  // in the file
};

void add_blocks(const LoadSegment& segment, uint64_t start, uint64_t end,
                std::vector<Block>& blocks) {
  for (uint64_t at = start; at < end; at += kBlock)
    blocks.push_back({at, std::min(kBlock, end - at), segment.offset + (at - segment.address)});
}

// What is not zeros. Neighbouring runs go together, wherever their pages come from.
std::vector<Block> blocks_of(std::span<const LoadSegment> segments, const Extents& extents) {
  std::vector<Block> blocks;
  for (const LoadSegment& segment : segments) {
    if (segment.zeros) continue;
    uint64_t start = segment.address, end = segment.address;
    for (const Extent& extent : extents.overlapping(segment.address, segment.end())) {
      if (extent.source == pb::SOURCE_ZERO) continue;
      if (extent.start > end) {
        add_blocks(segment, start, end, blocks);
        start = extent.start;
      }
      end = std::max(end, std::min(extent.end(), segment.end()));
    }
    add_blocks(segment, start, end, blocks);
  }
  return blocks;
}

class Copy {
 public:
  Copy(const Snapshot& snapshot, const pb::Process& process, std::span<const Block> blocks, int fd,
       const std::string& path, const CopyProgress& progress)
      : snapshot_(snapshot),
        process_(process),
        blocks_(blocks),
        fd_(fd),
        path_(path),
        progress_(progress) {
    for (const Block& block : blocks) total_ += block.size;
  }

  void run() {
    const size_t threads = std::min<size_t>(
        {blocks_.size(), std::max(1u, std::thread::hardware_concurrency()), kMaxThreads});
    {
      std::vector<std::jthread> others;
      for (size_t i = 1; i < threads; ++i) others.emplace_back([this] { work(); });
      work();
    }
    if (failure_) std::rethrow_exception(failure_);
  }

  uint64_t total() const { return total_; }

 private:
  void work() {
    try {
      std::vector<std::byte> buffer;
      for (size_t i = next_++; i < blocks_.size(); i = next_++) {
        buffer.resize(std::max<size_t>(buffer.size(), blocks_[i].size));
        copy(blocks_[i], buffer);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_ = blocks_.size();  // the others stop, too
    }
  }

  void copy(const Block& block, std::vector<std::byte>& buffer) {
    const auto bytes = std::span(buffer).first(block.size);
    const size_t n = snapshot_.read_memory(process_, block.address, bytes);
    if (n < block.size)
      throw Error(fmt::format("cannot read the memory of process {} at {:#x}", process_.pid(),
                              block.address + n),
                  snapshot_.missing_reason(process_, block.address + n));
    pwrite_all(fd_, bytes, block.offset, path_);
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    done_ += block.size;
    progress_(done_, total_);
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
  std::span<const Block> blocks_;
  int fd_;
  const std::string& path_;
  const CopyProgress& progress_;
  uint64_t total_ = 0;
  std::atomic<size_t> next_ = 0;
  std::mutex mutex_;
  uint64_t done_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

uint64_t copy_content(const Snapshot& snapshot, const pb::Process& process,
                      std::span<const LoadSegment> segments, int fd, const std::string& path,
                      const CopyProgress& progress) {
  const std::vector<Block> blocks = blocks_of(segments, snapshot.extents(process));
  Copy copy(snapshot, process, blocks, fd, path, progress);
  copy.run();
  return copy.total();
}

}  // namespace snapgdb
