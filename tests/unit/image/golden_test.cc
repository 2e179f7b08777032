#include <sys/user.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>

#include "core/image/image_reader.h"

using namespace snapgdb;

namespace {

std::string memory(const Snapshot& snapshot, const pb::Process& process, uint64_t address,
                   size_t size) {
  std::string bytes(size, '?');
  bytes.resize(snapshot.read_memory(process, address, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

// The writable mapping of the program itself: its three pages begin it or follow its data.
const pb::Vma& data_of(const pb::Process& process) {
  const auto& mappings = process.mappings();
  const auto found = std::ranges::find_if(mappings, [&](const pb::Vma& vma) {
    return vma.name() == process.executable() && vma.protection() & 2;
  });
  REQUIRE(found != mappings.end());
  return *found;
}

}  // namespace

// tests/golden/make.sh made them, tests/golden/tiny.c is the program in them.
TEST_CASE("the golden image of every released format opens", "[golden]") {
  const std::filesystem::path folder = SNAPGDB_GOLDEN;
  const std::string name = GENERATE(as<std::string>{}, "v1.snapgdb");
  CAPTURE(name);
  CHECK_NOTHROW(Image::open(folder / name)->verify());
  const auto snapshot = open_snapshot((folder / name).string());

  REQUIRE(snapshot->processes().size() == 2);
  CHECK(snapshot->record().host().node_name() == "golden");
  CHECK(snapshot->record().missing().empty());
  for (const pb::Process& process : snapshot->processes()) {
    CHECK(process.name() == "tiny");
    REQUIRE(process.threads_size() == 1);
    user_regs_struct registers{};
    REQUIRE(process.threads(0).registers().size() == sizeof registers);
    std::memcpy(&registers, process.threads(0).registers().data(), sizeof registers);
    CHECK(memory(*snapshot, process, registers.rip - 2, 2) == "\x0f\x05");  // syscall

    const pb::Vma& data = data_of(process);
    const std::string bytes = memory(*snapshot, process, data.start(), data.end() - data.start());
    const size_t first = bytes.find(std::string(kPageSize, 'g'));
    REQUIRE(first != std::string::npos);
    CHECK(first % kPageSize == 0);
    CHECK(bytes.substr(first + kPageSize, kPageSize) == std::string(kPageSize, '\0'));
    CHECK(bytes.substr(first + 2 * kPageSize, kPageSize) == std::string(kPageSize, 'g'));
  }
  const pb::FileRecord* program = snapshot->file(snapshot->root().executable_file());
  REQUIRE(program != nullptr);
  CHECK(snapshot->file_contents(*program).substr(0, 4) ==
        "\x7f"
        "ELF");
}
