#include "core/linux/remote_memory.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

void write_remote(Tid tid, uint64_t address, std::span<const std::byte> bytes) {
  const iovec local{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const iovec remote{reinterpret_cast<void*>(address), bytes.size()};
  if (::process_vm_writev(tid.value, &local, 1, &remote, 1, 0) !=
      static_cast<ssize_t>(bytes.size()))
    throw_errno("cannot write memory of {}", tid.value);
}

RemoteMemory::RemoteMemory(Tid tid, const ProcDirectory& proc)
    : tid_(tid), mem_(proc.open("mem", O_RDONLY)) {
  if (!mem_.valid()) throw_errno("cannot open {}/mem", proc.path());
}

size_t read_remote(Tid tid, uint64_t address, std::span<std::byte> out) {
  const iovec local{out.data(), out.size()};
  const iovec remote{reinterpret_cast<void*>(address), out.size()};
  const ssize_t n = ::process_vm_readv(tid.value, &local, 1, &remote, 1, 0);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

size_t RemoteMemory::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const auto rest = out.subspan(done);
    auto n = static_cast<ssize_t>(read_remote(tid_, address + done, rest));
    if (n == 0) {
      // One page only: what comes after it may be readable the fast way again.
      const size_t rest_of_page = kPage - (address + done) % kPage;
      n = ::pread(mem_.get(), rest.data(), std::min(rest.size(), rest_of_page),
                  static_cast<off_t>(address + done));
    }
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

}  // namespace snapgdb
