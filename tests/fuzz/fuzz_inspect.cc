// Whatever an ELF file in an image claims to be, making backtraces through it and naming what is in
// it ends. The seeds are small static programs (-nostdlib, one segment from 0x400000 on), with
// DWARF 4 and 5; the stack is full of addresses of their code.
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "core/inspect/backtrace.h"

namespace {

using namespace snapgdb;

constexpr uint64_t kModule = 0x400000, kCode = 0x4000b0, kCodeSize = 0x80, kStack = 0x7f0000;

std::string stack_of_return_addresses() {
  std::string stack;
  for (uint64_t i = 0; i < 512; ++i) {
    // Every fourth word could be a frame pointer.
    const uint64_t word = i % 4 == 0 ? kStack + i * 8 + 32 : kCode + i * 7 % kCodeSize;
    stack.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return stack;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  SnapshotBuilder builder;
  const std::string module(reinterpret_cast<const char*>(data), size);
  const uint32_t file = builder.file("/bin/x", module, pb::FILE_EXECUTABLE);
  auto& process = builder.process(10);
  process.mapped_file(kModule, size, file, 0, PROT_READ | PROT_EXEC);
  process.memory(kStack, stack_of_return_addresses(), PROT_READ | PROT_WRITE, "[stack]");
  process.record().set_executable("/bin/x");
  process.record().set_executable_file(file);
  for (int i = 0; i < 8; ++i)
    process.thread(10 + i, kCode + static_cast<uint64_t>(i) * kCodeSize / 8, kStack + 16);
  try {
    const auto snapshot = builder.build();
    Backtracer(snapshot).backtraces(snapshot->root(), 40);
  } catch (const Error&) {
    return 0;
  }
  return 0;
}
