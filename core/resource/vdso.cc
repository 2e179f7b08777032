#include "core/resource/vdso.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "core/base/error.h"
#include "core/image/general_registers.h"
#include "core/linux/procfs.h"
#include "core/resource/aio.h"
#include "core/resource/io_uring.h"

namespace snapgdb {
namespace {

// What the functions of vdso(7) are as system calls. One that is not among them leads nowhere: it
// is left as it was.
struct VdsoFunction {
  std::string_view name;
  uint32_t number;
  // getrandom's opaque state belongs to one kernel's code: it always becomes the system call.
  bool always_call = false;
};
constexpr VdsoFunction kFunctions[] = {
    {"__vdso_clock_gettime", SYS_clock_gettime},
    {"__vdso_gettimeofday", SYS_gettimeofday},
    {"__vdso_clock_getres", SYS_clock_getres},
    {"__vdso_time", SYS_time},
    {"__vdso_getcpu", SYS_getcpu},
    {"__vdso_getrandom", SYS_getrandom, true},
};

// Where a function is in the object: its offset, and how much room it has.
struct Place {
  uint64_t offset = 0, size = 0;
};

class VdsoObject {
 public:
  explicit VdsoObject(std::span<const std::byte> bytes)
      : bytes_(bytes.begin(), bytes.end()),
        elf_((::elf_version(EV_CURRENT),
              ::elf_memory(reinterpret_cast<char*>(bytes_.data()), bytes_.size())),
             ::elf_end) {
    for (Elf_Scn* section = nullptr; elf_ && (section = ::elf_nextscn(elf_.get(), section));) {
      GElf_Shdr header{};
      if (::gelf_getshdr(section, &header) && header.sh_type == SHT_DYNSYM && header.sh_entsize)
        symbols_ = ::elf_getdata(section, nullptr), header_ = header;
    }
    if (!symbols_) throw Error("cannot read the vDSO of the snapshot", "it has no symbols");
  }

  // The object is linked at 0: addresses are offsets.
  std::optional<Place> find(std::string_view name) const {
    for (int i = 0; i < static_cast<int>(header_.sh_size / header_.sh_entsize); ++i) {
      GElf_Sym symbol{};
      if (!::gelf_getsym(symbols_, i, &symbol) || GELF_ST_TYPE(symbol.st_info) != STT_FUNC)
        continue;
      const char* own = ::elf_strptr(elf_.get(), header_.sh_link, symbol.st_name);
      if (own && name == own && symbol.st_value + symbol.st_size <= bytes_.size())
        return Place{symbol.st_value, symbol.st_size};
    }
    return std::nullopt;
  }

 private:
  std::vector<std::byte> bytes_;
  std::unique_ptr<Elf, int (*)(Elf*)> elf_;
  Elf_Data* symbols_ = nullptr;
  GElf_Shdr header_{};
};

// movabs $target, %rax; jmp *%rax: the functions' arguments are in other registers.
constexpr size_t kJumpSize = 12;
void write_jump(std::byte* at, uint64_t target) {
  constexpr unsigned char kCode[kJumpSize] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};
  std::memcpy(at, kCode, sizeof kCode);
  std::memcpy(at + 2, &target, sizeof target);
}

// mov $number, %eax; syscall; ret: up to three arguments, which C and the kernel pass alike.
void write_call(std::byte* at, uint32_t number) {
  constexpr unsigned char kCode[] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};
  static_assert(sizeof kCode <= kJumpSize);
  std::memcpy(at, kCode, sizeof kCode);
  std::memcpy(at + 1, &number, sizeof number);
}

const Seed::KernelPart* own_part(std::string_view name) {
  const auto& parts = Seed::kernel_parts();
  const auto part = std::ranges::find(parts, name, &Seed::KernelPart::name);
  return part == parts.end() ? nullptr : &*part;
}

// All in this process, in the order and distances in which they must be.
uint64_t offset_of(const Seed::KernelPart& part) {
  return part.start - Seed::kernel_parts().front().start;
}

const Seed::KernelPart* own_vdso() {
  return own_part("[vdso]");
}

std::span<const std::byte> bytes_of(const Seed::KernelPart& part) {
  return {reinterpret_cast<const std::byte*>(part.start), part.size};
}

std::vector<std::byte> content_then(const Snapshot& snapshot, const pb::Process& process,
                                    const pb::Vma& vma) {
  std::vector<std::byte> bytes(vma.end() - vma.start());
  bytes.resize(snapshot.read_memory(process, vma.start(), bytes));
  return bytes;
}

bool is_same(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma) {
  const Seed::KernelPart* part = own_part(vma.name());
  if (!part || part->size != vma.end() - vma.start()) return false;
  return vma.name() != "[vdso]" ||
         std::ranges::equal(content_then(snapshot, process, vma), bytes_of(*part));
}

uint64_t program_counter(const pb::Thread& thread) {
  return general_registers(thread).rip;
}

