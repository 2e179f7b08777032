#include "core/inspect/symbolizer.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <random>
#include <sstream>

#include "core/inspect/backtrace.h"
#include "core/inspect/llvm_elf.h"
#include "core/inspect/symbol_table.h"
#include "tests/unit/inspect/self_snapshot.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace symbolizer_test {

// Known to the linker under a name, with a size.
[[gnu::noinline, gnu::used]] int plain(int x) {
  asm volatile("");
  return x + 1;
}

}  // namespace symbolizer_test

namespace {

const std::string& own_file() {
  static const std::string kBytes = [] {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    std::ostringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
  }();
  return kBytes;
}

uint64_t bias_of_self(const Module*& self, Backtracer& tracer, const Snapshot& snapshot) {
  self = tracer.modules(snapshot.root()).find(reinterpret_cast<uint64_t>(&symbolizer_test::plain));
  return self ? self->bias : 0;
}

}  // namespace

TEST_CASE("a symbol is found by any address of its code, and by none outside it") {
  const auto snapshot = snapshot_of_self();
  Backtracer tracer(snapshot);
  const Module* self = nullptr;
  const uint64_t bias = bias_of_self(self, tracer, *snapshot);
  REQUIRE(self);
  const uint64_t address = reinterpret_cast<uint64_t>(&symbolizer_test::plain) - bias;

  SymbolTable table;
  table.add(own_file());
  table.sort();
  const Symbol* symbol = table.find(address + 2);
  REQUIRE(symbol);
  CHECK(symbol->name == "_ZN15symbolizer_test5plainEi");
  CHECK(symbol->start == address);
  const Symbol* next = table.find(symbol->end);
  CHECK((!next || next->start != address));
  CHECK(table.find(0) == nullptr);
  CHECK(table.find(UINT64_MAX) == nullptr);
}

TEST_CASE("an address has its function's name, start, file and line") {
  const auto snapshot = snapshot_of_self();
  Backtracer tracer(snapshot);
  const Module* self = nullptr;
  const uint64_t bias = bias_of_self(self, tracer, *snapshot);
  REQUIRE(self);
  Symbolizer symbolizer;
  const uint64_t address = reinterpret_cast<uint64_t>(&symbolizer_test::plain);
  const Naming& naming = symbolizer.at(*self, address);
  REQUIRE(naming.frames.size() == 1);
  CHECK(naming.frames[0].function == "symbolizer_test::plain(int)");
  CHECK(naming.frames[0].file == __FILE__);
  CHECK(naming.frames[0].line > 0);
  CHECK(naming.function_start == address - bias);
  CHECK(&symbolizer.at(*self, address) == &naming);  // kept
}

TEST_CASE("names of C++ and Rust are made readable, others left alone") {
  CHECK(demangled("_ZN3foo3barEi") == "foo::bar(int)");
  CHECK(demangled("_RNvC6_123foo3bar") == "123foo::bar");
  CHECK(demangled("main") == "main");
  CHECK(demangled("") == "");
}

TEST_CASE("a file that is no ELF file has neither symbols nor debug information") {
  for (const char* bytes : {"", "x", "\177ELF"}) {
    SymbolTable table;
    table.add(bytes);
    table.sort();
    CHECK(table.find(0) == nullptr);
    CHECK(DebugInfo(bytes).frames_at(0).empty());
  }
}

namespace {

// Where a section of own_file() begins.
size_t section_offset(std::string_view name) {
  const std::string& bytes = own_file();
  const auto elf = value_of(LlvmElf::create({bytes.data(), bytes.size()}));
  const auto sections = value_of(elf->sections());
  for (const auto& section : *sections)
    if (value_of(elf->getSectionName(section)) == llvm::StringRef(name.data(), name.size()))
      return section.sh_offset;
  FAIL("no section " << name);
  return 0;
}

// What the debug information of own_file() says of plain(), once `forged` stands in a section.
std::vector<SourceFrame> frames_after_forging(std::string_view section, size_t at,
                                              std::string_view forged) {
  const auto snapshot = snapshot_of_self();
  Backtracer tracer(snapshot);
  const Module* self = nullptr;
  const uint64_t bias = bias_of_self(self, tracer, *snapshot);
  std::string bytes = own_file();
  bytes.replace(section_offset(section) + at, forged.size(), forged);
  return DebugInfo(bytes).frames_at(reinterpret_cast<uint64_t>(&symbolizer_test::plain) - bias);
}

}  // namespace

TEST_CASE("debug information in forms that LLVM would stumble over is left alone") {
  using namespace std::string_view_literals;
  REQUIRE(frames_after_forging(".debug_abbrev", 0, "").size() == 1);
  // One declaration: number 1, a unit, without children, with a name in a form there is not.
  CHECK(frames_after_forging(".debug_abbrev", 0, "\x01\x11\x00\x03\x7f\x00\x00\x00"sv).empty());
  // Behind unit_length and version 5 stands the size of an address.
  CHECK(frames_after_forging(".debug_line", 6, "\x03"sv).empty());
}

// Whatever a forged file says, reading it must end, with or without a result.
TEST_CASE("damaged ELF files are read without harm") {
  std::mt19937 random(1);
  const auto damage = [&](const std::string&, std::string bytes) {
    const auto below = [&](size_t n) {
      return std::uniform_int_distribution<size_t>(0, n - 1)(random);
    };
    for (int i = 0; i < 400; ++i) bytes[below(bytes.size())] = static_cast<char>(random());
    for (int i = 0; i < 4; ++i) bytes[below(0x400)] = static_cast<char>(random());
    // The section headers stand at the end.
    for (int i = 0; i < 8; ++i)
      bytes[bytes.size() - 1 - below(0x800)] = static_cast<char>(random());
    return bytes;
  };
  for (int round = 0; round < 10; ++round) {
    const auto snapshot = snapshot_of_self({.change_file = damage});
    const pb::Process& process = snapshot->root();
    const Backtrace trace = Backtracer(snapshot).backtrace(process, process.threads(0));
    CHECK(trace.frames.size() >= 1);
  }
}
