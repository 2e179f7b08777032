#pragma once

#include <sys/user.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/linux/gadgets.h"

namespace snapgdb {

// __USER_CS, arch/x86/include/asm/segment.h: by it the kernel tells 64-bit code from 32-bit code.
constexpr uint64_t kCodeSegment = 0x33;

using SystemCallArguments = std::array<uint64_t, 6>;
struct SystemCall {
  long number = 0;
  SystemCallArguments arguments{};
};

// Signal frames, as the kernel puts them on the stack when it delivers a signal, one after the
// other: rt_sigreturn(2) of each loads every register for one system call, whose return leads to
// the next frame. A task set upon such a chain works it off by itself, whether somebody watches or
// not. (struct rt_sigframe, arch/x86/include/asm/sigframe.h; arch/x86/kernel/signal_64.c.)
//
// Every rt_sigreturn resets the vector registers, the restart block of an interrupted system call
// and the signal mask (all blocked, but for home()).
class FrameChain {
 public:
  // `address`: where in the task's memory the chain will lie; a multiple of 64.
  FrameChain(const Gadgets& gadgets, uint64_t address);

  // Does beforehand what the first home() would do: about 1 ms under a hypervisor.
  static void warm_up();

  // What a stack pointer has to be so that a `ret` begins the chain.
  uint64_t begin() const { return address_; }
  uint64_t end() const { return address_ + bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }

  // The last call must not return (exit), unless home() follows.
  void call(long number, const SystemCallArguments& arguments = {});
  // Back to the program: `registers` as they will be in user space (restarted_by_hand), `xstate` as
  // NT_X86_XSTATE shows it.
  void home(const user_regs_struct& registers, std::span<const std::byte> xstate, uint64_t mask);

  // The registers that perform a system call and then go on with the frame at `stack`.
  static user_regs_struct registers_for(const Gadgets& gadgets, user_regs_struct registers,
                                        long number, const SystemCallArguments& arguments,
                                        uint64_t stack);

 private:
  size_t next_size() const;  // of what append() will
  void append(const user_regs_struct& registers, uint64_t fpstate, uint64_t mask);

  Gadgets gadgets_;
  uint64_t address_;
  std::vector<std::byte> bytes_;
};

// Whether the task was interrupted in a system call that goes on by means of its restart block: a
// signal frame would lose it (nanosleep(2), poll(2), futex(2) with a relative timeout).
bool waits_with_restart_block(const user_regs_struct& registers);

// The registers of a task that ptrace shows in an interrupted system call, as they have to be for
// it to begin that call anew; of any other task, as they are. Of a call that was restarted once,
// the number is no longer in a register: it is told from `code`, the instruction bytes before rip,
// or from the function of the kernel where it waits. nullopt: it cannot be told.
inline constexpr size_t kCodeBefore = 7;
std::optional<user_regs_struct> restarted_by_hand(const user_regs_struct& registers,
                                                  std::span<const std::byte, kCodeBefore> code,
                                                  std::string_view wait_channel);

}  // namespace snapgdb
