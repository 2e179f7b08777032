// Bytes from a debugger, fed to a session over a small snapshot. The first byte chooses how the
// session begins, and whether it can run; acknowledgements stay on, so that both paths are walked.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/image/snapshot_builder.h"
#include "gdbstub/framing.h"
#include "gdbstub/session.h"
#include "tests/unit/gdbstub/fake_target.h"

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

// What the program does, over and over.
const gdbstub::Event& event(size_t at) {
  using gdbstub::ThreadId;
  using Kind = gdbstub::Event::Kind;
  static const ThreadId first{Pid{16}, Tid{16}}, other{Pid{32}, Tid{32}}, child{Pid{48}, Tid{48}};
  static const std::vector<gdbstub::Event> events = {
      {.kind = Kind::kStepped, .thread = first},
      {.kind = Kind::kFork, .thread = first, .child = child},
      {.kind = Kind::kSoftwareBreakpoint, .thread = other},
      {.kind = Kind::kExec, .thread = first, .path = "/bin/x"},
      {.kind = Kind::kSignal, .thread = child, .signal = 11},
      {.kind = Kind::kExited, .thread = {Pid{16}, {}}},
      {.kind = Kind::kKilled, .thread = {Pid{32}, {}}, .signal = 9},
      {.kind = Kind::kNothingRuns},
  };
  return events[at % events.size()];
}

}  // namespace

// Packets for every line of the input, so that the fuzzer need not learn checksums; after a NUL,
// the rest is fed as it is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<const Snapshot> snapshot = small_snapshot();
  if (size == 0) return 0;
  gdbstub::Script script;
  gdbstub::SessionOptions options{.multi = (data[0] & 1) != 0};
  if (data[0] & 2) options.launch = gdbstub::launcher(script);
  gdbstub::Session session(snapshot, options);
  size_t events = 0;
  std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const size_t raw = input.find('\0');
  for (std::string_view lines = input.substr(0, raw); !lines.empty();) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    session.feed(gdbstub::frame(line));
    if (session.event_descriptor() < 0) continue;
    script.events.push_back(event(events++));
    session.on_event();
  }
  if (raw != std::string_view::npos) session.feed(input.substr(raw));
  return 0;
}
