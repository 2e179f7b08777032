#include "core/linux/remote_memory.h"

#include <fcntl.h>
#include <limits.h>
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

size_t RemoteMemory::read_all(std::span<const Range> ranges, std::span<std::byte> out) const {
  std::vector<iovec> remote;
  size_t done = 0;
  for (size_t first = 0; first < ranges.size(); first += IOV_MAX) {
    const auto some = ranges.subspan(first, std::min<size_t>(IOV_MAX, ranges.size() - first));
    remote.clear();
    size_t wanted = 0;
    for (const Range& range : some) {
      remote.push_back({reinterpret_cast<void*>(range.start), range.size});
      wanted += range.size;
    }
    const iovec local{out.data() + done, wanted};
    const ssize_t n = ::process_vm_readv(tid_.value, &local, 1, remote.data(), remote.size(), 0);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < static_cast<ssize_t>(wanted)) break;
  }
  return done;
}

size_t RemoteMemory::read(uint64_t address, std::span<std::byte> out, Way way) const {
  size_t done = 0;
  while (done < out.size()) {
    auto rest = out.subspan(done);
    size_t n = way == Way::kFast ? read_remote(tid_, address + done, rest) : 0;
    if (n == 0) {
      // One page only: what comes after it may be readable the fast way again.
      if (way == Way::kFast)
        rest = rest.first(std::min(rest.size(), kPage - (address + done) % kPage));
      n = read_mem(address + done, rest);
    }
    if (n == 0) break;
    done += n;
  }
  return done;
}

size_t RemoteMemory::read_mem(uint64_t address, std::span<std::byte> out) const {
  const ssize_t n = ::pread(mem_.get(), out.data(), out.size(), static_cast<off_t>(address));
  return n > 0 ? static_cast<size_t>(n) : 0;
}

// Pages of a file are in common with its page cache, but are not dirty.
RemoteMemory::Way way_to_read(bool of_file, uint64_t shared_clean, uint64_t shared_dirty) {
  const bool has_common_pages = shared_dirty || (shared_clean && !of_file);
  return has_common_pages ? RemoteMemory::Way::kGently : RemoteMemory::Way::kFast;
}

}  // namespace snapgdb
