#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"

namespace snapgdb::gdbstub {

// The registers of one thread as the kernel gives them; empty where they are not known.
struct RegisterSet {
  std::string general;  // struct user_regs_struct
  std::string xstate;   // NT_X86_XSTATE: an XSAVE area in standard format
};

// Where a register lies in a RegisterSet.
struct RegisterPlace {
  enum class Area { kGeneral, kXstate, kTagWord };
  Area area = Area::kGeneral;
  // Bit of XSTATE_BV that tells whether xstate holds it; clear means that it has its initial value.
  uint32_t component = 0;
  uint32_t offset = 0;
  uint32_t width = 0;  // bytes kept; the register is filled up with zeros

  static constexpr uint32_t kAlwaysHeld = 64;  // a component: never in its initial state
};

struct Register {
  std::string name;
  uint32_t bits;
  std::string_view type;
  std::string_view group;  // "": where the debugger puts it of itself
  RegisterPlace place;

  size_t size() const { return bits / 8; }
};

// Registers that gdb knows together, under a name of its own ("Standard Target Features").
struct RegisterFeature {
  std::string_view name;
  std::vector<size_t> numbers;  // of its registers, in gdb's order
};

// Which registers the threads of a snapshot have, in the order of their numbers in the protocol,
// and where each of them lies.
class RegisterLayout {
 public:
  // `xcr0` decides which features exist; `components` where the extended ones lie. One that is
  // missing there, or cannot be true, is taken to lie where Intel's processors have it.
  RegisterLayout(uint64_t xcr0, std::span<const pb::XstateComponent> components);

  std::span<const Register> registers() const { return registers_; }
  // Those of struct user_regs_struct, which have the first numbers: all that a backtrace needs.
  std::span<const Register> general() const { return registers().first(general_); }
  std::span<const RegisterFeature> features() const { return features_; }

  // Little-endian, size() bytes; nullopt: the set does not hold this register.
  static std::optional<std::string> value(const RegisterSet& set, const Register& wanted);
  // False: the set has no room for this register. Precondition: bytes.size() == size().
  static bool assign(RegisterSet& set, const Register& changed, std::string_view bytes);

 private:
  void number_general_first();

  std::vector<Register> registers_;
  size_t general_ = 0;
  std::vector<RegisterFeature> features_;
};

// XCR0 as the kernel notes it in an XSAVE area it hands out; nullopt if it is too short.
std::optional<uint64_t> xcr0_of(std::string_view xstate);

}  // namespace snapgdb::gdbstub