// Its other code would go on in the midst of a function, with data that is not there any more.
void check_foreign_vdso(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma,
                        RestorePlan& plan) {
  const auto object = [&](std::string why, std::string help) {
    plan.obstacles.push_back({process.pid(), "[vdso]",
                              "this kernel's is another one than that of the snapshot (" +
                                  snapshot.record().host().os_release() + "), and " +
                                  std::move(why),
                              std::move(help)});
  };
  for (const pb::Thread& thread : process.threads())
    if (const uint64_t pc = program_counter(thread); vma.start() <= pc && pc < vma.end())
      object(fmt::format("thread {} is in it", thread.tid()),
             "capture it again, or restore it on a machine with that kernel");
  if (const auto then = content_then(snapshot, process, vma); then.size() < vma.end() - vma.start())
    object("its content is not in the image", "restore it on a machine with that kernel");
  if (!own_vdso()) object("there is none here", "start this kernel without vdso=0");
}

}  // namespace

bool is_kernel_part(const pb::Vma& vma) {
  return vma.name().starts_with("[v") || is_aio_ring(vma) || is_io_uring(vma);
}

void plan_kernel_parts(const Snapshot& snapshot, RestorePlan& plan) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (is_kernel_part(vma) && vma.name() != "[vsyscall]" && !is_aio_ring(vma) &&
          !is_io_uring(vma) && !is_same(snapshot, process, vma))
        plan.kernel_parts_at = plan.seed_base + Seed::kSize;
  if (!plan.kernel_parts_at) return;
  plan.notes.emplace_back("the vDSO is that of another kernel: its functions lead to this one's");
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (vma.name() == "[vdso]") check_foreign_vdso(snapshot, process, vma, plan);
}

namespace {

// Where the kernel's parts are in a restored process.
struct Placed {
  const Seed::KernelPart& part;
  uint64_t address;
};
std::vector<Placed> placed_in(const pb::Process& process, const RestorePlan& plan) {
  std::vector<Placed> placed;
  for (const pb::Vma& vma : process.mappings())
    if (const auto* part = own_part(vma.name()); part && !plan.kernel_parts_at)
      placed.push_back({*part, vma.start()});
    else if (vma.name() == "[vdso]")
      for (const Seed::KernelPart& own : Seed::kernel_parts())
        placed.push_back({own, plan.kernel_parts_at + offset_of(own)});
  return placed;
}

void add_move(const Seed::KernelPart& part, uint64_t from, uint64_t to, Seed& seed) {
  seed.add("move " + part.name, SYS_mremap,
           {from, part.size, part.size, MREMAP_MAYMOVE | MREMAP_FIXED, to});
}

}  // namespace

void park_kernel_parts(const pb::Process& parent, const RestorePlan& plan, Seed& seed) {
  for (const auto& [part, address] : placed_in(parent, plan))
    add_move(part, address, seed.base() + part.parked, seed);
}

void add_kernel_parts(const pb::Process& process, const RestorePlan& plan, Seed& seed) {
  for (const auto& [part, address] : placed_in(process, plan))
    add_move(part, seed.base() + part.parked, address, seed);
  if (!plan.kernel_parts_at) return;
  for (const pb::Vma& vma : process.mappings())
    if (vma.name() == "[vdso]")
      seed.add("map the vDSO of the snapshot", SYS_mmap,
               {vma.start(), vma.end() - vma.start(), PROT_READ | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0});
}

void redirect_vdso(const Snapshot& snapshot, const pb::Process& process, const RestorePlan& plan,
                   const Seed& seed) {
  if (!plan.kernel_parts_at) return;
  const Fd memory = ProcDirectory::of(Pid{seed.tid().value}).open("mem", O_RDWR);
  if (!memory.valid()) throw_errno("cannot open the memory of {}", seed.tid().value);
  for (const pb::Vma& vma : process.mappings())
    if (vma.name() == "[vdso]")
      pwrite_all(memory.get(),
                 redirected(content_then(snapshot, process, vma), bytes_of(*own_vdso()),
                            plan.kernel_parts_at + offset_of(*own_vdso())),
                 vma.start(), "the vDSO");
}

std::vector<std::byte> redirected(std::span<const std::byte> then, std::span<const std::byte> now,
                                  uint64_t now_at) {
  const VdsoObject from(then), to(now);
  std::vector<std::byte> bytes(then.begin(), then.end());
  for (const auto& [name, number, always_call] : kFunctions) {
    const auto place = from.find(name);
    if (!place) continue;
    if (place->size < kJumpSize)
      throw Error("cannot redirect the vDSO of the snapshot",
                  fmt::format("{} has {} bytes only", name, place->size));
    if (const auto target = to.find(name); target && !always_call)
      write_jump(bytes.data() + place->offset, now_at + target->offset);
    else
      write_call(bytes.data() + place->offset, number);
  }
  return bytes;
}

}  // namespace snapgdb
