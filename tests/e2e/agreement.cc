// What gdb says of a live process, of its image and of its core must be the same, thread by thread,
// frame by frame, byte by byte.
//
// The tree is stopped by SIGSTOP throughout, so that its state is one and the same for all three.
// Two normalisations are made: gdb shows no thread names from a core file, for which there is no
// note, and symbolic links in the names of libraries are followed.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "tests/e2e/debugger_dump.h"
#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

Dump without_thread_names(const Dump& dump) {
  return only(dump, [](const std::string& where) { return !where.ends_with(" name"); });
}

Dump of_process(const Dump& dump, pid_t pid) {
  return only(
      dump, [&](const std::string& where) { return where.starts_with(std::to_string(pid) + " "); });
}

// The program and its library in a directory of their own, so that they can be moved away.
std::string copy_of_witness(const TempDir& directory, const std::string& name) {
  std::filesystem::copy_file(target_path(name), directory / name);
  std::filesystem::copy_file(target_path("libwitness.so"), directory / "libwitness.so");
  return directory / name;
}

Words remote(const std::string& image, pid_t pid) {
  return {"-ex", "target remote | " + program() + " " + image + " --pid " + std::to_string(pid)};
}

Words core(const std::string& executable, const std::string& directory, pid_t pid) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().string().ends_with("." + std::to_string(pid))) {
      return {executable, entry.path().string()};
    }
  }
  FAIL("there is no core of process " << pid);
  return {};
}

// A stopped tree of witness, its image and its cores.
struct Photographed {
  explicit Photographed(const std::string& name)
      : executable(copy_of_witness(programs, name)),
        target(Target::at(executable, arguments())),
        processes(target.processes()),
        manifest(target.running().out()) {
    stop(processes);
    // Without --all-memory, what the program keeps out of dumps would rightly be left out.
    capture(target.pid(), image, {"--all-memory"});
    const Result cores = snapgdb({"core", image, "-o", core_directory + "/"});
    INFO(cores);
    REQUIRE(cores.ok());
  }

  // Memory that children share and never touched can only be read by root.
  static Words arguments() {
    return geteuid() == 0 ? Words{"--may-be-stopped"} : Words{"--may-be-stopped", "--alone"};
  }

  TempDir programs, results;
  std::string image = results / "tree.snapgdb", core_directory = results / "cores";
  std::string executable;
  Target target;
  std::vector<pid_t> processes;
  std::string manifest;
};

// That there was something to compare: from deep frames to the last vector register.
void check_dump_is_rich(const Dump& dump, size_t threads) {
  CHECK(count_places(dump, "register rip") == threads);
  CHECK(count_places(dump, "register fs_base") == threads);
  CHECK(count_places(dump, "tls witness_tls") >= threads);
  CHECK(count_places(dump, "frame 1") >= threads);
  CHECK(count_places(dump, "memory ") > 100);
  CHECK(count_places(dump, "auxv AT_PHDR") == 1);
  CHECK(first_place_said(dump, "global witness_least") == "-9223372036854775808");
  CHECK(contains(first_place_said(dump, "memory file-beyond-its-end"), "unavailable"));
}

TEST_CASE("gdb says the same of a live tree, of its image and of its cores") {
  Photographed photo("witness");
  for (const pid_t pid : photo.processes) {
    const Dump live = dump_with_gdb({"-p", std::to_string(pid)}, photo.manifest);
    const Dump image = dump_with_gdb(remote(photo.image, pid), photo.manifest);
    const Dump from_core =
        dump_with_gdb(core(photo.executable, photo.core_directory, pid), photo.manifest);
    check_agreement("live", live, "image", image);
    check_agreement("live", without_thread_names(live), "core", without_thread_names(from_core));
    if (pid == photo.target.pid()) {
      check_dump_is_rich(live, 7);
      CHECK(count_places(live, "library ") >= 4);
      CHECK(count_places(live, "frame 10 marked_array") == 1);
    }
  }
}

