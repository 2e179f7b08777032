// What elfutils makes of a core of a position-independent program: this one.
#include <elfutils/libdwfl.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "core/image/snapshot_builder.h"
#include "elfconv/core_file.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

extern "C" void snapgdb_test_landmark();
void snapgdb_test_landmark() {}

namespace {

constexpr uint64_t kBase = 0x555500000000;

std::span<const ElfW(Phdr)> own_headers() {
  return {reinterpret_cast<const ElfW(Phdr)*>(::getauxval(AT_PHDR)), ::getauxval(AT_PHNUM)};
}

uint64_t own_base() {
  for (const auto& header : own_headers())
    if (header.p_type == PT_PHDR) return ::getauxval(AT_PHDR) - header.p_vaddr;
  return 0;
}

std::string own_path() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

std::string own_bytes() {
  std::ifstream file(own_path(), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint32_t protection_of(const ElfW(Phdr) & header) {
  return (header.p_flags & PF_R ? PROT_READ : 0u) | (header.p_flags & PF_W ? PROT_WRITE : 0u) |
         (header.p_flags & PF_X ? PROT_EXEC : 0u);
}

// This program as if it had just been loaded at kBase, with two threads in the landmark.
std::shared_ptr<const Snapshot> snapshot_of_this_program() {
  SnapshotBuilder builder;
  const uint32_t file = builder.file(own_path(), own_bytes(), pb::FILE_EXECUTABLE);
  auto& process = builder.process(10);
  const uint64_t landmark = reinterpret_cast<uint64_t>(&snapgdb_test_landmark) - own_base() + kBase;
  process.thread(10, landmark).thread(11, landmark);
  for (const auto& header : own_headers())
    if (header.p_type == PT_LOAD)
      process.mapped_file(kBase + page_down(header.p_vaddr),
                          page_up(header.p_vaddr + header.p_filesz) - page_down(header.p_vaddr),
                          file, page_down(header.p_offset), protection_of(header));
  const Elf64_auxv_t auxv[] = {
      {AT_PHDR, {::getauxval(AT_PHDR) - own_base() + kBase}},
      {AT_PHENT, {sizeof(ElfW(Phdr))}},
      {AT_PHNUM, {::getauxval(AT_PHNUM)}},
      {AT_PAGESZ, {kPageSize}},
      {AT_ENTRY, {::getauxval(AT_ENTRY) - own_base() + kBase}},
      {AT_NULL, {0}},
  };
  process.record().set_auxv(auxv, sizeof auxv);
  return builder.build();
}

}  // namespace

TEST_CASE("libdw finds the symbols of a position-independent program, and all threads") {
  const TemporaryDirectory directory;
  const auto snapshot = snapshot_of_this_program();
  write_core(*snapshot, snapshot->root(), directory / "core");

  elf_version(EV_CURRENT);
  const Fd fd(::open((directory / "core").c_str(), O_RDONLY));
  const std::unique_ptr<Elf, int (*)(Elf*)> elf(elf_begin(fd.get(), ELF_C_READ, nullptr), elf_end);
  static char* no_debug_path = nullptr;
  static const Dwfl_Callbacks callbacks{.find_elf = dwfl_build_id_find_elf,
                                        .find_debuginfo = dwfl_standard_find_debuginfo,
                                        .section_address = nullptr,
                                        .debuginfo_path = &no_debug_path};
  const std::unique_ptr<Dwfl, void (*)(Dwfl*)> dwfl(dwfl_begin(&callbacks), dwfl_end);
  REQUIRE(dwfl_core_file_report(dwfl.get(), elf.get(), nullptr) >= 1);
  REQUIRE(dwfl_report_end(dwfl.get(), nullptr, nullptr) == 0);
  CHECK(dwfl_core_file_attach(dwfl.get(), elf.get()) == 10);

  std::vector<pid_t> tids;
  dwfl_getthreads(
      dwfl.get(),
      [](Dwfl_Thread* thread, void* out) -> int {
        static_cast<std::vector<pid_t>*>(out)->push_back(dwfl_thread_tid(thread));
        return DWARF_CB_OK;
      },
      &tids);
  CHECK(tids == std::vector<pid_t>{10, 11});

  const uint64_t rip = CoreView(directory / "core").threads().at(0).pr_reg[16];
  Dwfl_Module* module = dwfl_addrmodule(dwfl.get(), rip);
  REQUIRE(module);
  CHECK(std::string(dwfl_module_addrname(module, rip)) == "snapgdb_test_landmark");
}
