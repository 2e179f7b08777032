// An image whose bytes are whole and whose records are not: what verify says of it.
#include "core/image/references.h"

#include <catch2/catch.hpp>
#include <functional>

#include "core/image/libxxhash.h"
#include "tests/unit/image/sample_image.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;

namespace {

pb::AddressSpace first_space() {
  pb::AddressSpace record;
  record.set_id(1);
  return record;
}

// The records of a small snapshot, to be changed before they are written.
struct Records {
  pb::Process process;
  std::vector<Extents> memory;  // one ADDR record each
  pb::FileRecord file;
  pb::SnapshotRecord snapshot;
};

std::string complaint_after(const std::function<void(Records&)>& change) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  {
    ImageWriter image(OutputFile::create(path), {.level = 0, .workers = 1});
    PageWriter pages(image);
    const uint64_t sequence = image.begin_snapshot();
    Records records;
    records.process.set_pid(10);
    records.process.set_address_space(1);
    records.process.set_executable_file(1);
    records.process.add_threads()->set_tid(10);
    pb::Vma& vma = *records.process.add_mappings();
    vma.set_start(0x1000);
    vma.set_end(0x4000);
    vma.set_file(1);
    records.memory.resize(2);
    add_text(pages, records.memory[0], 0x1000, page_of('a'));
    records.memory[1].append({0x2000, kPageSize, pb::SOURCE_FILE, 0, 1});
    Extents content;
    add_text(pages, content, 0, page_of('f'));
    pages.flush();
    records.file.set_id(1);
    records.file.set_size(100);
    records.file.set_embedded(true);
    *records.file.mutable_content() = content.to_record();
    records.snapshot.set_sequence(sequence);
    records.snapshot.set_root_pid(10);
    change(records);
    image.add(kProcessChunk, records.process);
    for (const Extents& extents : records.memory) image.add_address_space(first_space(), extents);
    image.add(kFileChunk, records.file);
    image.add(kSnapshotChunk, records.snapshot);
    image.commit();
  }
  return complaint(path);
}

Extents memory_at(uint64_t address, pb::Source source, uint64_t where, uint32_t what = 0) {
  Extents extents;
  extents.append({address, kPageSize, source, where, what});
  return extents;
}

}  // namespace

TEST_CASE("an image whose references all lead somewhere is whole", "[references]") {
  CHECK(complaint_after([](Records&) {}).empty());
}

TEST_CASE("a reference that leads nowhere is named by verify", "[references]") {
  using Case = std::pair<const char*, std::function<void(Records&)>>;
  const std::vector<Case> cases{
      {"memory of process 10: it refers to page 7",
       [](Records& r) { r.memory[0] = memory_at(0x1000, pb::SOURCE_STORED, 7); }},
      {"memory of process 10: it refers to file 9",
       [](Records& r) { r.memory[1] = memory_at(0x2000, pb::SOURCE_FILE, 0, 9); }},
      {"lies in no file", [](Records& r) { r.memory[1] = memory_at(0x2000, pb::SOURCE_FILE, 0); }},
      {"in the middle of a file's page",
       [](Records& r) { r.memory[1] = memory_at(0x2000, pb::SOURCE_FILE, 5, 1); }},
      {"does not go on where the earlier ended",
       [](Records& r) { r.memory[1] = memory_at(0x1000, pb::SOURCE_ZERO, 0); }},
      {"memory of process 10 is not there", [](Records& r) { r.process.set_address_space(2); }},
      {"process 10: it refers to file 2", [](Records& r) { r.process.set_executable_file(2); }},
      {"at 0x1000: it refers to file 3",
       [](Records& r) { r.process.mutable_mappings(0)->set_file(3); }},
      {"file 1 (): it refers to page 70",
       [](Records& r) {
         *r.file.mutable_content() = memory_at(0, pb::SOURCE_STORED, 70).to_record();
       }},
      {"file 1 (): it has no content at offset 0",
       [](Records& r) {
         *r.file.mutable_content() = memory_at(0x1000, pb::SOURCE_ZERO, 0).to_record();
       }},
      {"file 1 (): its content is another than its hash says",
       [](Records& r) { r.file.set_hash(std::string(16, 'h')); }},
      {"not as large as it should be", [](Records& r) { r.file.set_size(5000); }},
      {"thread 10: it is there twice", [](Records& r) { r.process.add_threads()->set_tid(10); }},
      {"process 11: the snapshot was taken for it",
       [](Records& r) { r.snapshot.set_focus_pid(11); }},
      {"cannot be", [](Records& r) { r.process.mutable_mappings(0)->set_end(0x4001); }},
  };
  for (const auto& [words, change] : cases) CHECK_THAT(complaint_after(change), Contains(words));
}

TEST_CASE("a file whose content has the hash of its record is whole", "[references]") {
  const std::string content(100, 'f');
  XXH128_canonical_t hash;
  ::XXH128_canonicalFromHash(&hash, ::XXH3_128bits(content.data(), content.size()));
  CHECK(complaint_after([&](Records& records) {
          records.file.set_hash(hash.digest, sizeof hash.digest);
        }).empty());
}

TEST_CASE("a set of pages knows what it has and has not", "[references]") {
  PageSet pages;
  pages.add({0, 10});
  pages.add({10, 5});
  pages.add({100, 10});
  CHECK(pages.first_absent(0, 15) == 15);
  CHECK(pages.first_absent(3, 20) == 15);
  CHECK(pages.first_absent(50, 5) == 50);
  CHECK(pages.first_absent(100, 11) == 110);
  CHECK_FALSE(pages.overlap());
  pages.add({105, 10});
  CHECK(pages.overlap());
}

TEST_CASE("pages that are lost become missing, however many are claimed", "[references]") {
  PageSet pages;
  pages.add({0, 1});
  pages.add({2, 1});
  Extents extents;
  constexpr uint64_t kPages = uint64_t{1} << 40;
  extents.append({0, kPages * kPageSize, pb::SOURCE_STORED, 0, 0});
  const Extents kept = pages.without_lost(extents);
  REQUIRE(kept.all().size() == 4);
  CHECK(kept.find(0)->source == pb::SOURCE_STORED);
  CHECK(kept.find(kPageSize)->source == pb::SOURCE_MISSING);
  CHECK(kept.find(2 * kPageSize)->where == 2);
  CHECK(kept.end() == extents.end());
  CHECK_THAT(kept.reason(*kept.find(3 * kPageSize)), Contains("lost"));
}

TEST_CASE("an address space of millions of runs is written in several records", "[references]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  constexpr uint64_t kRuns = 2'500'000;
  {
    ImageWriter image(OutputFile::create(path), {.level = 1, .workers = 2});
    pb::SnapshotRecord record;
    record.set_sequence(image.begin_snapshot());
    record.set_root_pid(10);
    pb::Process process;
    process.set_pid(10);
    process.set_address_space(1);
    image.add(kProcessChunk, process);
    Extents extents;
    for (uint64_t i = 0; i < kRuns; ++i)
      extents.append({2 * i * kPageSize, kPageSize, pb::SOURCE_ZERO, 0, 0});
    image.add_address_space(first_space(), extents);
    image.add(kSnapshotChunk, record);
    image.commit();
  }
  CHECK(complaint(path).empty());
  const auto snapshot = open_snapshot(path);
  CHECK(snapshot->extents(snapshot->root()).all().size() == kRuns);
  CHECK(memory(*snapshot, 2 * (kRuns - 1) * kPageSize, 1) == std::string(1, '\0'));
}
