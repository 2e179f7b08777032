#include "core/linux/seed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/base/error.h"
#include "core/linux/remote_memory.h"

namespace snapgdb {
namespace {

// rbx: the next call (struct Call), r12: how many there are. Stops at the first that fails.
constexpr unsigned char kCode[] = {
    0x48, 0x8b, 0x03,                    // next: mov (%rbx), %rax
    0x48, 0x8b, 0x7b, 0x08,              //       mov 8(%rbx), %rdi
    0x48, 0x8b, 0x73, 0x10,              //       mov 16(%rbx), %rsi
    0x48, 0x8b, 0x53, 0x18,              //       mov 24(%rbx), %rdx
    0x4c, 0x8b, 0x53, 0x20,              //       mov 32(%rbx), %r10
    0x4c, 0x8b, 0x43, 0x28,              //       mov 40(%rbx), %r8
    0x4c, 0x8b, 0x4b, 0x30,              //       mov 48(%rbx), %r9
    0x0f, 0x05,                          //       syscall
    0x48, 0x89, 0x43, 0x38,              //       mov %rax, 56(%rbx)
    0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff,  //       cmp $-4096, %rax
    0x77, 0x09,                          //       ja end
    0x48, 0x83, 0xc3, 0x40,              //       add $64, %rbx
    0x49, 0xff, 0xcc,                    //       dec %r12
    0x75, 0xce,                          //       jnz next
    0xcc,                                // end:  int3
};
static_assert(sizeof kCode == 51);

constexpr unsigned char kTileCode[] = {
    0xc4, 0xe2, 0x78, 0x49, 0x07,  // ldtilecfg (%rdi)
    0xc4, 0xe2, 0x7b, 0x49, 0xc0,  // tilezero %tmm0
    0xcc,                          // int3
};
constexpr uint64_t kTileCodeAt = 64;

constexpr uint64_t kSyscallAt = 27;  // of the instruction, in kCode
constexpr std::chrono::minutes kPatience{10};

user_regs_struct fresh_registers() {
  user_regs_struct registers{};
  registers.cs = kCodeSegment;
  registers.ss = 0x2b;  // __USER_DS
  registers.eflags = 0x202;
  registers.orig_rax = ~uint64_t{0};
  return registers;
}

}  // namespace

void Seed::plant(uint64_t base) {
  void* const wanted = reinterpret_cast<void*>(base);
  if (::mmap(wanted, kSize, PROT_READ | PROT_WRITE | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != wanted)
    throw_errno("cannot map {} at {:#x}", static_cast<uint64_t>(kSize), base);
  std::memcpy(wanted, kCode, sizeof kCode);
  std::memcpy(static_cast<std::byte*>(wanted) + kTileCodeAt, kTileCode, sizeof kTileCode);
}

const std::vector<Seed::KernelPart>& Seed::kernel_parts() {
  static const auto kParts = [] {
    std::vector<KernelPart> parts;
    uint64_t parked = kParkingAt;
    for (const auto& mapping : parse_mappings(ProcDirectory::of(Pid{::getpid()}).read("maps")))
      if (mapping.name.starts_with("[v") && mapping.name != "[vsyscall]") {
        parts.push_back({mapping.name, mapping.start, mapping.end - mapping.start, parked});
        parked += mapping.end - mapping.start;
      }
    return parts;
  }();
  return kParts;
}

void Seed::park_and_wait(uint64_t base, int done, Pid parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent.value) ::_exit(1);
  for (int signal = 1; signal <= 64; ++signal) ::signal(signal, SIG_DFL);
  for (const KernelPart& part : kernel_parts())
    if (part.parked + part.size > kSize ||
        ::mremap(reinterpret_cast<void*>(part.start), part.size, part.size,
                 MREMAP_MAYMOVE | MREMAP_FIXED,
                 reinterpret_cast<void*>(base + part.parked)) == MAP_FAILED)
      ::_exit(1);
  if (::write(done, "", 1) != 1) ::_exit(1);
  while (true) ::pause();
}

void Seed::push(Purpose purpose, long number, const SystemCallArguments& arguments) {
  Call call{.number = static_cast<uint64_t>(number), .arguments = {}, .result = 0};
  std::ranges::copy(arguments, call.arguments);
  calls_.push_back(call);
  purposes_.push_back(std::move(purpose));
}

void Seed::enqueue(Purpose purpose, long number, const SystemCallArguments& arguments) {
  push(std::move(purpose), number, arguments);
  if ((calls_.size() + 1) * sizeof(Call) > kListSize || data_.size() + kMaxPut > kDataSize)
    work_off();
}

void Seed::add(std::string what, long number, const SystemCallArguments& arguments) {
  enqueue({std::move(what)}, number, arguments);
}

void Seed::add_if_allowed(std::string what, long number, const SystemCallArguments& arguments) {
  enqueue({std::move(what), true}, number, arguments);
}

void Seed::clear_list() {
  calls_.clear(), purposes_.clear(), data_.clear();
}

uint64_t Seed::put(std::span<const std::byte> bytes) {
  data_.resize((data_.size() + 15) & ~size_t{15});
  const uint64_t address = base_ + kDataAt + data_.size();
  data_.insert(data_.end(), bytes.begin(), bytes.end());
  return address;
}

uint64_t Seed::put(std::string_view text) {
  const std::string terminated(text);
  return put(std::as_bytes(std::span(terminated.c_str(), terminated.size() + 1)));
}

void Seed::start() {
  if (!calls_.empty()) write_remote(tid(), base_ + kListAt, std::as_bytes(std::span(calls_)));
  if (!data_.empty()) write_remote(tid(), base_ + kDataAt, data_);
  run_from(0);
}

void Seed::run_from(size_t index) {
  user_regs_struct registers = fresh_registers();
  registers.rip = base_;
  registers.rbx = base_ + kListAt + index * sizeof(Call);
  registers.r12 = calls_.size() - index;
  const user_regs_struct own = task_.registers();
  registers.fs_base = own.fs_base, registers.gs_base = own.gs_base;
  task_.set_registers(registers);
}

// To the next stop that is not a signal of others, or a stop of theirs: those are none of a seed's
// business.
void Seed::go_on(const std::string& what) {
  while (true) {
    task_.resume_if_alive(0);
    if (!task_.wait_stop(kPatience))
      fail(what, task_.status().gone() ? "the task was killed" : "it takes too long");
    const WaitStatus status = task_.status();
    if (status.signal_delivery() && status.signal() == SIGSEGV) fail(what, "the task crashed");
    const bool is_event = status.event() != 0 && status.event() != PTRACE_EVENT_STOP;
    if (is_event || (status.signal_delivery() && status.signal() == SIGTRAP)) return;
  }
}

Seed::Call Seed::read_call(size_t index) const {
  Call call{};
  read_remote(tid(), base_ + kListAt + index * sizeof call,
              std::as_writable_bytes(std::span(&call, 1)));
  return call;
}

void Seed::work_off() {
  if (calls_.empty()) return;
  start();
  const auto done = [&] { return calls_.size() - task_.registers().r12; };
  go_on(purposes_.front().what);
  for (size_t at = done(); at < calls_.size(); at = done()) {
    const auto [what, may_fail] = purposes_[at];
    const auto error = static_cast<int>(-read_call(at).result);
    if (!may_fail) {
      clear_list();
      throw SystemError("cannot " + what, error);
    }
    failures_.push_back("cannot " + what + ": " + errno_text(error));
    if (at + 1 == calls_.size()) break;
    run_from(at + 1);
    go_on(what);
  }
  clear_list();
}

std::vector<std::string> Seed::perform() {
  work_off();
  return std::exchange(failures_, {});
}

int64_t Seed::call(std::string what, long number, const SystemCallArguments& arguments) {
  const size_t index = calls_.size();
  push({std::move(what)}, number, arguments);
  work_off();
  return read_call(index).result;
}

int64_t Seed::try_call(long number, const SystemCallArguments& arguments) {
  try {
    return call("", number, arguments);
  } catch (const SystemError& error) {
    return -error.error_number();
  }
}

Seed Seed::clone(const std::string& what, uint64_t flags, int exit_signal,
                 std::span<const int32_t> numbers) {
  work_off();
  CloneArguments arguments{.flags = flags, .exit_signal = static_cast<uint64_t>(exit_signal)};
  if (!numbers.empty())
    arguments.set_tid = put(std::as_bytes(numbers)), arguments.set_tid_size = numbers.size();
  push({what}, SYS_clone3, {put_value(arguments), sizeof arguments});
  start();
  clear_list();
  go_on(what);
  if (task_.status().event() == 0)
    throw SystemError("cannot " + what, static_cast<int>(-read_call(0).result));
  Tracee child = Tracee::adopt(Tid{static_cast<pid_t>(task_.event_message())}, kOptions);
  go_on(what);
  if (!child.wait_stop(kPatience)) fail(what, "the new task was killed");
  return Seed(std::move(child), base_);
}

void Seed::receive(const std::string& what, int from, int number) {
  work_off();
  struct alignas(8) {
    std::byte control[CMSG_SPACE(sizeof(int))] = {};
    std::byte data[8] = {};
  } buffers;
  const uint64_t at = put_value(buffers);
  iovec data{reinterpret_cast<void*>(at + offsetof(decltype(buffers), data)), 1};
  msghdr message{};
  message.msg_iov = reinterpret_cast<iovec*>(put_value(data)), message.msg_iovlen = 1;
  message.msg_control = reinterpret_cast<void*>(at);
  message.msg_controllen = sizeof buffers.control;
  call(what, SYS_recvmsg,
       {static_cast<uint64_t>(from), put_value(message), MSG_CMSG_CLOEXEC | MSG_DONTWAIT});
  cmsghdr header{};
  int received = -1;
  read_remote(tid(), at, std::as_writable_bytes(std::span(&header, 1)));
  if (header.cmsg_type != SCM_RIGHTS || header.cmsg_len != CMSG_LEN(sizeof received))
    fail(what, "it did not arrive");
  read_remote(tid(), at + CMSG_LEN(0), std::as_writable_bytes(std::span(&received, 1)));
  add(what, SYS_dup3,
      {static_cast<uint64_t>(received), static_cast<uint64_t>(number), uint64_t{O_CLOEXEC}});
  add(what, SYS_close, {static_cast<uint64_t>(received)});
  perform();
}

void Seed::touch_tiles() {
  work_off();
  struct {  // Intel SDM vol. 1, 18.3: one tile of one row of four bytes
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {4};
    uint8_t rows[16] = {1};
  } configuration;
  static_assert(sizeof configuration == 64);
  const uint64_t at = put_value(configuration);
  start();
  data_.clear();
  user_regs_struct registers = task_.registers();
  registers.rip = base_ + kTileCodeAt;
  registers.rdi = at;
  task_.set_registers(registers);
  go_on("use AMX");
}

void Seed::end(int status) {
  work_off();
  const auto number = static_cast<uint64_t>(WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  if (number) push({"leave no core"}, SYS_prctl, {PR_SET_DUMPABLE, 0});
  if (number)  // by itself, so that it is the default action that ends it
    push({"send itself a signal"}, SYS_tkill,
         {static_cast<uint64_t>(try_call(SYS_gettid)), number});
  else
    push({"exit"}, SYS_exit_group, {static_cast<uint64_t>(WEXITSTATUS(status))});
  start();
  for (int signal = 0; !task_.status().gone(); signal = task_.signal_on_its_way()) {
    task_.resume_if_alive(signal == static_cast<int>(number) ? signal : 0);
    if (!task_.wait_stop(kPatience) && !task_.status().gone()) fail("end", "it takes too long");
  }
}

void Seed::end_alone(int status) {
  perform();
  task_.set_signal_mask(~uint64_t{0});
  user_regs_struct registers = fresh_registers();
  registers.rip = base_ + kSyscallAt;
  registers.rax = SYS_exit;
  registers.rdi = static_cast<uint64_t>(WEXITSTATUS(status));
  task_.set_registers(registers);
  const ProcDirectory proc = ProcDirectory::of(Pid{tid().value});
  if (!task_.detach_if_alive(0)) fail("end a thread", "it was killed");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  // Another thread than the first leaves nothing.
  for (auto now = proc.stat_if_alive(); now && now->state != 'Z'; now = proc.stat_if_alive()) {
    if (std::chrono::steady_clock::now() > deadline) fail("end a thread", "it takes too long");
    ::usleep(50);
  }
}

void Seed::call_silently(const std::string& what, long number,
                         const SystemCallArguments& arguments) {
  work_off();
  if (!data_.empty()) write_remote(tid(), base_ + kDataAt, std::exchange(data_, {}));
  user_regs_struct registers = fresh_registers();
  registers.rip = base_ + kSyscallAt;
  registers.rax = static_cast<uint64_t>(number);
  registers.rdi = arguments[0], registers.rsi = arguments[1], registers.rdx = arguments[2];
  registers.r10 = arguments[3], registers.r8 = arguments[4], registers.r9 = arguments[5];
  const user_regs_struct own = task_.registers();
  registers.fs_base = own.fs_base, registers.gs_base = own.gs_base;
  task_.set_registers(registers);
  for (int stops = 0; stops < 2;) {
    task_.resume_if_alive(0, Tracee::Until::kNextSystemCall);
    if (!task_.wait_stop(kPatience)) fail(what, "the task was killed");
    stops += task_.status().system_call();
  }
  if (const auto result = static_cast<int64_t>(task_.registers().rax); result < 0)
    throw SystemError("cannot " + what, static_cast<int>(-result));
}

// In the stop behind the call the task is in the kernel still; it never comes back to the memory
// that is gone.
void Seed::unplant() {
  call_silently("unmap what restored the process", SYS_munmap, {base_, kSize});
}

void Seed::fail(const std::string& what, std::string why) const {
  throw Error(fmt::format("cannot {}", what), fmt::format("{} (task {})", why, tid().value));
}

}  // namespace snapgdb
