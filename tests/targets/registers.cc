#include "registers.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "target.h"

extern "C" {
[[gnu::visibility("hidden")]] volatile int hold_end = 0;
[[gnu::visibility("hidden")]] volatile int hold_pauses = 0;  // how often pause(2) returned
[[gnu::visibility("hidden")]] void hold_registers_spinning(const target::RegisterValues* in,
                                                           target::RegisterValues* out, int level);
[[gnu::visibility("hidden")]] void hold_registers_in_pause(const target::RegisterValues* in,
                                                           target::RegisterValues* out, int level);
[[gnu::visibility("hidden")]] void hold_registers_counting(const target::RegisterValues* in,
                                                           target::RegisterValues* out, int level);
}

namespace target {
namespace {

constexpr int kVectorSizes[] = {16, 32, 64};
constexpr int kVectorCounts[] = {16, 16, 32};
constexpr uint64_t kMxcsr = 0x7f80;       // every exception masked, rounding toward zero
constexpr uint64_t kX87Control = 0x0f7f;  // the same, 64 bits of precision

// rax, rcx and r11 belong to the system call.
bool kept_by_system_call(int general) {
  return general != 0 && general != 2 && general != 10;
}

void compare(const RegisterValues& seen, const RegisterValues& expected, bool in_system_call) {
  static constexpr const char* names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                          "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (int i = 0; i < 15; ++i) {
    if (in_system_call && !kept_by_system_call(i)) continue;
    expect_equal(names[i], seen.general[i], expected.general[i]);
  }
  const VectorLevel level = vector_level();
  for (int i = 0; i < kVectorCounts[level]; ++i) {
    if (memcmp(&seen.vector[i], &expected.vector[i], kVectorSizes[level])) {
      differs("vector register %d has changed", i);
    }
  }
  for (int i = 0; i < 8; ++i) {
    if (level == kAvx512) expect_equal("a mask register", seen.mask[i], expected.mask[i]);
    if (memcmp(&seen.x87[i], &expected.x87[i], 10)) differs("st(%d) has changed", i);
  }
  expect_equal("mxcsr", seen.mxcsr, expected.mxcsr);
  expect_equal("the x87 control word", seen.x87_control, expected.x87_control);
}

}  // namespace

VectorLevel vector_level() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return kAvx512;
  return __builtin_cpu_supports("avx2") ? kAvx : kSse;
}

RegisterValues known_registers(uint64_t seed) {
  RegisterValues values{};
  uint8_t* bytes = values.vector[0].data();
  for (size_t i = 0; i < sizeof values.vector; ++i) bytes[i] = mix(seed + i);
  for (int i = 0; i < 8; ++i) values.mask[i] = mix(seed ^ (0x100 + i));
  for (int i = 0; i < 8; ++i) {
    const long double number = (i - 3.5L) * 1e300L + seed;
    memcpy(values.x87[i].data(), &number, 10);
  }
  for (int i = 0; i < 15; ++i) values.general[i] = mix(seed ^ (0x200 + i));
  values.general[13] = 0;  // r14 and r15: the extremes
  values.general[14] = ~uint64_t{0};
  values.mxcsr = kMxcsr;
  values.x87_control = kX87Control;
  return values;
}

void hold_spinning(uint64_t seed) {
  const RegisterValues expected = known_registers(seed);
  RegisterValues seen{};
  hold_registers_spinning(&expected, &seen, vector_level());
  compare(seen, expected, false);
}

void hold_in_pause(uint64_t seed) {
  const RegisterValues expected = known_registers(seed);
  RegisterValues seen{};
  hold_registers_in_pause(&expected, &seen, vector_level());
  compare(seen, expected, true);
}

void hold_counting(uint64_t seed, uint64_t rounds) {
  RegisterValues expected = known_registers(seed);
  uint64_t& rcx = expected.general[2];
  rcx = rounds;
  RegisterValues seen{};
  hold_registers_counting(&expected, &seen, vector_level());
  rcx = 0;
  compare(seen, expected, false);
  expect_equal("the flags", seen.flags & RegisterValues::kHeldFlags, RegisterValues::kHeldFlags);
}

void end_holding() {
  if (hold_pauses) differs("pause returned %d times before the end", hold_pauses);
  hold_end = 1;
}

// ---- AMX ------------------------------------------------------------------------------------
namespace {

// LDTILECFG's operand (Intel SDM volume 1, table 18-1): palette, rows and bytes a row of each tile.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

using Tile = std::array<uint8_t, 1024>;

Tile known_tile(uint64_t seed) {
  Tile tile;
  for (size_t i = 0; i < tile.size(); ++i) tile[i] = mix(seed * 4096 + i);
  return tile;
}

template <int number>
void load_tile(uint64_t seed) {
  const Tile tile = known_tile(seed + number);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(tile.data()), "r"(64L), "i"(number)
               : "memory");
}

template <int number>
void check_tile(uint64_t seed) {
  Tile tile;
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(tile.data()), "r"(64L), "i"(number)
               : "memory");
  if (tile != known_tile(seed + number)) differs("tile register %d has changed", number);
}

}  // namespace

namespace {
bool amx_is_forbidden = false;
}

void forbid_amx() {
  amx_is_forbidden = true;
}

bool request_amx() {
  if (amx_is_forbidden) return false;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 24))) return false;
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, <asm/prctl.h>
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void load_tiles(uint64_t seed) {
  const TileConfig config;
  asm volatile("ldtilecfg %0" ::"m"(config));
  load_tile<0>(seed);
  load_tile<3>(seed);
  load_tile<7>(seed);
}

void check_tiles(uint64_t seed) {
  check_tile<0>(seed);
  check_tile<3>(seed);
  check_tile<7>(seed);
  asm volatile("tilerelease");
}

}  // namespace target
