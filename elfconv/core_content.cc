#include "elfconv/core_content.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/fd.h"

namespace snapgdb {
namespace {

constexpr uint64_t kBlock = uint64_t{4} << 20;  // of which each thread has a buffer
constexpr size_t kMaxThreads = 4;               // more would only wait for the disk

// A range of memory and where it goes in the file.
struct Piece {
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};

// What is not zeros. Neighbouring runs go together, wherever their pages come from.
std::vector<Piece> pieces_of(std::span<const LoadSegment> segments, const Snapshot& snapshot,
                             const pb::Process& process) {
  std::vector<Piece> pieces;
  for (const LoadSegment& segment : segments) {
    if (segment.zeros) continue;
    uint64_t end = 0;  // of the last piece of this segment
    snapshot.visit_memory(process, segment.address, segment.end(), [&](const ContentRun& run) {
      if (run.kind == ContentRun::Kind::kZeros) return;
      if (run.start > end || end == 0)
        pieces.push_back({run.start, 0, segment.offset + (run.start - segment.address)});
      end = run.end;
      pieces.back().size = end - pieces.back().address;
    });
  }
  return pieces;
}

class Copy {
 public:
  Copy(const Snapshot& snapshot, const pb::Process& process, std::vector<Piece> pieces, int fd,
       const std::string& path, Progress* progress)
      : snapshot_(snapshot),
        process_(process),
        fd_(fd),
        path_(path),
        progress_(progress),
        pieces_(std::move(pieces)) {
    for (const Piece& piece : pieces_) total_ += piece.size;
    count_expected(progress_, total_);
  }

  void run() {
    const uint64_t blocks = total_ / kBlock + 1;
    const size_t threads = std::min<uint64_t>(
        {blocks, std::max(1u, std::thread::hardware_concurrency()), kMaxThreads});
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
      while (const std::optional<Piece> block = next_block()) {
        buffer.resize(std::max<size_t>(buffer.size(), block->size));
        copy(*block, std::span(buffer).first(block->size));
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // Cut off the pieces one by one: an image may claim more of them than fit into memory.
  std::optional<Piece> next_block() {
    const std::lock_guard lock(mutex_);
    if (failure_ || next_ == pieces_.size()) return std::nullopt;
    Piece& rest = pieces_[next_];
    const Piece block{rest.address, std::min(kBlock, rest.size), rest.offset};
    rest.address += block.size;
    rest.offset += block.size;
    rest.size -= block.size;
    if (rest.size == 0) ++next_;
    return block;
  }

  void copy(const Piece& block, std::span<std::byte> buffer) {
    read(block.address, buffer);
    pwrite_all(fd_, buffer, block.offset, path_);
    count_done(progress_, block.size);
  }

  void read(uint64_t address, std::span<std::byte> out) const {
    const auto fail = [&](const std::string& why) {
      throw Error(fmt::format("cannot read the memory of process {}", process_.pid()), why,
                  "--salvage leaves out what is lost");
    };
    size_t n = 0;
    try {
      n = snapshot_.read_memory(process_, address, out);
    } catch (const Error& error) {
      fail(error.why());
    }
    if (n < out.size()) fail(snapshot_.missing_reason(process_, address + n));
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
  int fd_;
  const std::string& path_;
  Progress* progress_;
  uint64_t total_ = 0;
  std::mutex mutex_;  // guards the rest
  std::vector<Piece> pieces_;
  size_t next_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

uint64_t copy_content(const Snapshot& snapshot, const pb::Process& process,
                      std::span<const LoadSegment> segments, int fd, const std::string& path,
                      Progress* progress) {
  Copy copy(snapshot, process, pieces_of(segments, snapshot, process), fd, path, progress);
  copy.run();
  return copy.total();
}

}  // namespace snapgdb
