#include "core/linux/signal_frame.h"

#include <cpuid.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

namespace snapgdb {
namespace {

struct SignalContext {  // struct sigcontext_64
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trap, old_mask, cr2, fpstate, reserved[8];
};
struct SignalFrame {  // struct rt_sigframe as far as rt_sigreturn(2) reads it
  uint64_t return_address;
  uint64_t flags, link;
  uint64_t stack;
  int32_t stack_flags, padding;
  uint64_t stack_size;
  SignalContext context;
  uint64_t mask;
};
static_assert(sizeof(SignalFrame) == 312);
// Where no code does both: it pops the number, and the frame begins with the address of what makes
// the call, which is popped, too, as rt_sigreturn(2) wants it.
struct Sigreturn {
  uint64_t pop_rax, number = SYS_rt_sigreturn;
};

// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS, arch/x86/include/uapi/asm/ucontext.h
constexpr uint64_t kContextFlags = 7;
// rt_sigreturn(2) sets the alternate stack from the frame; one with flags that there are not is
// passed over, so that the task's own stays.
constexpr int32_t kLeaveAlternateStack = 0x7f;

// include/linux/errno.h
constexpr int64_t kRestartSys = -512, kRestartNoInterrupt = -513, kRestartNoHandler = -514,
                  kRestartBlock = -516;

// The kernel knows an XSAVE area in a frame by these (arch/x86/include/uapi/asm/sigcontext.h).
struct SoftwareReserved {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t size, padding[7];
};
constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr size_t kSoftwareReservedAt = 464, kHeaderAt = 512, kHeaderSize = 64;
constexpr uint64_t kTileFeatures = uint64_t{3} << 17;  // AMX: only in frames of tasks that use it

bool was_interrupted(const user_regs_struct& registers) {
  const auto result = static_cast<int64_t>(registers.rax);
  return static_cast<int64_t>(registers.orig_rax) >= 0 &&
         (result == kRestartSys || result == kRestartNoInterrupt || result == kRestartNoHandler ||
          result == kRestartBlock);
}

// mov $NUMBER, %eax; syscall: so the wrappers of the C libraries do it, and Go.
std::optional<uint32_t> number_in(std::span<const std::byte, kCodeBefore> code) {
  constexpr std::byte kMove{0xb8}, kSyscall[] = {std::byte{0x0f}, std::byte{0x05}};
  if (code[0] != kMove || !std::ranges::equal(code.last<2>(), kSyscall)) return std::nullopt;
  uint32_t number = 0;
  std::memcpy(&number, &code[1], sizeof number);
  return number;
}

// The only calls with a restart block (set_restart_fn in the kernel's sources), by where they
// sleep.
std::optional<uint32_t> number_by(std::string_view wait_channel,
                                  const user_regs_struct& registers) {
  constexpr uint64_t kMaxClock =
      64;  // clock_nanosleep(2) begins with a clock, nanosleep(2) with a pointer
  if (wait_channel.starts_with("futex")) return SYS_futex;
  if (wait_channel.find("poll") != std::string_view::npos) return SYS_poll;
  // The functions of sleeping themselves are passed over in wchan (__sched).
  if (wait_channel.find("nanosleep") == std::string_view::npos && wait_channel != "do_syscall_64")
    return std::nullopt;
  const auto first = static_cast<int64_t>(registers.rdi);
  return first < static_cast<int64_t>(kMaxClock) ? SYS_clock_nanosleep : SYS_nanosleep;
}

// Where each component ends in the standard format (Intel SDM vol. 1, 13.4.3). Asked once: under a
// hypervisor, cpuid takes longer than a system call.
std::array<uint32_t, 64> component_ends() {
  std::array<uint32_t, 64> ends{};
  for (unsigned number = 2; number < 63; ++number) {
    unsigned size = 0, offset = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(0xd, number, &size, &offset, &ecx, &edx)) ends[number] = offset + size;
  }
  return ends;
}

const std::array<uint32_t, 64>& known_component_ends() {
  static const std::array<uint32_t, 64> kEnds = component_ends();
  return kEnds;
}

uint32_t xsave_size(uint64_t features) {
  const auto& ends = known_component_ends();
  uint32_t end = kHeaderAt + kHeaderSize;
  for (unsigned number = 2; number < 63; ++number)
    if (features >> number & 1) end = std::max(end, ends[number]);
  return end;
}

// Turns what ptrace shows into what a frame holds.
std::vector<std::byte> frame_xstate(std::span<const std::byte> xstate) {
  uint64_t in_use = 0, enabled = 0;
  std::memcpy(&enabled, xstate.data() + kSoftwareReservedAt, sizeof enabled);  // XCR0, by ptrace
  std::memcpy(&in_use, xstate.data() + kHeaderAt, sizeof in_use);
  const uint64_t features = in_use & kTileFeatures ? enabled : enabled & ~kTileFeatures;
  const auto size = std::min(xsave_size(features), static_cast<uint32_t>(xstate.size()));
  std::vector<std::byte> area(xstate.begin(), xstate.begin() + size);
  const SoftwareReserved reserved{kMagic1, size + uint32_t{sizeof kMagic2}, features, size, {}};
  std::memcpy(area.data() + kSoftwareReservedAt, &reserved, sizeof reserved);
  area.resize(size + sizeof kMagic2);
  std::memcpy(area.data() + size, &kMagic2, sizeof kMagic2);
  return area;
}

}  // namespace

