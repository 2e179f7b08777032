#include "core/linux/system_call_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// include/uapi/linux/ptrace.h; Debian 12's headers lack the last two.
constexpr int kGetFilter = 0x420c, kGetMetadata = 0x420d, kSetDispatch = 0x4210,
              kGetDispatch = 0x4211;

long request(int what, const Tracee& task, uint64_t address, void* data) {
  return ::ptrace(static_cast<__ptrace_request>(what), task.tid().value,
                  reinterpret_cast<void*>(address), data);
}

uint32_t flags_of(const Tracee& task, uint64_t index) {
  struct {  // struct seccomp_metadata
    uint64_t index, flags;
  } metadata{index, 0};
  if (request(kGetMetadata, task, sizeof metadata, &metadata) < 0)
    throw_errno("cannot read the flags of a seccomp filter of {}", task.tid().value);
  return static_cast<uint32_t>(metadata.flags);
}

// ---- What a filter says of a call ---------------------------------------------------------------

// The machine of Documentation/networking/filter.rst, with what seccomp_check_filter()
// (kernel/seccomp.c) admits. The kernel has checked the program: it only jumps forward, and ends.
class Machine {
 public:
  explicit Machine(const seccomp_data& data) { std::memcpy(data_.data(), &data, sizeof data); }

  // nullopt: an instruction that is not known here.
  std::optional<uint32_t> run(const std::vector<sock_filter>& program) {
    for (size_t at = 0; at < program.size(); ++at) {
      const sock_filter& step = program[at];
      const uint32_t operand = BPF_SRC(step.code) == BPF_X ? x_ : step.k;
      switch (BPF_CLASS(step.code)) {
        case BPF_RET:
          return BPF_RVAL(step.code) == BPF_A ? a_ : step.k;
        case BPF_LD:
        case BPF_LDX: {
          const auto value = loaded(step);
          if (!value) return std::nullopt;
          (BPF_CLASS(step.code) == BPF_LD ? a_ : x_) = *value;
          break;
        }
        case BPF_ST:
          memory_.at(step.k) = a_;
          break;
        case BPF_STX:
          memory_.at(step.k) = x_;
          break;
        case BPF_MISC:
          BPF_MISCOP(step.code) == BPF_TAX ? x_ = a_ : a_ = x_;
          break;
        case BPF_ALU:
          if (!calculate(BPF_OP(step.code), operand)) return std::nullopt;
          break;
        case BPF_JMP:
          at += distance(step, operand);
          break;
        default:
          return std::nullopt;
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<uint32_t> loaded(const sock_filter& step) const {
    switch (BPF_MODE(step.code)) {
      case BPF_IMM:
        return step.k;
      case BPF_LEN:
        return static_cast<uint32_t>(sizeof data_);
      case BPF_MEM:
        return memory_.at(step.k);
      case BPF_ABS:
        return step.k % 4 ? std::nullopt : std::optional(data_.at(step.k / 4));
      default:
        return std::nullopt;
    }
  }

  bool calculate(int operation, uint32_t by) {
    const bool divides = operation == BPF_DIV || operation == BPF_MOD;
    if (divides && by == 0) return false;
    switch (operation) {
      case BPF_ADD:
        a_ += by;
        return true;
      case BPF_SUB:
        a_ -= by;
        return true;
      case BPF_MUL:
        a_ *= by;
        return true;
      case BPF_DIV:
        a_ /= by;
        return true;
      case BPF_MOD:
        a_ %= by;
        return true;
      case BPF_AND:
        a_ &= by;
        return true;
      case BPF_OR:
        a_ |= by;
        return true;
      case BPF_XOR:
        a_ ^= by;
        return true;
      case BPF_LSH:
        a_ = by < 32 ? a_ << by : 0;
        return true;
      case BPF_RSH:
        a_ = by < 32 ? a_ >> by : 0;
        return true;
      case BPF_NEG:
        a_ = -a_;
        return true;
      default:
        return false;
    }
  }

  size_t distance(const sock_filter& step, uint32_t with) const {
    switch (BPF_OP(step.code)) {
      case BPF_JA:
        return step.k;
      case BPF_JEQ:
        return a_ == with ? step.jt : step.jf;
      case BPF_JGT:
        return a_ > with ? step.jt : step.jf;
      case BPF_JGE:
        return a_ >= with ? step.jt : step.jf;
      default:
        return a_ & with ? step.jt : step.jf;  // BPF_JSET
    }
  }

  std::array<uint32_t, sizeof(seccomp_data) / 4> data_{};
  std::array<uint32_t, BPF_MEMWORDS> memory_{};
  uint32_t a_ = 0, x_ = 0;
};

}  // namespace

std::optional<std::vector<SystemCallFilter>> filters_of(const Tracee& task) {
  std::vector<SystemCallFilter> filters;
  while (true) {
    const uint64_t index = filters.size();
    const long size = request(kGetFilter, task, index, nullptr);  // in instructions
    if (size < 0 && errno == ENOENT) return filters;
    if (size < 0 && errno == EINVAL) return std::nullopt;
    SystemCallFilter filter;
    filter.program.resize(static_cast<size_t>(std::max(size, 0L)));
    if (size < 0 || request(kGetFilter, task, index, filter.program.data()) != size)
      throw_errno("cannot read a seccomp filter of {}", task.tid().value);
    filter.flags = flags_of(task, index);
    filters.push_back(std::move(filter));
  }
}

void suspend_filters(Tracee& task) {
  try {
    task.set_options(task.options() | PTRACE_O_SUSPEND_SECCOMP);
  } catch (const SystemError& error) {
    throw Error("cannot restore seccomp filters", error.what(),
                "it takes CAP_SYS_ADMIN outside of all user namespaces, and no filter of our own");
  }
}

bool let_pass(const std::vector<SystemCallFilter>& filters, const SystemCall& call,
              uint64_t instruction) {
  seccomp_data data{.nr = static_cast<int>(call.number),
                    .arch = AUDIT_ARCH_X86_64,
                    .instruction_pointer = instruction,
                    .args = {}};
  std::ranges::copy(call.arguments, data.args);
  return std::ranges::all_of(filters, [&](const SystemCallFilter& filter) {
    return Machine(data).run(filter.program) == SECCOMP_RET_ALLOW;
  });
}

bool asks_supervisor(const std::vector<sock_filter>& program) {
  return std::ranges::any_of(program, [](const sock_filter& step) {
    return step.code == (BPF_RET | BPF_K) &&
           (step.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
  });
}

std::optional<SystemCallDispatch> dispatch_of(const Tracee& task) {
  SystemCallDispatch dispatch;
  static_assert(sizeof dispatch == 32);  // struct ptrace_sud_config
  const bool known = request(kGetDispatch, task, sizeof dispatch, &dispatch) == 0;
  return known && dispatch.mode ? std::optional(dispatch) : std::nullopt;
}

void set_dispatch(Tracee& task, const SystemCallDispatch& dispatch) {
  SystemCallDispatch copy = dispatch;
  if (request(kSetDispatch, task, sizeof copy, &copy) != 0)
    throw_errno("cannot set the system call dispatch of {}", task.tid().value);
}

}  // namespace snapgdb
