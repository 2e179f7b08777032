#include "gdbstub/agent_expression.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include <fmt/printf.h>

#include "core/base/strings.h"
#include "gdbstub/link_map.h"

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
  std::string output = {};  // of printf

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

// ---- printf ----

constexpr size_t kMaxPrinted = 4096;  // of one string of the program

// Between a backslash and what follows it: gdb sends the format as the user has written it.
std::string unescaped(std::string_view text) {
  constexpr std::string_view kNames = "abefnrtv", kMeanings = "\a\b\x1b\f\n\r\t\v";
  std::string out;
  while (!text.empty()) {
    const bool is_escape = text.front() == '\\' && text.size() > 1;
    text.remove_prefix(is_escape ? 1 : 0);
    const size_t digits = std::min<size_t>(text.find_first_not_of("01234567"), 3);
    if (const auto number = parse_number<uint32_t>(text.substr(0, digits), 8);
        is_escape && number) {
      out += static_cast<char>(*number);
      text.remove_prefix(std::min(digits, text.size()));
      continue;
    }
    const size_t named = is_escape ? kNames.find(text.front()) : std::string_view::npos;
    out += named == std::string_view::npos ? text.front() : kMeanings[named];
    text.remove_prefix(1);
  }
  return out;
}

// "%-8.3lu" and what stands before it.
struct FormatPiece {
  std::string_view literal, flags, length;  // flags: with width and precision
  char conversion = 0;                      // 0: the format ends
};

FormatPiece next_piece(std::string_view& format) {
  FormatPiece piece;
  const auto take = [&format](size_t size) {
    const std::string_view taken = format.substr(0, size);
    format.remove_prefix(taken.size());
    return taken;
  };
  piece.literal = take(format.find('%'));
  if (take(1).empty()) return piece;
  piece.flags = take(format.find_first_not_of("-+ #0123456789."));
  piece.length = take(format.find_first_not_of("hlLqjzt"));
  if (!format.empty()) piece.conversion = take(1).front();
  return piece;
}

// The value as wide as its type, sign or zeros above.
uint64_t narrowed(uint64_t value, const FormatPiece& piece) {
  const bool is_signed = piece.conversion == 'd' || piece.conversion == 'i';
  const auto narrow = [&]<typename Signed, typename Unsigned>(Signed, Unsigned) {
    return is_signed ? static_cast<uint64_t>(int64_t{static_cast<Signed>(value)})
                     : uint64_t{static_cast<Unsigned>(value)};
  };
  if (piece.length == "hh") return narrow(int8_t{}, uint8_t{});
  if (piece.length == "h") return narrow(int16_t{}, uint16_t{});
  return piece.length.empty() ? narrow(int32_t{}, uint32_t{}) : value;
}

// nullopt: there is no such conversion.
std::optional<std::string> printed(const FormatPiece& piece, uint64_t value,
                                   const Machine& machine) {
  const auto as = [&](std::string_view conversion, auto shown) {
    return fmt::sprintf(fmt::format("%{}{}", piece.flags, conversion), shown);
  };
  const std::string_view conversion(&piece.conversion, 1);
  // Nobody wants columns that wide, and fmt does not take numbers of any size.
  constexpr size_t kMostDigits = 4;
  for (const std::string_view number : split(piece.flags, '.'))
    if (number.size() - std::min(number.find_first_of("0123456789"), number.size()) > kMostDigits)
      return std::nullopt;
  if (!piece.length.empty() && (conversion == "c" || conversion == "s")) return std::nullopt;
  if (conversion == "d" || conversion == "i") return as("d", as_signed(narrowed(value, piece)));
  if (std::string_view("uoxX").contains(conversion)) return as(conversion, narrowed(value, piece));
  if (conversion == "c") return as(conversion, static_cast<char>(value));
  if (conversion == "p") return as("s", fmt::format("{:#x}", value));
  if (conversion != "s") return std::nullopt;
  return as(conversion, memory_of(machine.target, machine.thread.pid).text(value, kMaxPrinted));
}

// What follows in the code is the size of the format, in two bytes, and the format with its zero;
// on the stack are a function and a channel, which are gdb's business, and the arguments.
void print(Machine& machine, uint64_t arguments) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(machine.code[at]); };
  constexpr size_t kSize = 2, kOthers = 2;
  const size_t rest = machine.code.size() - machine.at;
  const size_t size = rest < kSize ? 0 : byte(machine.at) << 8 | byte(machine.at + 1);
  machine.failed = size == 0 || size > rest - kSize || machine.stack.size() < arguments + kOthers;
  if (machine.failed) return;
  const std::string unescaped_format = unescaped(machine.code.substr(machine.at + kSize, size - 1));
  machine.at += kSize + size;
  for (size_t i = 0; i < kOthers; ++i) machine.pop();
  std::string_view format = unescaped_format;
  while (!format.empty()) {
    const FormatPiece piece = next_piece(format);
    machine.output += piece.literal;
    if (piece.conversion == '%') machine.output += '%';
    if (piece.conversion == 0 || piece.conversion == '%') continue;
    const auto text = arguments-- > 0 ? printed(piece, machine.pop(), machine) : std::nullopt;
    machine.failed = !text;
    if (machine.failed) return;
    machine.output += *text;
  }
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
    {0x34, 1, 2, print},
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

// False: not to its end.
bool run(Machine& machine) {
  for (int steps = 0; !machine.done; ++steps) {
    if (steps == kMaxSteps) return false;
    step(machine);
    if (machine.failed) return false;
  }
  return true;
}

}  // namespace

std::optional<int64_t> evaluate(std::string_view bytecode, const Target& target, ThreadId thread) {
  Machine machine{bytecode, target, thread};
  if (!run(machine) || machine.stack.empty()) return std::nullopt;
  return as_signed(machine.stack.back());
}

std::string perform(std::string_view bytecode, const Target& target, ThreadId thread) {
  Machine machine{bytecode, target, thread};
  const bool is_whole = run(machine);
  return machine.output + (is_whole ? "" : "(snapgdb cannot perform the rest of that command)\n");
}

bool holds(std::string_view bytecode, const Target& target, ThreadId thread) {
  return evaluate(bytecode, target, thread).value_or(1) != 0;
}

}  // namespace snapgdb::gdbstub
