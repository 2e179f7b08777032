#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace snapgdb {

// An owned descriptor. No implicit conversion: get() says that a borrowed int leaves its owner.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

struct PipeEnds {
  Fd read, write;
};
PipeEnds make_pipe(int flags = 0);  // of pipe2(2), besides O_CLOEXEC. Throws SystemError

// The same file under a number from `lowest` on. Throws SystemError.
Fd moved_up(Fd fd, int lowest);

// All of them retry EINTR and short transfers, and throw SystemError naming `what`.
void write_all(int fd, std::span<const std::byte> data, std::string_view what);
void pwrite_all(int fd, std::span<const std::byte> data, uint64_t offset, std::string_view what);
// Returns how much was read: less than asked only at the end of the file.
size_t read_upto(int fd, std::span<std::byte> out, std::string_view what);
size_t pread_upto(int fd, std::span<std::byte> out, uint64_t offset, std::string_view what);

// An anonymous file in memory holding `content`, for libraries that insist on a descriptor.
Fd memory_file(const char* name, std::string_view content);

// The whole of a file whose size is not known beforehand (/proc). `limit` guards memory.
std::string read_whole(int fd, std::string_view what, size_t limit = size_t{1} << 30);

}  // namespace snapgdb
