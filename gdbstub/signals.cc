#include "gdbstub/signals.h"

#include <array>
#include <cstddef>

namespace snapgdb::gdbstub {
namespace {

constexpr int kUnknown = 143;

// Indexed by Linux's number on x86-64; from 32 on the numbers are real-time signals.
constexpr std::array<int, 32> kTable = {
    0,         // none
    1,         // HUP
    2,         // INT
    3,         // QUIT
    4,         // ILL
    5,         // TRAP
    6,         // ABRT
    10,        // BUS
    8,         // FPE
    9,         // KILL
    30,        // USR1
    11,        // SEGV
    31,        // USR2
    13,        // PIPE
    14,        // ALRM
    15,        // TERM
    kUnknown,  // STKFLT
    20,        // CHLD
    19,        // CONT
    17,        // STOP
    18,        // TSTP
    21,        // TTIN
    22,        // TTOU
    16,        // URG
    24,        // XCPU
    25,        // XFSZ
    26,        // VTALRM
    27,        // PROF
    28,        // WINCH
    23,        // IO
    32,        // PWR
    12,        // SYS
};

// 33…63 stand in one block; 32 and 64 came later.
constexpr int kRealtime32 = 77, kRealtime33 = 45, kRealtime64 = 78;

}  // namespace

int gdb_signal(int linux_signal) {
  if (linux_signal >= 0 && linux_signal < 32) return kTable[static_cast<size_t>(linux_signal)];
  if (linux_signal == 32) return kRealtime32;
  if (linux_signal >= 33 && linux_signal <= 63) return kRealtime33 + (linux_signal - 33);
  return linux_signal == 64 ? kRealtime64 : kUnknown;
}

std::optional<int> linux_signal(int wanted) {
  constexpr int kHighest = 64;
  if (wanted == kUnknown) return std::nullopt;
  for (int number = 0; number <= kHighest; ++number)
    if (gdb_signal(number) == wanted) return number;
  return std::nullopt;
}

}  // namespace snapgdb::gdbstub
