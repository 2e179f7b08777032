#include "gdbstub/registers.h"

#include <sys/user.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

namespace snapgdb::gdbstub {
namespace {

using Area = RegisterPlace::Area;

// XSAVE area, Intel SDM volume 1, chapter 13. The first 512 bytes are those of FXSAVE.
constexpr size_t kLegacySize = 512;
constexpr size_t kXcr0Offset = 464;  // among the bytes left to software; arch/x86/include/uapi
constexpr size_t kXstateBvOffset = 512;
constexpr size_t kHeaderEnd = 576;
constexpr size_t kLargestOffset = size_t{1} << 16;

enum Component : uint32_t {
  kX87 = 0,
  kSse = 1,
  kAvx = 2,
  kOpmask = 5,
  kZmmHigh = 6,
  kHighZmm = 7,
  kPkru = 9
};

constexpr size_t kTagOffset = 4, kStOffset = 32, kXmmOffset = 160, kXmmEnd = 416;
constexpr uint16_t kInitialFctrl = 0x37f;

// A component of Intel's processors, and how much of it we read.
struct DefaultComponent {
  uint32_t number, offset, size;
};
constexpr DefaultComponent kDefaults[] = {{kAvx, 576, 256},
                                          {kOpmask, 1088, 64},
                                          {kZmmHigh, 1152, 512},
                                          {kHighZmm, 1664, 1024},
                                          {kPkru, 2688, 4}};

// Registers that follow each other at equal distances: NAMEfirstSUFFIX … A count of 0 is a single
// register without a number.
struct Run {
  const char* name;
  uint32_t first, count;
  const char* suffix;
  uint32_t bits;
  std::string_view type, group;
  Area area;
  uint32_t component;
  uint32_t offset;  // in the area; for a component behind the legacy ones, in the component
  uint32_t stride, width;
};

#define GENERAL(name, field, bits, type)                                                     \
  {                                                                                          \
    name, 0, 0, "", bits, type, "", Area::kGeneral, 0, offsetof(user_regs_struct, field), 0, \
        (bits) / 8                                                                           \
  }
#define FLOAT(name, offset, width) \
  { name, 0, 0, "", 32, "int", "float", Area::kXstate, kX87, offset, 0, width }
#define VECTOR(name, first, suffix, bits, type, component, offset, stride) \
  { name, first, 16, suffix, bits, type, "", Area::kXstate, component, offset, stride, (bits) / 8 }

constexpr Run kCore[] = {
    GENERAL("rax", rax, 64, "int64"),
    GENERAL("rbx", rbx, 64, "int64"),
    GENERAL("rcx", rcx, 64, "int64"),
    GENERAL("rdx", rdx, 64, "int64"),
    GENERAL("rsi", rsi, 64, "int64"),
    GENERAL("rdi", rdi, 64, "int64"),
    GENERAL("rbp", rbp, 64, "data_ptr"),
    GENERAL("rsp", rsp, 64, "data_ptr"),
    GENERAL("r8", r8, 64, "int64"),
    GENERAL("r9", r9, 64, "int64"),
    GENERAL("r10", r10, 64, "int64"),
    GENERAL("r11", r11, 64, "int64"),
    GENERAL("r12", r12, 64, "int64"),
    GENERAL("r13", r13, 64, "int64"),
    GENERAL("r14", r14, 64, "int64"),
    GENERAL("r15", r15, 64, "int64"),
    GENERAL("rip", rip, 64, "code_ptr"),
    GENERAL("eflags", eflags, 32, "i386_eflags"),
    GENERAL("cs", cs, 32, "int32"),
    GENERAL("ss", ss, 32, "int32"),
    GENERAL("ds", ds, 32, "int32"),
    GENERAL("es", es, 32, "int32"),
    GENERAL("fs", fs, 32, "int32"),
    GENERAL("gs", gs, 32, "int32"),
    {"st", 0, 8, "", 80, "i387_ext", "", Area::kXstate, kX87, kStOffset, 16, 10},
    FLOAT("fctrl", 0, 2),
    FLOAT("fstat", 2, 2),
    {"ftag", 0, 0, "", 32, "int", "float", Area::kTagWord, kX87, kTagOffset, 0, 1},
    FLOAT("fiseg", 12, 2),
    FLOAT("fioff", 8, 4),
    FLOAT("foseg", 20, 2),
    FLOAT("fooff", 16, 4),
    FLOAT("fop", 6, 2),
};

// The kernel fills MXCSR in whatever XSTATE_BV says (arch/x86/kernel/fpu/xstate.c).
constexpr Run kSseRuns[] = {
    VECTOR("xmm", 0, "", 128, "vec128", kSse, kXmmOffset, 16),
    {"mxcsr", 0, 0, "", 32, "i386_mxcsr", "vector", Area::kXstate, RegisterPlace::kAlwaysHeld, 24,
     0, 4},
};

constexpr Run kLinux[] = {GENERAL("orig_rax", orig_rax, 64, "int")};
constexpr Run kSegments[] = {GENERAL("fs_base", fs_base, 64, "int"),
                             GENERAL("gs_base", gs_base, 64, "int")};
constexpr Run kAvxRuns[] = {VECTOR("ymm", 0, "h", 128, "uint128", kAvx, 0, 16)};
constexpr Run kAvx512[] = {
    VECTOR("xmm", 16, "", 128, "vec128", kHighZmm, 0, 64),
    VECTOR("ymm", 16, "h", 128, "uint128", kHighZmm, 16, 64),
    {"k", 0, 8, "", 64, "uint64", "", Area::kXstate, kOpmask, 0, 8, 8},
    VECTOR("zmm", 0, "h", 256, "v2ui128", kZmmHigh, 0, 32),
    VECTOR("zmm", 16, "h", 256, "v2ui128", kHighZmm, 32, 64),
};
constexpr Run kPkeys[] = {{"pkru", 0, 0, "", 32, "int32", "", Area::kXstate, kPkru, 0, 0, 4}};

#undef GENERAL
#undef FLOAT
#undef VECTOR

struct FeatureRow {
  std::string_view name;
  uint64_t xcr0;  // bits that must all be set
  std::span<const Run> runs;
};

// What an earlier feature of gdb's needs stands before it. Numbers follow this order, but for
// general registers, which come first.
constexpr FeatureRow kFeatures[] = {
    {"org.gnu.gdb.i386.core", 0, kCore},
    {"org.gnu.gdb.i386.sse", 0, kSseRuns},
    {"org.gnu.gdb.i386.linux", 0, kLinux},
    {"org.gnu.gdb.i386.segments", 0, kSegments},
    {"org.gnu.gdb.i386.avx", 1u << kAvx, kAvxRuns},
    {"org.gnu.gdb.i386.avx512",
     (1u << kAvx) | (1u << kOpmask) | (1u << kZmmHigh) | (1u << kHighZmm), kAvx512},
    {"org.gnu.gdb.i386.pkeys", 1u << kPkru, kPkeys},
};

// Where a component begins. Legacy registers are given by their offset in the whole area.
uint32_t component_offset(uint32_t component, std::span<const pb::XstateComponent> components) {
  const auto* fallback = std::ranges::find(kDefaults, component, &DefaultComponent::number);
  if (fallback == std::end(kDefaults)) return 0;
  for (const pb::XstateComponent& stated : components)
    if (stated.number() == component && stated.offset() >= kHeaderEnd &&
        stated.offset() < kLargestOffset && stated.size() >= fallback->size)
      return stated.offset();
  return fallback->offset;
}

Register make_register(const Run& run, uint32_t index, uint32_t base) {
  Register made{run.name, run.bits, run.type, run.group, {}};
  if (run.count > 0) made.name += fmt::format("{}{}", run.first + index, run.suffix);
  made.place = {run.area, run.component, base + run.offset + index * run.stride, run.width};
  return made;
}

template <typename Number>
Number load(std::string_view bytes, size_t offset) {
  Number value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename Number>
void store(std::string& bytes, size_t offset, Number value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

bool holds(std::string_view area, const RegisterPlace& place) {
  return area.size() >= size_t{place.offset} + place.width;
}

uint64_t xstate_bv(std::string_view xstate) {
  if (xstate.size() >= kHeaderEnd) return load<uint64_t>(xstate, kXstateBvOffset);
  return (1u << kX87) | (1u << kSse);  // a bare FXSAVE area
}

bool initial(std::string_view xstate, uint32_t component) {
  return component != RegisterPlace::kAlwaysHeld && !(xstate_bv(xstate) >> component & 1);
}

// FXSAVE keeps one bit a register (not empty?); the full tag tells of what kind its content is.
uint32_t tag_of(std::string_view st) {
  enum : uint32_t { kValid = 0, kZero = 1, kSpecial = 2 };
  const auto significand = load<uint64_t>(st, 0);
  const uint32_t exponent = load<uint16_t>(st, 8) & 0x7fff;
  if (exponent == 0) return significand == 0 ? kZero : kSpecial;
  return exponent != 0x7fff && significand >> 63 ? kValid : kSpecial;
}

// Physical register p is at the top of the stack plus …: ST((p - TOP) mod 8).
uint32_t full_tag_word(std::string_view xstate) {
  constexpr uint32_t kEmpty = 3;
  const uint32_t top = load<uint16_t>(xstate, 2) >> 11 & 7;
  const auto abridged = load<uint8_t>(xstate, kTagOffset);
  uint32_t word = 0;
  for (uint32_t physical = 0; physical < 8; ++physical) {
    const size_t st = kStOffset + ((physical - top) & 7) * 16;
    const uint32_t tag = abridged >> physical & 1 ? tag_of(xstate.substr(st, 10)) : kEmpty;
    word |= tag << (2 * physical);
  }
  return word;
}

uint8_t abridged_tag_word(uint16_t full) {
  uint32_t abridged = 0;
  for (uint32_t physical = 0; physical < 8; ++physical)
    if ((full >> (2 * physical) & 3) != 3) abridged |= 1u << physical;
  return static_cast<uint8_t>(abridged);
}

uint32_t initial_value(const Register& wanted) {
  if (wanted.name == "fctrl") return kInitialFctrl;
  return wanted.place.area == Area::kTagWord ? 0xffff : 0;
}

void erase(std::string& xstate, size_t begin, size_t end) {
  end = std::min(end, xstate.size());
  if (begin < end) std::fill(xstate.begin() + begin, xstate.begin() + end, '\0');
}

// Makes a component that was in its initial state one that is held, with that content. Extended
// components are zero already where the kernel wrote the area.
void hold(std::string& xstate, uint32_t component) {
  if (xstate.size() < kHeaderEnd || !initial(xstate, component)) return;
  if (component == kX87) {
    erase(xstate, 0, 24);
    erase(xstate, kStOffset, kXmmOffset);
    store(xstate, 0, kInitialFctrl);
  }
  if (component == kSse) erase(xstate, kXmmOffset, kXmmEnd);
  store(xstate, kXstateBvOffset, xstate_bv(xstate) | uint64_t{1} << component);
}

}  // namespace

RegisterLayout::RegisterLayout(uint64_t xcr0, std::span<const pb::XstateComponent> components) {
  for (const FeatureRow& feature : kFeatures) {
    if ((xcr0 & feature.xcr0) != feature.xcr0) continue;
    features_.push_back({feature.name, {}});
    for (const Run& run : feature.runs)
      for (uint32_t i = 0; i < std::max(run.count, 1u); ++i) {
        features_.back().numbers.push_back(registers_.size());
        registers_.push_back(make_register(run, i, component_offset(run.component, components)));
      }
  }
  number_general_first();
}

void RegisterLayout::number_general_first() {
  std::vector<size_t> order(registers_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto others = std::ranges::stable_partition(
      order, [&](size_t i) { return registers_[i].place.area == Area::kGeneral; });
  general_ = order.size() - others.size();
  std::vector<Register> numbered;
  std::vector<size_t> number(order.size());
  for (const size_t i : order) {
    number[i] = numbered.size();
    numbered.push_back(std::move(registers_[i]));
  }
  registers_ = std::move(numbered);
  for (RegisterFeature& feature : features_)
    for (size_t& each : feature.numbers) each = number[each];
}

std::optional<std::string> RegisterLayout::value(const RegisterSet& set, const Register& wanted) {
  const RegisterPlace& place = wanted.place;
  std::string bytes(wanted.size(), '\0');
  if (place.area == Area::kGeneral) {
    if (!holds(set.general, place)) return std::nullopt;
    return bytes.replace(0, place.width, set.general, place.offset, place.width);
  }
  if (set.xstate.size() < kLegacySize || !holds(set.xstate, place)) return std::nullopt;
  if (initial(set.xstate, place.component)) {
    store(bytes, 0, initial_value(wanted));
    return bytes;
  }
  if (place.area == Area::kTagWord) {
    store(bytes, 0, full_tag_word(set.xstate));
    return bytes;
  }
  return bytes.replace(0, place.width, set.xstate, place.offset, place.width);
}

bool RegisterLayout::assign(RegisterSet& set, const Register& changed, std::string_view bytes) {
  const RegisterPlace& place = changed.place;
  if (place.area == Area::kGeneral) {
    if (!holds(set.general, place)) return false;
    set.general.replace(place.offset, place.width, bytes.substr(0, place.width));
    return true;
  }
  if (set.xstate.size() < kLegacySize || !holds(set.xstate, place)) return false;
  // MXCSR is restored together with the SSE registers.
  hold(set.xstate, place.component == RegisterPlace::kAlwaysHeld ? kSse : place.component);
  if (place.area == Area::kTagWord)
    store(set.xstate, place.offset, abridged_tag_word(load<uint16_t>(bytes, 0)));
  else
    set.xstate.replace(place.offset, place.width, bytes.substr(0, place.width));
  return true;
}

std::optional<uint64_t> xcr0_of(std::string_view xstate) {
  if (xstate.size() < kHeaderEnd) return std::nullopt;
  return load<uint64_t>(xstate, kXcr0Offset);
}

}  // namespace snapgdb::gdbstub
