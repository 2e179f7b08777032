// Snapshots that no capture would write: they cost neither memory nor time, and whatever comes out
// is a core or one Error.
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <limits>
#include <random>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "elfconv/core_file.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

class FewPages : public PageStore {
  void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
    if (ordinal >= 64) throw Error("cannot read the image", "there is no such page");
    std::ranges::fill(out, std::byte{0x5a});
  }
};

class Forger {
 public:
  explicit Forger(unsigned seed) : random_(seed) {}

  std::shared_ptr<const Snapshot> snapshot() {
    Snapshot::Contents contents;
    contents.record.set_root_pid(10);
    contents.pages = std::make_shared<FewPages>();
    pb::Process process;
    process.set_pid(10);
    process.set_address_space(1);
    process.set_name(bytes(20));
    process.set_state(bytes(2));
    process.set_auxv(bytes(200));
    for (int i = 0; i < 3; ++i) add_thread(process);
    add_files(contents);
    add_memory(process, contents.address_spaces[1]);
    contents.processes.push_back(std::move(process));
    return std::make_shared<const Snapshot>(std::move(contents));
  }

 private:
  uint64_t below(uint64_t limit) { return random_() % limit; }
  std::string bytes(size_t most) {
    std::string text(below(most + 1), '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }
  // Mostly small, sometimes as large as can be.
  uint64_t pages() { return below(10) ? 1 + below(8) : 1 + below(uint64_t{1} << 48); }

  void add_thread(pb::Process& process) {
    pb::Thread& thread = *process.add_threads();
    thread.set_tid(static_cast<int32_t>(below(20)));
    if (below(4)) thread.set_registers(std::string(27 * 8, 'r'));
    thread.set_xstate(bytes(3000));
    thread.set_stop_signal(static_cast<uint32_t>(random_()));
    thread.set_stop_siginfo(bytes(130));
    thread.set_signals_pending(random_());
    thread.set_user_ticks(random_());
  }

  void add_files(Snapshot::Contents& contents) {
    for (uint32_t id = 1; id <= 3; ++id) {
      pb::FileRecord& file = contents.files.emplace_back();
      file.set_id(id);
      file.set_role(static_cast<pb::FileRole>(below(4)));
      file.set_size(below(4) ? below(40000) : random_());
      file.set_embedded(below(3));
      Extents content;
      content.append(
          {0, pages() * kPageSize, below(2) ? pb::SOURCE_STORED : pb::SOURCE_ZERO, below(70), 0});
      *file.mutable_content() = content.to_record();
    }
  }

  void add_memory(pb::Process& process, Extents& extents) {
    uint64_t at = below(100) * kPageSize;
    const int count = static_cast<int>(below(12));
    for (int i = 0; i < count; ++i) {
      const uint64_t size = pages() * kPageSize;
      if (size > std::numeric_limits<uint64_t>::max() / 4 - at) return;
      pb::Vma& vma = *process.add_mappings();
      vma.set_start(at + (below(50) ? 0 : 1));  // not always at a page, which is refused
      vma.set_end(at + size);
      vma.set_protection(static_cast<uint32_t>(random_()));
      vma.set_offset(random_());
      vma.set_name("/" + bytes(10));
      vma.set_file(static_cast<uint32_t>(below(5)));
      // The extents keep to no mapping.
      const uint64_t start = std::max(extents.end(), at + below(3) * kPageSize);
      const auto source = static_cast<pb::Source>(below(4));
      if (source == pb::SOURCE_MISSING)
        extents.append_missing(start, pages() * kPageSize, bytes(20), KeptBy{below(3)});
      else
        extents.append({start, pages() * kPageSize, source, below(80) * (below(2) ? 1 : kPageSize),
                        static_cast<uint32_t>(below(5))});
      at += size + below(3) * kPageSize;
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

TEST_CASE("a forged snapshot becomes a core that can be read, or an error") {
  const TemporaryDirectory directory;
  int cores = 0, errors = 0;
  for (unsigned seed = 1; seed <= 1500; ++seed) {
    CAPTURE(seed);
    try {
      const auto snapshot = Forger(seed).snapshot();
      if (!why_no_core(*snapshot, snapshot->root()).empty()) continue;
      const WrittenCore written = write_core(*snapshot, snapshot->root(), directory / "core");
      const CoreView core(directory / "core");
      CHECK(written.size < uint64_t{1} << 50);
      CHECK_FALSE(core.threads().empty());
      for (const GElf_Phdr& load : core.loads())
        if (load.p_offset + load.p_filesz > written.size) FAIL("a segment lies beyond the end");
      ++cores;
    } catch (const Error&) {
      CHECK(directory.files().size() <= 1);  // nothing but the core before
      ++errors;
    }
  }
  CHECK(cores > 300);
  CHECK(errors > 100);
}
