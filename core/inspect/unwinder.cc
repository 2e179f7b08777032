#include "core/inspect/unwinder.h"

#include <elf.h>
#include <elfutils/libdwfl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/image/general_registers.h"
#include "core/image/link_map.h"

namespace snapgdb {
namespace {

// The numbers of the System V ABI, AMD64 supplement, figure 3.36.
constexpr size_t kDwarfSp = 7, kDwarfPc = 16;
using DwarfRegisters = std::array<Dwarf_Word, 17>;

DwarfRegisters dwarf_registers(const user_regs_struct& r) {
  return {r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8,
          r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rip};
}

// The memory of the process in words, read page by page: libdw asks for one word at a time.
class WordReader {
 public:
  WordReader(const Snapshot& snapshot, const pb::Process& process)
      : snapshot_(snapshot), process_(process) {}

  std::optional<uint64_t> read(uint64_t address) {
    uint64_t word = 0;
    if (address > UINT64_MAX - sizeof word) return std::nullopt;
    const auto out = std::as_writable_bytes(std::span(&word, 1));
    const size_t first = std::min<size_t>(sizeof word, kPageSize - address % kPageSize);
    const bool whole = copy(address, out.first(first)) &&
                       (first == sizeof word || copy(address + first, out.subspan(first)));
    return whole ? std::optional(word) : std::nullopt;
  }

 private:
  struct Page {
    uint64_t address = UINT64_MAX;
    bool readable = false;
    std::array<std::byte, kPageSize> bytes;
  };

  // Precondition: `out` lies within one page.
  bool copy(uint64_t address, std::span<std::byte> out) {
    const uint64_t start = page_down(address);
    Page& page = cache_[start / kPageSize % cache_.size()];
    if (page.address != start) {
      page.readable = snapshot_.read_memory(process_, start, page.bytes) == kPageSize;
      page.address = start;
    }
    if (page.readable) std::memcpy(out.data(), page.bytes.data() + (address - start), out.size());
    return page.readable;
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
  std::array<Page, 8> cache_;
};

// libdw takes the first PT_LOAD for the module's start, rounded down to its own alignment.
uint64_t start_for_libdw(const Module& module) {
  const ElfSegment& first = module.elf->segments().front();
  return module.bias + (first.address & (0 - first.alignment));
}

}  // namespace

// What libdw's callbacks see. They are called from C, so no exception may leave them.
class Unwinder::Session {
 public:
  Session(const Snapshot& snapshot, const pb::Process& process, const ModuleMap& modules);

  RawStack unwind(const pb::Thread& thread, size_t max_frames);

 private:
  static int find_elf(Dwfl_Module*, void**, const char*, Dwarf_Addr, char**, Elf**);
  static int find_debuginfo(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*,
                            GElf_Word, char**);
  static int section_address(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, GElf_Word,
                             const GElf_Shdr*, Dwarf_Addr*);
  static pid_t next_thread(Dwfl*, void*, void**);
  static bool get_thread(Dwfl*, pid_t, void*, void**);
  static bool memory_read(Dwfl*, Dwarf_Addr, Dwarf_Word*, void*);
  static bool set_initial_registers(Dwfl_Thread*, void*);
  static int on_frame(Dwfl_Frame*, void*);

  void report_modules(const ModuleMap& modules);
  void begin(const pb::Thread& thread, size_t max_frames);
  bool interrupted_in_nowhere(uint64_t sp);
  bool step_out_of_nowhere();
  bool add_frame(Dwfl_Frame* frame);
  bool stop(StackEnd end, std::string why);
  bool is_plausible_guess(const RawFrame& guess);
  // What the call frame information says of an instruction.
  struct FrameInfo {
    bool known = false;
    bool signal_frame = false;
  };
  FrameInfo frame_info(uint64_t pc);
  FrameInfo read_frame_info(uint64_t pc) const;
  bool executable(uint64_t address) const;
  std::string why_broken();
  std::string missing_file(uint64_t pc) const;
  std::string why_no_frame_info(uint64_t pc) const;

