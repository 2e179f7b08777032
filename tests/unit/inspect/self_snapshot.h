#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/image/snapshot_builder.h"

namespace snapgdb::test {

// A snapshot of this test program itself, made without ptrace: the registers of the caller, the
// stack it stands on, the vDSO, and the ELF files that /proc/self/maps names, as they are on disk.
struct SelfOptions {
  // Lets a test damage a file's bytes before they go into the image.
  std::function<std::string(const std::string& path, std::string bytes)> change_file =
      [](const std::string&, std::string bytes) { return bytes; };
  // How many bytes of the stack, from the stack pointer's page on, are in the snapshot.
  uint64_t stack_bytes = uint64_t{1} << 20;
  bool embed_files = true;
  // Separate debug files of this machine go into the image where they are installed.
  bool debug_files = false;
};

inline constexpr int32_t kSelfPid = 100;

// The frame of the caller is the innermost one. Precondition: the caller stays on the stack.
__attribute__((noinline)) std::shared_ptr<const Snapshot> snapshot_of_self(
    const SelfOptions& options = {});

}  // namespace snapgdb::test