bool waits_with_restart_block(const user_regs_struct& registers) {
  return was_interrupted(registers) && static_cast<int64_t>(registers.rax) == kRestartBlock;
}

std::optional<user_regs_struct> restarted_by_hand(const user_regs_struct& registers,
                                                  std::span<const std::byte, kCodeBefore> code,
                                                  std::string_view wait_channel) {
  if (!was_interrupted(registers)) return registers;
  user_regs_struct anew = registers;
  anew.rip -= 2;  // the length of its syscall instruction
  anew.rax = registers.orig_rax;
  if (anew.rax != SYS_restart_syscall) return anew;
  auto number = number_in(code);
  if (!number) number = number_by(wait_channel, registers);
  if (!number) return std::nullopt;
  anew.rax = *number;
  return anew;
}

FrameChain::FrameChain(const Gadgets& gadgets, uint64_t address)
    : gadgets_(gadgets), address_(address) {}

user_regs_struct FrameChain::registers_for(const Gadgets& gadgets, user_regs_struct registers,
                                           long number, const SystemCallArguments& arguments,
                                           uint64_t stack) {
  registers.rip = gadgets.syscall_return;
  registers.rsp = stack;
  registers.rax = static_cast<uint64_t>(number);
  registers.orig_rax = ~uint64_t{0};  // not inside a system call: nothing to restart
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  registers.r10 = arguments[3];
  registers.r8 = arguments[4];
  registers.r9 = arguments[5];
  registers.eflags &= ~uint64_t{0x500};  // no trap flag, direction forwards
  return registers;
}

void FrameChain::warm_up() {
  known_component_ends();
}

void FrameChain::call(long number, const SystemCallArguments& arguments) {
  user_regs_struct registers{};
  registers.cs = kCodeSegment;
  registers.ss = 0x2b;  // __USER_DS
  registers.eflags = 0x202;
  append(registers_for(gadgets_, registers, number, arguments, end() + next_size()), 0,
         ~uint64_t{0});
}

void FrameChain::home(const user_regs_struct& registers, std::span<const std::byte> xstate,
                      uint64_t mask) {
  const uint64_t fpstate = (end() + next_size() + 63) & ~uint64_t{63};  // XRSTOR wants 64
  append(registers, fpstate, mask);
  bytes_.resize(fpstate - address_);
  const auto area = frame_xstate(xstate);
  bytes_.insert(bytes_.end(), area.begin(), area.end());
}

size_t FrameChain::next_size() const {
  return sizeof(SignalFrame) + (gadgets_.sigreturn ? 0 : sizeof(Sigreturn));
}

void FrameChain::append(const user_regs_struct& r, uint64_t fpstate, uint64_t mask) {
  const auto add = [this](const auto& part) {
    const auto raw = std::as_bytes(std::span(&part, 1));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
  };
  if (!gadgets_.sigreturn) add(Sigreturn{gadgets_.pop_rax});
  SignalFrame frame{};
  frame.return_address = gadgets_.sigreturn ? gadgets_.sigreturn : gadgets_.syscall_return;
  frame.flags = kContextFlags;
  frame.stack_flags = kLeaveAlternateStack;
  frame.mask = mask;
  SignalContext& to = frame.context;
  to.r8 = r.r8, to.r9 = r.r9, to.r10 = r.r10, to.r11 = r.r11;
  to.r12 = r.r12, to.r13 = r.r13, to.r14 = r.r14, to.r15 = r.r15;
  to.di = r.rdi, to.si = r.rsi, to.bp = r.rbp, to.bx = r.rbx;
  to.dx = r.rdx, to.ax = r.rax, to.cx = r.rcx, to.sp = r.rsp;
  to.ip = r.rip, to.flags = r.eflags;
  to.cs = static_cast<uint16_t>(r.cs), to.ss = static_cast<uint16_t>(r.ss);
  to.fpstate = fpstate;
  add(frame);
}

}  // namespace snapgdb
