#include <sys/syscall.h>

#include <algorithm>

#include <fmt/format.h>

#include "core/base/system_call_name.h"
#include "core/image/general_registers.h"
#include "core/inspect/words.h"

namespace snapgdb {
namespace {

// System calls in which a thread may wait for long, and that say by their first argument for what.
constexpr uint64_t kOfDescriptor[] = {SYS_read,
                                      SYS_write,
                                      SYS_ioctl,
                                      SYS_pread64,
                                      SYS_pwrite64,
                                      SYS_readv,
                                      SYS_writev,
                                      SYS_preadv,
                                      SYS_pwritev,
                                      SYS_preadv2,
                                      SYS_pwritev2,
                                      SYS_sendfile,
                                      SYS_splice,
                                      SYS_tee,
                                      SYS_vmsplice,
                                      SYS_copy_file_range,
                                      SYS_fsync,
                                      SYS_fdatasync,
                                      SYS_ftruncate,
                                      SYS_fallocate,
                                      SYS_flock,
                                      SYS_fcntl,
                                      SYS_getdents64,
                                      SYS_connect,
                                      SYS_accept,
                                      SYS_accept4,
                                      SYS_recvfrom,
                                      SYS_recvmsg,
                                      SYS_recvmmsg,
                                      SYS_sendto,
                                      SYS_sendmsg,
                                      SYS_sendmmsg,
                                      SYS_epoll_wait,
                                      SYS_epoll_pwait,
                                      SYS_epoll_pwait2,
                                      SYS_mq_timedsend,
                                      SYS_mq_timedreceive,
                                      SYS_io_uring_enter};
constexpr uint64_t kOfNumber[] = {SYS_wait4, SYS_semop, SYS_semtimedop, SYS_msgsnd, SYS_msgrcv};

constexpr uint64_t kCodeSegment = 0x33;  // of 64-bit code; others have other numbers of calls

}  // namespace

SystemCallInProgress system_call_of(const pb::Thread& thread) {
  const user_regs_struct r = general_registers(thread);
  if (r.cs != kCodeSegment || static_cast<int64_t>(r.orig_rax) < 0) return {};
  const std::string name = system_call_name(r.orig_rax);
  const auto number = static_cast<int32_t>(r.rdi);
  const bool is_of_descriptor = std::ranges::count(kOfDescriptor, r.orig_rax);
  if (is_of_descriptor || std::ranges::count(kOfNumber, r.orig_rax))
    return {fmt::format("{}({})", name, number),
            is_of_descriptor ? std::optional(number) : std::nullopt};
  if (r.orig_rax == SYS_futex) return {fmt::format("{}({:#x})", name, r.rdi)};
  return {name};
}

}  // namespace snapgdb
