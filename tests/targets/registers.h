#pragma once

#include <array>
#include <cstdint>

// Known values in every register a thread has, and threads that hold them.
namespace target {

// hold_registers.S knows these offsets.
struct alignas(64) RegisterValues {
  std::array<std::array<uint8_t, 64>, 32>
      vector;                                  // zmm0 … zmm31, of which xmm and ymm are the start
  std::array<uint64_t, 8> mask;                // k0 … k7
  std::array<std::array<uint8_t, 16>, 8> x87;  // st(0) … st(7), 10 bytes of each
  std::array<uint64_t, 15> general;            // rax rbx rcx rdx rsi rdi rbp r8 … r15
  uint64_t mxcsr;
  uint64_t x87_control;
  uint64_t flags;  // stored only, by whoever holds kHeldFlags

  // Carry, parity, adjust, zero, sign, direction and overflow: all that a program owns.
  static constexpr uint64_t kHeldFlags = 0xcd5;
};

enum VectorLevel { kSse = 0, kAvx = 1, kAvx512 = 2 };
VectorLevel vector_level();  // of this CPU, as the kernel lets us use it

RegisterValues known_registers(uint64_t seed);

// Hold known values until end_holding() was called. What is found in the registers then is
// compared.
void hold_spinning(uint64_t seed);
// The same inside the system call pause(2), which keeps all but rax, rcx and r11.
void hold_in_pause(uint64_t seed);
// The same for so many rounds of a loop, with the flags too.
void hold_counting(uint64_t seed, uint64_t rounds);
// Ends all other holding; a thread in pause(2) must be signalled then, until it is gone.
void end_holding();

// AMX tiles: false where the CPU or the kernel has none.
bool request_amx();
void forbid_amx();  // request_amx() is false from now on
void load_tiles(uint64_t seed);
void check_tiles(uint64_t seed);

}  // namespace target