  std::vector<uint64_t> entries() const;
  bool is_at_entry(const RawFrame& frame);
  bool is_born_now(const user_regs_struct& registers);
  bool stop_without_caller();

  static const Dwfl_Callbacks kModuleCallbacks;
  static const Dwfl_Thread_Callbacks kThreadCallbacks;

  struct CloseElf {
    void operator()(Elf* elf) const { elf_end(elf); }
  };
  struct CloseDwfl {
    void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
  };

  const Snapshot& snapshot_;
  const pb::Process& process_;
  const ModuleMap& modules_;
  WordReader memory_;
  // Tells libdw the architecture of the process, whatever its modules say.
  std::string architecture_bytes_ = empty_elf(ET_CORE);
  std::unique_ptr<Elf, CloseElf> architecture_;
  std::unique_ptr<Dwfl, CloseDwfl> dwfl_;
  std::unordered_map<uint64_t, FrameInfo> frame_infos_;
  std::vector<uint64_t> entries_;

  // Of the thread being unwound.
  RawStack stack_;
  bool stopped_ = false;  // by stop(), so libdw's own reason does not count
  size_t max_frames_ = 0;
  DwarfRegisters registers_{};
  bool stepped_out_ = false;  // registers_ are those of a caller, see step_out_of_nowhere()
  bool in_nowhere_ = false;   // the walk was left to go on with registers_
  bool born_now_ = false;
  // Why the first read of memory since the last frame failed. All further reads fail as well, since
  // libdw would else try its luck with the frame pointer and invent frames.
  std::string read_failure_;
};

const Dwfl_Callbacks Unwinder::Session::kModuleCallbacks = {.find_elf = find_elf,
                                                            .find_debuginfo = find_debuginfo,
                                                            .section_address = section_address,
                                                            .debuginfo_path = nullptr};

const Dwfl_Thread_Callbacks Unwinder::Session::kThreadCallbacks = {
    .next_thread = next_thread,
    .get_thread = get_thread,
    .memory_read = memory_read,
    .set_initial_registers = set_initial_registers,
    .detach = nullptr,
    .thread_detach = nullptr};

Unwinder::Session::Session(const Snapshot& snapshot, const pb::Process& process,
                           const ModuleMap& modules)
    : snapshot_(snapshot),
      process_(process),
      modules_(modules),
      memory_(snapshot, process),
      entries_(entries()) {
  elf_version(EV_CURRENT);
  architecture_.reset(elf_memory(architecture_bytes_.data(), architecture_bytes_.size()));
  dwfl_.reset(dwfl_begin(&kModuleCallbacks));
  if (dwfl_) report_modules(modules);
  if (!dwfl_ ||
      !dwfl_attach_state(dwfl_.get(), architecture_.get(), process.pid(), &kThreadCallbacks, this))
    throw Error(fmt::format("cannot unwind process {}", process.pid()), dwfl_errmsg(-1));
}

// libdw gets every module's place now and its bytes when it asks for them, through find_elf.
void Unwinder::Session::report_modules(const ModuleMap& modules) {
  dwfl_report_begin(dwfl_.get());
  uint64_t end_of_last = 0;
  for (const Module& module : modules.all()) {
    const uint64_t start = start_for_libdw(module);
    if (start < end_of_last || start >= module.end) continue;  // libdw cannot place it
    Dwfl_Module* reported = dwfl_report_module(dwfl_.get(), module.path.c_str(), start, module.end);
    void** userdata = nullptr;
    if (!reported || !dwfl_module_info(reported, &userdata, nullptr, nullptr, nullptr, nullptr,
                                       nullptr, nullptr))
      continue;
    *userdata = const_cast<Module*>(&module);
    end_of_last = module.end;
  }
  dwfl_report_end(dwfl_.get(), nullptr, nullptr);
}

// The Elf handle then belongs to libdw; the bytes stay ours, and libelf only reads them.
int Unwinder::Session::find_elf(Dwfl_Module*, void** userdata, const char*, Dwarf_Addr, char**,
                                Elf** elf) {
  const std::string_view bytes = static_cast<const Module*>(*userdata)->elf->bytes();
  if (!bytes.empty()) *elf = elf_memory(const_cast<char*>(bytes.data()), bytes.size());
  return -1;  // no descriptor
}

// Called where a program counter has no .eh_frame. Only a descriptor can be handed over here, and
// libdw closes it. A dwz file (`main_file` unset by libdw then) holds no frame information.
int Unwinder::Session::find_debuginfo(Dwfl_Module*, void** userdata, const char*, Dwarf_Addr,
                                      const char*, const char*, GElf_Word, char**) {
  ElfFile* debug = static_cast<const Module*>(*userdata)->debug;
  if (!debug || debug->bytes().empty()) return -1;
  try {
    return memory_file("debug", debug->bytes()).release();
  } catch (const Error&) {
    return -1;
  }
}

// Only relocatable files need this, and none is let in.
int Unwinder::Session::section_address(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*,
                                       GElf_Word, const GElf_Shdr*, Dwarf_Addr*) {
  return DWARF_CB_ABORT;
}

// There is one thread at a time, that which unwind() was called for, whatever its number.
pid_t Unwinder::Session::next_thread(Dwfl*, void* session, void** thread) {
  if (*thread) return 0;
  *thread = session;
  return 1;
}

bool Unwinder::Session::get_thread(Dwfl*, pid_t, void* session, void** thread) {
  *thread = session;
  return true;
}

bool Unwinder::Session::memory_read(Dwfl*, Dwarf_Addr address, Dwarf_Word* word, void* session) {
  auto& self = *static_cast<Session*>(session);
  if (!self.read_failure_.empty()) return false;
  std::string why;
  try {
    if (const auto read = self.memory_.read(address)) {
      *word = *read;
      return true;
    }
    why = self.snapshot_.missing_reason(self.process_, address);
  } catch (const Error& error) {  // a damaged page
    why = error.what();
  }
  self.read_failure_ = fmt::format("the stack cannot be read at {:#x}: {}", address,
                                   why.empty() ? "it ends there" : why);
  return false;
}

bool Unwinder::Session::set_initial_registers(Dwfl_Thread* thread, void* session) {
  const DwarfRegisters& registers = static_cast<Session*>(session)->registers_;
  return dwfl_thread_state_registers(thread, 0, registers.size(), registers.data());
}

int Unwinder::Session::on_frame(Dwfl_Frame* frame, void* session) {
  return static_cast<Session*>(session)->add_frame(frame) ? DWARF_CB_OK : DWARF_CB_ABORT;
}

// Returns false, which ends the walk.
bool Unwinder::Session::stop(StackEnd end, std::string why) {
  stack_.end = end;
  stack_.why = std::move(why);
  stopped_ = true;
  return false;
}

bool Unwinder::Session::add_frame(Dwfl_Frame* frame) {
  auto& frames = stack_.frames;
  if (frames.size() == max_frames_)
    return stop(StackEnd::kLimit, fmt::format("there are more than {} frames", max_frames_));
  read_failure_.clear();  // dwfl_frame_pc unwinds one step ahead
  RawFrame raw;
  if (!dwfl_frame_pc(frame, &raw.pc, &raw.activation)) return false;
  if (raw.pc == 0 && !frames.empty()) return stop(StackEnd::kOutermost, "");
  if (dwfl_frame_reg(frame, kDwarfSp, &raw.sp) != 0) raw.sp = 0;
  if (std::exchange(stepped_out_, false)) {
    raw.activation = false;
    ++raw.pc;
  } else if (!frames.empty() && !frame_info(frames.back().lookup_pc()).known) {
    raw.guessed = true;
    if (!is_plausible_guess(raw)) return stop_without_caller();
  }
  raw.signal_frame = frame_info(raw.pc).signal_frame;
  raw.activation |= raw.signal_frame;  // which libdw says only if it can unwind it
  if (!frames.empty() && frames.back().pc == raw.pc && frames.back().sp == raw.sp)
    return stop(StackEnd::kBroken, "the next frame is the same again (a damaged stack?)");
  frames.push_back(raw);
  if (born_now_) return stop(StackEnd::kOutermost, "");
  return !raw.signal_frame || !interrupted_in_nowhere(raw.sp);
}

// Code that was compiled without frame pointers yields anything at all. So nothing is guessed about
// a file that would tell, were it in the image.
bool Unwinder::Session::is_plausible_guess(const RawFrame& guess) {
  return missing_file(stack_.frames.back().lookup_pc()).empty() && executable(guess.lookup_pc());
}

Unwinder::Session::FrameInfo Unwinder::Session::frame_info(uint64_t pc) {
  const auto [known, is_new] = frame_infos_.try_emplace(pc);
  if (is_new) known->second = read_frame_info(pc);
  return known->second;
}

Unwinder::Session::FrameInfo Unwinder::Session::read_frame_info(uint64_t pc) const {
  Dwfl_Module* module = dwfl_addrmodule(dwfl_.get(), pc);
  if (!module) return {};
  for (const auto section : {dwfl_module_eh_cfi, dwfl_module_dwarf_cfi}) {
    Dwarf_Addr bias = 0;
    Dwarf_CFI* cfi = section(module, &bias);
    Dwarf_Frame* frame = nullptr;
    if (!cfi || dwarf_cfi_addrframe(cfi, pc - bias, &frame) != 0) continue;
    FrameInfo info{.known = true};
    dwarf_frame_info(frame, nullptr, nullptr, &info.signal_frame);
    free(frame);
    return info;
  }
  return {};
}

bool Unwinder::Session::executable(uint64_t address) const {
  const pb::Vma* vma = snapshot_.mapping(process_, address);
  return vma && (vma->protection() & PROT_EXEC);
}

// Whether the signal whose frame is at `sp` came where no code is: libdw would take a program
// counter of 0 for the end of the stack. Then registers_ are those that the kernel saved in the
// frame.
bool Unwinder::Session::interrupted_in_nowhere(uint64_t sp) {
  constexpr std::array<int, 17> kInDwarfOrder = {
      REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
      REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
  const uint64_t saved = sp + offsetof(ucontext_t, uc_mcontext.gregs);
  DwarfRegisters registers;
  for (size_t i = 0; i < registers.size(); ++i)
    if (!memory_read(nullptr, saved + kInDwarfOrder[i] * sizeof(greg_t), &registers[i], this))
      return false;
  if (executable(registers[kDwarfPc])) return false;
  registers_ = registers;
  return in_nowhere_ = true;
}

// A call through a null or wild pointer leaves a program counter where no code is. The call has
// just pushed its return address, and nothing was done to the stack since. False: it cannot be
// read.
bool Unwinder::Session::step_out_of_nowhere() {
  Dwarf_Word caller = 0;
  stack_.frames.push_back({registers_[kDwarfPc], registers_[kDwarfSp], true, false, false});
  if (!memory_read(nullptr, registers_[kDwarfSp], &caller, this) || !executable(caller))
    return false;
  registers_[kDwarfPc] = caller - 1;  // within the call, since libdw takes it for an activation
  registers_[kDwarfSp] += sizeof caller;
  return stepped_out_ = true;
}

void Unwinder::Session::begin(const pb::Thread& thread, size_t max_frames) {
  stack_ = {};
  stopped_ = false;
  read_failure_.clear();
  stepped_out_ = false;
  max_frames_ = max_frames;
  const user_regs_struct registers = general_registers(thread);
  registers_ = dwarf_registers(registers);
  in_nowhere_ = !executable(registers_[kDwarfPc]);
  born_now_ = thread.tid() != process_.pid() && is_born_now(registers);
}

RawStack Unwinder::Session::unwind(const pb::Thread& thread, size_t max_frames) {
  if (thread.registers().empty()) {
    stack_ = {.end = StackEnd::kNone, .why = "it has no registers"};
    return std::move(stack_);
  }
  begin(thread, max_frames);
  bool whole = false;
  do {
    read_failure_.clear();
    if (std::exchange(in_nowhere_, false) && !step_out_of_nowhere()) break;
    const int result = dwfl_getthread_frames(dwfl_.get(), 1, on_frame, this);
    // libdw takes a return address that it cannot read for the end of the stack.
    whole = result == 0 && read_failure_.empty();
  } while (in_nowhere_ && !stopped_);
  if (!whole && !stopped_) stop_without_caller();
  return std::move(stack_);
}

// Where the kernel lets a program begin: in the dynamic linker, if it has one, and then in its own.
std::vector<uint64_t> Unwinder::Session::entries() const {
  std::vector<uint64_t> found;
  if (const uint64_t entry = auxiliary_value(process_.auxv(), AT_ENTRY)) found.push_back(entry);
  if (const Module* linker = modules_.find(auxiliary_value(process_.auxv(), AT_BASE)))
    found.push_back(linker->bias + linker->elf->entry());
  return found;
}

// The few instructions there are assembler's, which has no need to tell that nobody called it:
// those of glibc's dynamic linker (_start, _dl_start_user; sysdeps/x86_64/dl-machine.h) take 80
// bytes.
bool Unwinder::Session::is_at_entry(const RawFrame& frame) {
  constexpr uint64_t kEntryCode = 128;
  const uint64_t pc = frame.lookup_pc();
  return !frame_info(pc).known &&
         std::ranges::any_of(entries_, [&](uint64_t entry) { return pc - entry < kEntryCode; });
}

// Whether a thread is where clone(2) returns to it, on a stack of its own with nothing on it. What
// the call frame information there tells is the stack of the thread that made it.
bool Unwinder::Session::is_born_now(const user_regs_struct& r) {
  constexpr uint16_t kSyscall = 0x050f;
  if (r.rax != 0 || (r.orig_rax != SYS_clone && r.orig_rax != SYS_clone3)) return false;
  Dwarf_Word before = 0;
  return memory_read(nullptr, r.rip - sizeof kSyscall, &before, this) &&
         static_cast<uint16_t>(before) == kSyscall;
}

bool Unwinder::Session::stop_without_caller() {
  if (!stack_.frames.empty() && is_at_entry(stack_.frames.back()))
    return stop(StackEnd::kOutermost, "");
  return stop(StackEnd::kBroken, why_broken());
}

// Why there is no caller of the last frame, from what helps most to what libdw says itself.
std::string Unwinder::Session::why_broken() {
  const char* known = dwfl_errmsg(-1);  // of damaged files, libdw knows some errors without a text
  const std::string message = known ? known : "the call frame information is damaged";
  if (stack_.frames.empty()) return message;
  const uint64_t pc = stack_.frames.back().lookup_pc();
  const std::string why = missing_file(pc);
  if (!frame_info(pc).known) return why.empty() ? why_no_frame_info(pc) : why;
  if (!read_failure_.empty()) return read_failure_;
  return why.empty() ? message : why;
}

// Why the file that holds the code at `pc` cannot be used, or not all of it; "" if it can, or if
// there is none.
std::string Unwinder::Session::missing_file(uint64_t pc) const {
  if (const Module* module = modules_.find(pc)) return module->elf->problem();
  const pb::Vma* vma = snapshot_.mapping(process_, pc);
  const pb::FileRecord* file = vma ? snapshot_.file(vma->file()) : nullptr;
  if (!file) return "";
  const std::string path = printable(file->path());
  return file->embedded()
             ? fmt::format("{} is no usable ELF file", path)
             : fmt::format("{} is not in the image: {}", path, printable(file->why_not_embedded()));
}

std::string Unwinder::Session::why_no_frame_info(uint64_t pc) const {
  if (const Module* module = modules_.find(pc))
    return fmt::format("{} does not tell who called {:#x}", printable(module->path), pc);
  if (!snapshot_.mapping(process_, pc)) return fmt::format("{:#x} is not mapped", pc);
  return fmt::format("{:#x} lies in no file, so nothing tells who called it", pc);
}

Unwinder::Unwinder(const Snapshot& snapshot, const pb::Process& process, const ModuleMap& modules)
    : session_(std::make_unique<Session>(snapshot, process, modules)) {}

Unwinder::~Unwinder() = default;

RawStack Unwinder::unwind(const pb::Thread& thread, size_t max_frames) {
  return session_->unwind(thread, max_frames);
}

}  // namespace snapgdb
