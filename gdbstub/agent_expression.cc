#include "gdbstub/agent_expression.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

namespace snapgdb::gdbstub {
namespace {

constexpr size_t kMaxStack = 256;
constexpr int kMaxSteps = 10'000;  // the program waits meanwhile

struct Machine {
  std::string_view code;
  const Target& target;
  ThreadId thread;
  size_t at = 0;
  std::vector<uint64_t> stack = {};
  bool done = false;
  bool failed = false;

  uint64_t pop() {
    const uint64_t value = stack.back();
    stack.pop_back();
    return value;
  }
  void push(uint64_t value) { stack.push_back(value); }
  void jump(uint64_t to) { at = to; }  // where there is no code, the next step fails
};

int64_t as_signed(uint64_t value) {
  return static_cast<int64_t>(value);
}

// ---- Numbers ----

using Operation = uint64_t(uint64_t left, uint64_t right);

template <Operation* Compute>
void binary(Machine& machine, uint64_t) {
  const uint64_t right = machine.pop();
  machine.push(Compute(machine.pop(), right));
}

// The one quotient that does not fit is that of the least number and -1.
template <Operation* Compute>
void division(Machine& machine, uint64_t) {
  const uint64_t right = machine.pop(), left = machine.pop();
  machine.failed = right == 0;
  if (!machine.failed) machine.push(Compute(left, right));
}

uint64_t add(uint64_t a, uint64_t b) {
  return a + b;
}
uint64_t subtract(uint64_t a, uint64_t b) {
  return a - b;
}
uint64_t multiply(uint64_t a, uint64_t b) {
  return a * b;
}
uint64_t divide_signed(uint64_t a, uint64_t b) {
  return as_signed(b) == -1 ? -a : static_cast<uint64_t>(as_signed(a) / as_signed(b));
}
uint64_t divide_unsigned(uint64_t a, uint64_t b) {
  return a / b;
}
uint64_t remainder_signed(uint64_t a, uint64_t b) {
  return as_signed(b) == -1 ? 0 : static_cast<uint64_t>(as_signed(a) % as_signed(b));
}
uint64_t remainder_unsigned(uint64_t a, uint64_t b) {
  return a % b;
}
uint64_t shift_left(uint64_t a, uint64_t b) {
  return b < 64 ? a << b : 0;
}
uint64_t shift_right_signed(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(as_signed(a) >> std::min<uint64_t>(b, 63));
}
uint64_t shift_right_unsigned(uint64_t a, uint64_t b) {
  return b < 64 ? a >> b : 0;
}
uint64_t bit_and(uint64_t a, uint64_t b) {
  return a & b;
}
uint64_t bit_or(uint64_t a, uint64_t b) {
  return a | b;
}
uint64_t bit_xor(uint64_t a, uint64_t b) {
  return a ^ b;
}
uint64_t equal(uint64_t a, uint64_t b) {
  return a == b;
}
uint64_t less_signed(uint64_t a, uint64_t b) {
  return as_signed(a) < as_signed(b);
}
uint64_t less_unsigned(uint64_t a, uint64_t b) {
  return a < b;
}

void logical_not(Machine& machine, uint64_t) {
  machine.push(machine.pop() == 0);
}

void bit_not(Machine& machine, uint64_t) {
  machine.push(~machine.pop());
}

void zero_extend(Machine& machine, uint64_t bits) {
  if (bits < 64) machine.push(machine.pop() & ((uint64_t{1} << bits) - 1));
}

void sign_extend(Machine& machine, uint64_t bits) {
  machine.failed = bits == 0;
  if (bits == 0 || bits >= 64) return;
  const uint64_t shift = 64 - bits;
  machine.push(static_cast<uint64_t>(as_signed(machine.pop() << shift) >> shift));
}

// ---- What the program has ----

template <typename Number>
void load(Machine& machine, uint64_t) {
  Number value{};
  const auto bytes = std::as_writable_bytes(std::span(&value, 1));
  const size_t got = machine.target.read_memory(machine.thread.pid, machine.pop(), bytes);
  machine.failed = got != bytes.size();
  machine.push(value);
}

void read_register(Machine& machine, uint64_t number) {
  const auto registers = machine.target.layout().registers();
  const bool known = number < registers.size() && registers[number].size() <= sizeof(uint64_t);
  const auto bytes =
      known ? RegisterLayout::value(machine.target.registers(machine.thread), registers[number])
            : std::nullopt;
  uint64_t value = 0;
  if (bytes) std::memcpy(&value, bytes->data(), bytes->size());
  machine.failed = !bytes;
  machine.push(value);
}

// ---- The stack, and where to go on ----

void constant(Machine& machine, uint64_t value) {
  machine.push(value);
}

void duplicate(Machine& machine, uint64_t) {
  machine.push(machine.stack.back());
}

void drop(Machine& machine, uint64_t) {
  machine.pop();
}

void swap(Machine& machine, uint64_t) {
  std::swap(machine.stack.end()[-1], machine.stack.end()[-2]);
}

// The top one goes below the two others.
void rotate(Machine& machine, uint64_t) {
  std::rotate(machine.stack.end() - 3, machine.stack.end() - 1, machine.stack.end());
}

void pick(Machine& machine, uint64_t depth) {
  machine.failed = depth >= machine.stack.size();
  if (!machine.failed) machine.push(machine.stack.end()[-1 - static_cast<ptrdiff_t>(depth)]);
}

void go_to(Machine& machine, uint64_t to) {
  machine.jump(to);
}

void go_to_if(Machine& machine, uint64_t to) {
  if (machine.pop() != 0) machine.jump(to);
}

void end(Machine& machine, uint64_t) {
  machine.done = true;
}

struct Instruction {
  uint8_t code;
  uint8_t operand;  // bytes, the most significant first
  uint8_t needs;    // numbers on the stack
  void (*perform)(Machine& machine, uint64_t operand);
};

// gdbsupport/ax.def of gdb. Left out is what gdb itself leaves out (floating point) and what only
// tracepoints have.
constexpr Instruction kInstructions[] = {
    {0x02, 0, 2, binary<add>},
    {0x03, 0, 2, binary<subtract>},
    {0x04, 0, 2, binary<multiply>},
    {0x05, 0, 2, division<divide_signed>},
    {0x06, 0, 2, division<divide_unsigned>},
    {0x07, 0, 2, division<remainder_signed>},
    {0x08, 0, 2, division<remainder_unsigned>},
    {0x09, 0, 2, binary<shift_left>},
    {0x0a, 0, 2, binary<shift_right_signed>},
    {0x0b, 0, 2, binary<shift_right_unsigned>},
    {0x0e, 0, 1, logical_not},
    {0x0f, 0, 2, binary<bit_and>},
    {0x10, 0, 2, binary<bit_or>},
    {0x11, 0, 2, binary<bit_xor>},
    {0x12, 0, 1, bit_not},
    {0x13, 0, 2, binary<equal>},
    {0x14, 0, 2, binary<less_signed>},
    {0x15, 0, 2, binary<less_unsigned>},
    {0x16, 1, 1, sign_extend},
    {0x17, 0, 1, load<uint8_t>},
    {0x18, 0, 1, load<uint16_t>},
    {0x19, 0, 1, load<uint32_t>},
    {0x1a, 0, 1, load<uint64_t>},
    {0x20, 2, 1, go_to_if},
    {0x21, 2, 0, go_to},
    {0x22, 1, 0, constant},
    {0x23, 2, 0, constant},
    {0x24, 4, 0, constant},
    {0x25, 8, 0, constant},
    {0x26, 2, 0, read_register},
    {0x27, 0, 0, end},
    {0x28, 0, 1, duplicate},
    {0x29, 0, 1, drop},
    {0x2a, 1, 1, zero_extend},
    {0x2b, 0, 2, swap},
    {0x32, 1, 0, pick},
    {0x33, 0, 3, rotate},
};

void step(Machine& machine) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(machine.code[at]); };
  const auto* found = machine.at < machine.code.size()
                          ? std::ranges::find(kInstructions, byte(machine.at), &Instruction::code)
                          : std::end(kInstructions);
  machine.failed = found == std::end(kInstructions) ||
                   machine.code.size() - machine.at <= found->operand ||
                   machine.stack.size() < found->needs || machine.stack.size() >= kMaxStack;
  if (machine.failed) return;
  ++machine.at;
  uint64_t operand = 0;
  for (int i = 0; i < found->operand; ++i) operand = operand << 8 | byte(machine.at++);
  found->perform(machine, operand);
}

}  // namespace

std::optional<int64_t> evaluate(std::string_view bytecode, const Target& target, ThreadId thread) {
  Machine machine{bytecode, target, thread};
  for (int steps = 0; !machine.done; ++steps) {
    if (steps == kMaxSteps) return std::nullopt;
    step(machine);
    if (machine.failed) return std::nullopt;
  }
  if (machine.stack.empty()) return std::nullopt;
  return as_signed(machine.stack.back());
}

bool holds(std::string_view bytecode, const Target& target, ThreadId thread) {
  return evaluate(bytecode, target, thread).value_or(1) != 0;
}

}  // namespace snapgdb::gdbstub
