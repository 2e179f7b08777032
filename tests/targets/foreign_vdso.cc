// Has the vDSO of another kernel, as far as that can be had on a machine with one kernel: the build
// ID of its vDSO is changed. Afterwards the vDSO's functions must tell the time still.

#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "target.h"

namespace {

// Through /proc/self/mem, which makes a copy of the page that is the program's own.
void change_build_id() {
  const uint64_t base = getauxval(AT_SYSINFO_EHDR);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(base);
  const auto* segments = reinterpret_cast<const ElfW(Phdr)*>(base + header->e_phoff);
  const int memory = target::setup("open", open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type != PT_NOTE) continue;
    const uint64_t last = base + segments[i].p_vaddr + segments[i].p_memsz - 1;
    const char other = static_cast<char>(~*reinterpret_cast<const char*>(last));
    target::setup("pwrite", pwrite(memory, &other, 1, static_cast<off_t>(last)));
  }
  close(memory);
}

uint64_t ns(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Between what the kernel says before and after.
void check_clock(clockid_t clock) {
  timespec before{}, now{}, after{};
  syscall(SYS_clock_gettime, clock, &before);
  target::expect_call("clock_gettime", clock_gettime(clock, &now));
  syscall(SYS_clock_gettime, clock, &after);
  if (ns(now) < ns(before) || ns(now) > ns(after))
    target::differs("clock %d shows %lu, not between %lu and %lu", clock, ns(now), ns(before),
                    ns(after));
}

void check_others() {
  timeval of_day{};
  timespec real{}, resolution{};
  unsigned cpu = ~0u, node = ~0u;
  target::expect_call("gettimeofday", gettimeofday(&of_day, nullptr));
  const time_t seconds = time(nullptr);
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
  if (real.tv_sec - of_day.tv_sec > 1) target::differs("gettimeofday shows %ld", of_day.tv_sec);
  if (real.tv_sec - seconds > 1) target::differs("time shows %ld", seconds);
  target::expect_call("clock_getres", clock_getres(CLOCK_MONOTONIC, &resolution));
  if (ns(resolution) == 0) target::differs("clock_getres gives 0");
  target::expect_call("getcpu", getcpu(&cpu, &node));
  if (cpu > 100'000) target::differs("getcpu gives %u", cpu);
}

}  // namespace

int main() {
  target::prepare_end();
  change_build_id();
  target::ready();
  target::wait_for_end();
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI,
                                CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE})
    check_clock(clock);
  check_others();
  return target::verdict();
}
