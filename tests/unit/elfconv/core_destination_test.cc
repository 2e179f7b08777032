#include "elfconv/core_destination.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "core/base/error.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

pb::Process process_named(const std::string& name, int32_t pid) {
  pb::Process process;
  process.set_name(name);
  process.set_pid(pid);
  return process;
}

const pb::Process kFirst = process_named("first", 1), kSecond = process_named("second", 2);
const std::vector<const pb::Process*> kOne{&kFirst}, kTwo{&kFirst, &kSecond};

}  // namespace

TEST_CASE("a process cannot choose the directory of its core") {
  const auto name = [](const std::string& comm) { return core_file_name(process_named(comm, 7)); };
  CHECK(name("python3.11") == "core.python3.11.7");
  CHECK(name("../../etc") == "core..._.._etc.7");
  CHECK(name("kworker/0:1") == "core.kworker_0_1.7");
  CHECK(name(std::string("a\0b\n\x1b[1m", 8)) == "core.a_b___1m.7");
  CHECK(name("") == "core._.7");
  CHECK(name(std::string(5000, 'x')).size() < 100);
}

TEST_CASE("without a name the cores go to the current directory") {
  const CoreDestination destination = core_destination("", kTwo);
  CHECK(destination.directory.empty());
  CHECK(destination.paths == std::vector<std::string>{"core.first.1", "core.second.2"});
}

TEST_CASE("a directory that exists gets one core a process") {
  const TemporaryDirectory directory;
  CHECK(core_destination(directory.path(), kOne).paths ==
        std::vector<std::string>{directory / "core.first.1"});
  CHECK(core_destination(directory.path(), kTwo).paths[1] == directory / "core.second.2");
}

TEST_CASE("a new name is a file for one process and a directory for several") {
  const TemporaryDirectory directory;
  const CoreDestination file = core_destination(directory / "new", kOne);
  CHECK(file.paths == std::vector<std::string>{directory / "new"});
  CHECK(file.directory == directory.path());
  CHECK_FALSE(std::filesystem::exists(directory / "new"));

  CHECK(core_destination(directory / "new", kTwo).directory == directory / "new");
  CHECK(std::filesystem::is_directory(directory / "new"));
}

TEST_CASE("a name that ends in a slash is a directory, and is made") {
  const TemporaryDirectory directory;
  CHECK(core_destination(directory / "a/b/", kOne).paths ==
        std::vector<std::string>{directory / "a/b/core.first.1"});
  CHECK(std::filesystem::is_directory(directory / "a/b"));
}

TEST_CASE("several cores do not go into one file") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "precious";
  try {
    core_destination(directory / "file", kTwo);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == ExitStatus::kUsage);
  }
  CHECK(core_destination(directory / "file", kOne).paths[0] == directory / "file");
  CHECK_THROWS_AS(core_destination(directory / "file/", kOne), Error);
}
