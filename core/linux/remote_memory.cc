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

RemoteMemory::RemoteMemory(Tid tid, const ProcDirectory& proc)
    : tid_(tid), mem_(proc.open("mem", O_RDONLY)) {
  if (!mem_.valid()) throw_errno("cannot open {}/mem", proc.path());
}

size_t RemoteMemory::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const iovec local{out.data() + done, out.size() - done};
    const iovec remote{reinterpret_cast<void*>(address + done), local.iov_len};
    ssize_t n = ::process_vm_readv(tid_.value, &local, 1, &remote, 1, 0);
    if (n <= 0) {
      // One page only: what comes after it may be readable the fast way again.
      const size_t rest_of_page = kPage - (address + done) % kPage;
      n = ::pread(mem_.get(), local.iov_base, std::min(local.iov_len, rest_of_page),
                  static_cast<off_t>(address + done));
    }
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

}  // namespace snapgdb