TEST_CASE("gdb says the same of a static program at fixed addresses") {
  Photographed photo("witness-static");
  const pid_t pid = photo.target.pid();
  const Dump live = dump_with_gdb({"-p", std::to_string(pid)}, photo.manifest);
  const Dump image = dump_with_gdb(remote(photo.image, pid), photo.manifest);
  const Dump from_core =
      dump_with_gdb(core(photo.executable, photo.core_directory, pid), photo.manifest);
  check_dump_is_rich(image, 7);
  check_agreement("live", live, "image", image);
  check_agreement("live", without_thread_names(live), "core", without_thread_names(from_core));
}

TEST_CASE("gdb says the same when the program's files are gone, of one process and of all") {
  Photographed photo("witness");
  const Dump before = dump_with_gdb(remote(photo.image, photo.target.pid()), photo.manifest);
  std::filesystem::rename(photo.programs.path(), photo.results / "moved away");
  photo.target.running().kill();

  const Dump together =
      dump_with({program(), "debug", photo.image, "--", "-nx", "-batch"}, photo.manifest);
  for (const pid_t pid : photo.processes) {
    const Dump alone = dump_with_gdb(remote(photo.image, pid), photo.manifest);
    if (pid == photo.target.pid()) check_agreement("before", before, "files gone", alone);
    check_agreement("alone", alone, "together", of_process(together, pid));
  }
}

TEST_CASE("gdb says the same of a program whose executable was deleted while it ran") {
  if (skip_unless(geteuid() == 0, "a library that was deleted can only be read by root")) return;
  TempDir programs, results;
  const std::string executable = copy_of_witness(programs, "witness");
  Target target = Target::at(executable, {"--alone"});
  std::filesystem::remove(executable);
  std::filesystem::remove(programs / "libwitness.so");
  capture(target.pid(), results / "image");
  const Dump dump = dump_with_gdb(remote(results / "image", target.pid()), target.running().out());
  CHECK(contains(first_place_said(dump, " frame 0"), "at"));
  CHECK(count_places(dump, "marked_array") == 13);
  CHECK(first_place_said(dump, "global libwitness_global") == "1274518694545850385");
  CHECK(target.finish().ok());
}

TEST_CASE("an image of a running tree agrees with its cores and with what the program holds") {
  TempDir results;
  Target target("witness", {"--alone"});
  const std::string manifest = target.running().out();
  capture(target.pid(), results / "image", {"--all-memory"});
  REQUIRE(snapgdb({"core", results / "image", "-o", results / "cores/"}).ok());
  const Dump image = dump_with_gdb(remote(results / "image", target.pid()), manifest);
  const Dump from_core =
      dump_with_gdb(core(target_path("witness"), results / "cores", target.pid()), manifest);
  check_agreement("image", without_thread_names(image), "core", without_thread_names(from_core));
  check_dump_is_rich(image, 7);

  // The spinning thread's known registers (tests/targets/registers.cc): r14 and r15 are extremes.
  for (const std::string& thread : target.said("thread")) {
    std::istringstream words(thread);
    pid_t pid, tid;
    std::string name;
    words >> pid >> tid >> name;
    if (pid != target.pid() || name != "spin") continue;
    const std::string where = fmt::format("{} thread {} ", pid, tid);
    CHECK(image.at(where + "register r14") == "0x0");
    CHECK(image.at(where + "register r15") == "0xffffffffffffffff");
    CHECK(image.at(where + "register mxcsr") == "0x7f80");
    CHECK(image.at(where + "register fctrl") == "0xf7f");
    CHECK(contains(image.at(where + "frame 0"), "hold_registers_spinning"));
    CHECK(image.at(where + "tls witness_tls") == "28672");
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("memory that a program keeps out of dumps is unavailable, never zeros") {
  TempDir results;
  Target target("witness", {"--alone"});
  capture(target.pid(), results / "image");
  const Dump dump = dump_with_gdb(remote(results / "image", target.pid()), target.running().out());
  CHECK(first_place_said(dump, "memory left-out-of-cores") == "unavailable");
}

}  // namespace
}  // namespace snapgdb::e2e
