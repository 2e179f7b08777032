// Files of which a salvaged image has lost a page.
#include <algorithm>
#include <catch2/catch.hpp>

#include "core/base/error.h"
#include "core/inspect/backtrace.h"
#include "tests/unit/inspect/self_snapshot.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

namespace {

const pb::FileRecord& file_named(const Snapshot& snapshot, std::string_view part) {
  const auto found = std::ranges::find_if(snapshot.files(), [&](const pb::FileRecord& file) {
    return file.path().find(part) != std::string::npos;
  });
  REQUIRE(found != snapshot.files().end());
  return *found;
}

// A page in the middle of the constants behind the code: no frame information, no symbols.
uint64_t page_of_constants(const Snapshot& snapshot, const pb::FileRecord& file) {
  const auto elf = ElfFile::open(snapshot, file);
  REQUIRE(elf);
  const auto code = std::ranges::find(elf->segments(), true, &ElfSegment::executable);
  REQUIRE(code != elf->segments().end());
  REQUIRE(std::next(code) != elf->segments().end());
  return page_up(std::next(code)->offset) + kPageSize;
}

Snapshot::Contents contents_of(const std::shared_ptr<const Snapshot>& whole) {
  Snapshot::Contents contents;
  contents.record = whole->record();
  contents.processes = {whole->processes().begin(), whole->processes().end()};
  contents.address_spaces.emplace(whole->root().address_space(), whole->extents(whole->root()));
  contents.files = {whole->files().begin(), whole->files().end()};
  contents.pages = std::shared_ptr<const PageStore>(whole, &whole->pages());
  return contents;
}

// One of whose pages cannot be read.
class DamagedPages : public PageStore {
 public:
  DamagedPages(std::shared_ptr<const PageStore> whole, uint64_t damaged)
      : whole_(std::move(whole)), damaged_(damaged) {}

  void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
    if (ordinal == damaged_) throw Error("cannot read the image", "a PAGE chunk is damaged");
    whole_->read_page(ordinal, out);
  }

 private:
  std::shared_ptr<const PageStore> whole_;
  uint64_t damaged_;
};

std::shared_ptr<const Snapshot> without_page(const std::shared_ptr<const Snapshot>& whole,
                                             const pb::FileRecord& file, uint64_t offset) {
  Snapshot::Contents contents = contents_of(whole);
  const Extents content = Extents::from_record(file.content());
  REQUIRE(content.all().size() == 1);
  const uint64_t behind = offset + kPageSize, first = content.all()[0].where;
  Extents& salvaged = contents.salvaged_files[file.id()];
  salvaged.append({0, offset, pb::SOURCE_STORED, first, 0});
  salvaged.append_missing(offset, kPageSize, "lost");
  salvaged.append(
      {behind, content.end() - behind, pb::SOURCE_STORED, first + behind / kPageSize, 0});
  return std::make_shared<const Snapshot>(std::move(contents));
}

}  // namespace

TEST_CASE("what is lost of a file reads as zeros for debuggers, and that is said") {
  const auto whole = snapshot_of_self();
  const pb::FileRecord& file = file_named(*whole, "libc.so");
  const uint64_t lost = page_of_constants(*whole, file);
  const auto salvaged = without_page(whole, file, lost);
  const auto elf = ElfFile::open(*salvaged, *salvaged->file(file.id()));
  REQUIRE(elf);
  std::string expected = whole->file_contents(file);
  std::fill_n(expected.begin() + static_cast<ptrdiff_t>(lost), kPageSize, '\0');
  CHECK((elf->bytes() == expected));
  CHECK_THAT(elf->problem(), Contains("4096 bytes of") && Contains("libc.so"));
}

TEST_CASE("a lost page of a library does not end the backtraces through it") {
  const auto whole = snapshot_of_self();
  const pb::FileRecord& file = file_named(*whole, "libc.so");
  const auto salvaged = without_page(whole, file, page_of_constants(*whole, file));
  const pb::Process& process = salvaged->root();
  Backtracer tracer(salvaged);
  const Backtrace trace = tracer.backtrace(process, process.threads(0));
  CHECK(trace.stopped_because == "");
  CHECK(trace.frames.back().function == "_start");
  REQUIRE(tracer.problems().size() == 1);
  CHECK_THAT(tracer.problems().front(), Contains("4096 bytes of") && Contains("libc.so"));
}

TEST_CASE("a file that backtraces are poorer without is told of, wherever it is damaged") {
  const auto whole = snapshot_of_self();
  const pb::Process& process = whole->root();
  Backtracer sound(whole);
  sound.backtrace(process, process.threads(0));
  CHECK(sound.problems().empty());

  const pb::FileRecord& file = file_named(*whole, "libc.so");
  const Extents content = Extents::from_record(file.content());
  for (const uint64_t page : {uint64_t{0}, uint64_t{100}}) {  // its header, and what is read later
    CAPTURE(page);
    Snapshot::Contents contents = contents_of(whole);
    contents.pages = std::make_shared<DamagedPages>(contents.pages, content.all()[0].where + page);
    const auto damaged = std::make_shared<const Snapshot>(std::move(contents));
    Backtracer tracer(damaged);
    tracer.backtrace(damaged->root(), damaged->root().threads(0));
    REQUIRE(tracer.problems().size() == 1);
    CHECK_THAT(tracer.problems().front(),
               Contains("libc.so") && EndsWith("cannot be read: a PAGE chunk is damaged"));
  }
}
