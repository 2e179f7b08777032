// Bytes from a debugger, fed to a session over a small snapshot. The first byte chooses how the
// session begins; acknowledgements stay on, so that both paths are walked.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/image/snapshot_builder.h"
#include "gdbstub/framing.h"
#include "gdbstub/session.h"

namespace {

using namespace snapgdb;

std::shared_ptr<const Snapshot> small_snapshot() {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/bin/x", std::string(5000, 'x'), pb::FILE_EXECUTABLE);
  auto& root = builder.process(16).thread(16, 0x1000, 0x3000).thread(17);
  root.last_thread().set_xstate(std::string(2696, '\x7f'));
  root.last_thread().set_stop_siginfo(std::string(128, '\1'));
  root.memory(0x1000, "some content", PROT_READ).unavailable(0x2000, 4096, "refused");
  root.zeros(0x3000, 8192).mapped_file(0x10000, 8192, file, 0, PROT_READ | PROT_EXEC);
  root.record().set_executable("/bin/x");
  root.record().set_executable_file(file);
  root.record().set_auxv(std::string(64, '\3'));
  builder.process(32, 16).thread(32).memory(0x1000, "other", PROT_READ);
  builder.record().mutable_host()->set_xcr0(0x2e7);
  return builder.build();
}

}  // namespace

// Packets for every line of the input, so that the fuzzer need not learn checksums; after a NUL,
// the rest is fed as it is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<const Snapshot> snapshot = small_snapshot();
  if (size == 0) return 0;
  gdbstub::Session session(snapshot, {.multi = (data[0] & 1) != 0});
  std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const size_t raw = input.find('\0');
  for (std::string_view lines = input.substr(0, raw); !lines.empty();) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    session.feed(gdbstub::frame(line));
  }
  if (raw != std::string_view::npos) session.feed(input.substr(raw));
  return 0;
}
