#include "core/base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// Runs `transfer(pointer, length, offset)` until `size` bytes are through or it returns 0.
template <typename Pointer, typename Transfer>
size_t transfer_all(Pointer data, size_t size, std::string_view verb, std::string_view what,
                    Transfer transfer) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = transfer(data + done, size - done, done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("cannot {} {}", verb, what);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

}  // namespace

void Fd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Fd moved_up(Fd fd, int lowest) {
  Fd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, lowest));
  if (!moved.valid()) throw_errno("cannot duplicate a descriptor");
  return moved;
}

PipeEnds make_pipe(int flags) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC | flags) != 0) throw_errno("cannot make a pipe");
  return {Fd(fds[0]), Fd(fds[1])};
}

void write_all(int fd, std::span<const std::byte> data, std::string_view what) {
  transfer_all(data.data(), data.size(), "write", what,
               [&](auto* p, size_t n, size_t) { return ::write(fd, p, n); });
}

void pwrite_all(int fd, std::span<const std::byte> data, uint64_t offset, std::string_view what) {
  transfer_all(data.data(), data.size(), "write", what, [&](auto* p, size_t n, size_t done) {
    return ::pwrite(fd, p, n, static_cast<off_t>(offset + done));
  });
}

size_t read_upto(int fd, std::span<std::byte> out, std::string_view what) {
  return transfer_all(out.data(), out.size(), "read", what,
                      [&](auto* p, size_t n, size_t) { return ::read(fd, p, n); });
}

size_t pread_upto(int fd, std::span<std::byte> out, uint64_t offset, std::string_view what) {
  return transfer_all(out.data(), out.size(), "read", what, [&](auto* p, size_t n, size_t done) {
    return ::pread(fd, p, n, static_cast<off_t>(offset + done));
  });
}

Fd memory_file(const char* name, std::string_view content) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot create a file in memory for {}", name);
  write_all(fd.get(), std::as_bytes(std::span(content)), name);
  return fd;
}

std::string read_whole(int fd, std::string_view what, size_t limit) {
  std::string text;
  for (size_t block = 4096;; block *= 2) {
    const size_t old = text.size();
    text.resize(old + block);
    const size_t n = read_upto(fd, std::as_writable_bytes(std::span(text).subspan(old)), what);
    text.resize(old + n);
    if (n < block) return text;
    if (text.size() > limit)
      throw Error(fmt::format("cannot read {}", what), fmt::format("larger than {} bytes", limit));
  }
}

}  // namespace snapgdb
