#include "core/linux/host.h"

#include <cpuid.h>
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/base/fd.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

constexpr unsigned kXstateLeaf = 0xd;
constexpr unsigned kFirstExtendedComponent = 2;  // 0 and 1, x87 and SSE, are the legacy area

// XCR0: which components the kernel enabled. Intel SDM vol. 1, 13.3.
uint64_t read_xcr0() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

std::vector<XstateRange> xstate_ranges(uint64_t xcr0) {
  std::vector<XstateRange> ranges;
  for (unsigned number = kFirstExtendedComponent; number < 63; ++number) {
    unsigned size = 0, offset = 0, ecx = 0, edx = 0;
    if (xcr0 >> number & 1 && __get_cpuid_count(kXstateLeaf, number, &size, &offset, &ecx, &edx))
      ranges.push_back({number, offset, size});
  }
  return ranges;
}

}  // namespace

HostDescription describe_host() {
  HostDescription host;
  utsname names{};
  ::uname(&names);
  host.node_name = names.nodename;
  host.os_release = names.release;
  host.os_version = names.version;
  host.machine = names.machine;
  host.page_size = static_cast<uint32_t>(::sysconf(_SC_PAGESIZE));
  host.clock_ticks_per_second = static_cast<uint32_t>(::sysconf(_SC_CLK_TCK));
  host.processors = static_cast<uint32_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  const Fd fd(::open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC));
  const ProcFields cpu(fd.valid() ? read_whole(fd.get(), "/proc/cpuinfo") : "");
  host.cpu_vendor = cpu.text("vendor_id");
  host.cpu_model = cpu.text("model name");
  host.cpu_features = cpu.text("flags");
  host.xcr0 = read_xcr0();
  host.xstate = xstate_ranges(host.xcr0);
  return host;
}

}  // namespace snapgdb
