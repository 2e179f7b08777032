// What `snapgdb show` and `snapgdb bt` say of programs whose state is known.

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "tests/e2e/debugger_dump.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"

namespace snapgdb::e2e {
namespace {

Json show(const std::string& image, const Words& more = {}) {
  Words words{"show", image, "--json"};
  words.insert(words.end(), more.begin(), more.end());
  const Result result = snapgdb(words);
  INFO(result);
  REQUIRE(result.ok());
  return parse_json(result.out);
}

Json backtraces(const std::string& image, const std::string& which) {
  const Result result = snapgdb({"bt", image, which, "--json"});
  INFO(result);
  REQUIRE(result.ok());
  return parse_json(result.out);
}

const Json& process_of(const Json& json, pid_t pid) {
  return element_with(json, "processes", "pid", std::to_string(pid));
}

const Json& descriptor_of(const Json& process, int number) {
  return element_with(process, "descriptors", "number", std::to_string(number));
}

TEST_CASE("every section of show is text for people and JSON for programs") {
  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "image");
  for (const char* section :
       {"summary", "tree", "threads", "maps", "fds", "limits", "env", "files", "missing"}) {
    CAPTURE(section);
    const Result text = snapgdb({"show", directory / "image", section});
    CHECK(text.ok());
    CHECK(text.err.empty());
    CHECK((std::string(section) == "missing" || !text.out.empty()));
    const Result json = run({"sh", "-c",
                             fmt::format("{} show {} {} --json | python3 -m json.tool", program(),
                                         directory / "image", section)});
    INFO(json);
    CHECK(json.ok());
  }
  CHECK(snapgdb({directory / "image"}).out == snapgdb({"show", directory / "image"}).out);
}

// ---- Memory ----------------------------------------------------------------------------------

TEST_CASE("what a program keeps to itself is left out, by size and reason") {
  const TempDir directory;
  const std::string image = directory / "image";
  Target target("secrets");
  const std::string wish = "the program keeps it out of dumps (MADV_DONTDUMP)";
  capture(target.pid(), image);
  const Result text = snapgdb({"show", image});
  INFO(text);
  CHECK(contains(text.out, "missing   nothing"));
  CHECK(contains(text.out, "left out  4.00 KiB: " + wish));
  const Json json = show(image);
  const Json& kept = element_with(json, "address_spaces.0.missing", "reason", wish);
  CHECK(json_at(kept, "bytes") == "4096");
  CHECK(json_at(kept, "kept_by") == "program");
  const Json& kernels =
      element_with(json, "address_spaces.0.missing", "kept_by", "kernel");  // [vvar]
  CHECK_FALSE(contains(text.out, json_at(kernels, "reason")));

  capture(target.pid(), image, {"--all-memory"});
  CHECK_FALSE(contains(snapgdb({"show", image}).out, wish));
  CHECK(target.finish().ok());
}

TEST_CASE("why memory was not secured in a better way is told, of each process where it differs") {
  const TempDir directory;
  const std::string image = directory / "image";
  // Below a shell, of which there is little to secure. It takes standard input from what it starts
  // in the background, but for a copy of it.
  const std::string script = "exec 3<&0; \"$0\" --ballast 80 --seccomp --no-userfaultfd <&3 & wait";
  Running shell({"sh", "-c", script, target_path("kinds")}, {.input = RunOptions::kPipe});
  shell.wait_for_line("ready");
  const pid_t guarded = children_of(shell.pid()).at(0);
  const Result captured = snapgdb({"capture", std::to_string(shell.pid()), "-o", image});
  INFO(captured);
  REQUIRE(captured.status == (geteuid() == 0 ? 0 : 3));  // its filters let root ask
  const Result text = snapgdb({"show", image});
  INFO(text);
  CHECK(contains(text.out, "memory by copied while stopped, stop-copy\n"));
  CHECK(contains(text.out, fmt::format("  {} by copied while stopped\n", shell.pid())));
  CHECK(contains(text.out,
                 fmt::format("  {} by stop-copy: no first copies: it is under seccomp", guarded)));
  const Json json = show(image);
  const Json& space = element_with(json, "address_spaces", "method", "stop-copy");
  CHECK(json_at(space, "id") == json_at(process_of(json, guarded), "address_space"));
  CHECK(contains(json_at(space, "why_not_better"), "; no twin: "));

  shell.close_input();
}

// ---- Descriptors -----------------------------------------------------------------------------

struct Expected {
  int number;
  const char* path;  // in the descriptor's JSON
  const char* value;
};

// As tests/targets/descriptors*.cc sets them up. Even numbers are closed on exec.
constexpr Expected kExpected[] = {
    {100, "close_on_exec", "true"},
    {100, "flags", "0x8401"},  // O_WRONLY | O_APPEND | O_LARGEFILE
    {100, "position", "12"},
    {101, "close_on_exec", "false"},
    {101, "position", "5368709127"},
    {101, "size", "5368709227"},
    {142, "position", "5368709127"},
    {102, "file.unlinked", "true"},
    {102, "position", "5000"},
    {103, "directory", R"({"names_before":0})"},
    {104, "directory", R"({"names_before":0})"},
    {105, "pipe.capacity", "262144"},
    {105, "pipe.queued", "131072"},
    {105, "pipe.fifo", "false"},
    {106, "flags", "0x801"},   // O_WRONLY | O_NONBLOCK
    {108, "flags", "0x4001"},  // O_WRONLY | O_DIRECT: a packet pipe
    {109, "pipe.fifo", "true"},
    {109, "pipe.queued", "11"},
    {137, "memfd.name", "sealed memory"},
    {137, "memfd.seals", "0xe"},  // shrink, grow, write
    {138, "device_node.terminal", "true"},
    {139, "device_node.terminal", "true"},
    {139, "device_node.major", "136"},
    {140, "device_node.major", "1"},
    {140, "device_node.minor", "3"},
    {145, "locks.0.kind", "POSIX"},
    {146, "locks.0.kind", "OFDLCK"},
    {146, "locks.0.start", "10"},
    {146, "locks.0.end", "19"},
    {147, "locks.0.kind", "FLOCK"},
    {147, "locks.0.exclusive", "true"},
    {200, "socket.domain", "1"},
    {200, "socket.type", "1"},
    {201, "socket.receive_queue", "5000"},
    {202, "socket.type", "2"},
    {204, "socket.type", "5"},
    {210, "socket.state", "listening"},
    {212, "socket.receive_queue", "11"},
    {214, "socket.state", "listening"},
    {220, "socket.domain", "2"},
    {220, "socket.protocol", "6"},
    {220, "socket.state", "listening"},
    {221, "socket.state", "established"},
    {221, "socket.receive_queue", "6"},
    {222, "socket.receive_queue", "11"},
    {230, "socket.type", "2"},
    {230, "socket.receive_queue", "8"},
    {231, "socket.domain", "16"},
    {300, "eventfd.count", "18446744073709551614"},
    {300, "eventfd.semaphore", "false"},
    {301, "eventfd.count", "3"},
    {301, "eventfd.semaphore", "true"},
    {302, "timerfd.clock", "1"},
    {302, "timerfd.interval_ns", "12345678901"},
    {303, "timerfd.clock", "0"},
    {303, "timerfd.settime_flags", "1"},  // TFD_TIMER_ABSTIME
    {303, "timerfd.interval_ns", "0"},
    {304, "timerfd.clock", "7"},
    {304, "timerfd.ticks", "1"},
    {305, "signalfd.mask", "0x8000000000000200"},  // SIGRTMAX and SIGUSR1
    {310, "inotify.watches.0.mask", "0x6"},        // IN_MODIFY | IN_ATTRIB
    {312, "other.what", "anon_inode:[userfaultfd]"},
    {313, "io_uring.submission_entries", "4"},
    {1000, "number", "1000"},
};

bool was_made(const Target& target, int number) {
  const Words said = target.said("fd");
  return std::any_of(said.begin(), said.end(), [&](const auto& line) {
    return line.starts_with(std::to_string(number) + " ");
  });
}

TEST_CASE("a descriptor of every kind is described with all its values") {
  const TempDir directory;
  Target target("descriptors");
  capture(target.pid(), directory / "image");
  const Json json = show(directory / "image", {"fds"});
  const Json& process = process_of(json, target.pid());
  for (const Expected& expected : kExpected) {
    if (!was_made(target, expected.number)) continue;  // IPv6, io_uring: not on every machine
    CAPTURE(expected.number, expected.path);
    CHECK(json_at(descriptor_of(process, expected.number), expected.path) == expected.value);
  }

  SECTION("and what belongs together can be told") {
    const auto of = [&](int number, const char* path) {
      return json_at(descriptor_of(process, number), path);
    };
    const Json& child = process_of(json, target.processes().back());
    CHECK(of(101, "description") == of(142, "description"));
    CHECK(of(101, "description") == json_at(descriptor_of(child, 101), "description"));
    CHECK(of(100, "description") != of(101, "description"));
    CHECK(of(105, "inode") == of(106, "inode"));
    for (const int one : {200, 202, 204, 206}) {
      CHECK(of(one, "socket.peer_inode") == of(one + 1, "inode"));
      CHECK(of(one + 1, "socket.peer_inode") == of(one, "inode"));
    }
    CHECK(of(211, "socket.peer_inode") == of(212, "inode"));
    CHECK(of(221, "socket.local") == of(222, "socket.remote"));
    CHECK(of(222, "socket.local") == of(220, "socket.local"));
    CHECK(of(210, "socket.local") == fmt::format("@snapgdb-descriptors-{}", target.pid()));
    CHECK(contains(of(214, "socket.local"), "/socket"));
    CHECK(of(311, "pidfd.pid") == std::to_string(target.processes().back()));
    CHECK(contains(of(101, "target"), "/far"));
    CHECK(of(138, "flags") == of(139, "flags"));
  }
  SECTION("and so are epoll's targets") {
    const auto target_of = [&](int epoll, const char* fd) -> const Json& {
      return element_with(descriptor_of(process, epoll), "epoll.targets", "fd", fd);
    };
    CHECK(json_at(target_of(308, "307"), "data") == "0xffffffffffffffff");
    CHECK(json_at(target_of(308, "302"), "data") == "0x0");
    CHECK(json_at(target_of(309, "308"), "data") == "0x123456789abcdef");
    // EPOLLIN | EPOLLONESHOT | EPOLLET; the kernel adds EPOLLERR and EPOLLHUP
    CHECK(json_at(target_of(308, "307"), "events") == "0xc0000019");
  }
  SECTION("and both POSIX locks are there, to the end of the file") {
    const Json& locked = descriptor_of(process, 145);
    CHECK(elements_at(locked, "locks").size() == 2);
    const Json& far = element_with(locked, "locks", "start", "1099511627776");
    CHECK(json_at(far, "end") == "18446744073709551615");
    CHECK(json_at(far, "exclusive") == "false");
    CHECK(json_at(element_with(locked, "locks", "start", "100"), "end") == "199");
  }
  SECTION("and the signal that waits to be read has its value") {
    const Json whole = show(directory / "image");
    const Json& root = process_of(whole, target.pid());
    CHECK(json_at(root, "signals_pending") == "0x8000000000000000");
    // siginfo_t: si_signo 64 first, si_value (0x1234567) at byte 24.
    const std::string siginfo = json_at(root, "pending_siginfo.0");
    CHECK(siginfo.starts_with("40000000"));
    CHECK(siginfo.substr(48, 8) == "67452301");
  }
  CHECK(target.finish().ok());
}

// ---- Processes and threads -------------------------------------------------------------------

TEST_CASE("a thread is shown in the system call that it waits in, with what that is about") {
  const TempDir directory;
  Target target = Target::at("/usr/bin/python3", {"-c", R"PY(
import os, sys, threading
read, write = os.pipe()
os.dup2(read, 77)
thread = threading.Thread(target=os.read, args=(77, 1), daemon=True)
thread.start()
while 'pipe_read' not in open(f'/proc/self/task/{thread.native_id}/wchan').read(): pass
print('ready', flush=True)
sys.stdin.read()
)PY"});
  capture(target.pid(), directory / "image");
  const Result shown = snapgdb({"show", directory / "image", "threads"});
  INFO(shown);
  CHECK(contains(shown.out, "read(77)"));
  CHECK(target.finish().ok());
}

TEST_CASE("the process tree, its names and its threads are those of the program") {
  const TempDir directory;
  Target target("witness");
  capture(target.pid(), directory / "image");
  const Json json = show(directory / "image");
  const std::vector<std::string> names{"witness", "witness-one", "witness (two)", "witness-inner"};
  CHECK(json_at(json, "snapshot.root_pid") == std::to_string(target.pid()));
  CHECK(elements_at(json, "processes").size() == 4);
  if (geteuid() == 0) CHECK(json_at(json, "snapshot.missing") == "[]");
  for (const std::string& name : names) element_with(json, "processes", "name", name);
  const Json& inner = element_with(json, "processes", "name", "witness-inner");
  const Json& one = element_with(json, "processes", "name", "witness-one");
  CHECK(json_at(inner, "parent") == json_at(one, "pid"));
  CHECK(json_at(one, "parent") == std::to_string(target.pid()));

  for (const std::string& line : target.said("thread")) {
    std::istringstream words(line);
    std::string pid, tid, name;
    words >> pid >> tid >> std::ws;
    std::getline(words, name);
    CAPTURE(line);
    const Json& thread = element_with(process_of(json, std::stoi(pid)), "threads", "tid", tid);
    CHECK(json_at(thread, "name") == name);
    CHECK(json_at(thread, "state") == (name == "spin" ? "R" : "S"));
  }
  CHECK(target.finish().ok());
}

TEST_CASE("the memory map has every mapping with its attributes") {
  const TempDir directory;
  Target target("witness", {"--alone"});
  capture(target.pid(), directory / "image");
  const Json json = show(directory / "image", {"maps"});
  const Json& process = process_of(json, target.pid());
  const auto mapping_of = [&](const std::string& region) -> const Json& {
    for (const std::string& line : target.said("range")) {
      std::istringstream words(line);
      std::string pid, name, address;
      words >> pid >> name >> address;
      if (name != region) continue;
      for (const Json* mapping : elements_at(process, "mappings")) {
        const auto number = [&](const char* key) {
          return std::stoull(json_at(*mapping, key), nullptr, 16);
        };
        const uint64_t at = std::stoull(address, nullptr, 16);
        if (number("start") <= at && at < number("end")) return *mapping;
      }
    }
    FAIL("no mapping for " << region);
    return json;
  };
  CHECK(json_at(mapping_of("not-accessible"), "protection") == "0");
  CHECK(json_at(mapping_of("read-only"), "protection") == "1");
  CHECK(json_at(mapping_of("shared-anonymous"), "shared") == "true");
  CHECK(json_at(mapping_of("shared-memfd"), "deleted") == "true");
  CHECK(contains(json_at(mapping_of("shared-memfd"), "name"), "memfd:witness \"memfd\""));
  CHECK(json_at(mapping_of("deleted-file-as-it-is"), "deleted") == "true");
  CHECK(contains(json_at(mapping_of("file-as-it-is"), "name"), "/private file 0"));
  CHECK(json_at(mapping_of("file-as-it-is"), "deleted") == "false");
  CHECK(contains(json_at(mapping_of("left-out-of-cores"), "flags"), "dd"));
  CHECK(contains(json_at(mapping_of("not-inherited"), "flags"), "dc"));
  CHECK(contains(json_at(mapping_of("locked"), "flags"), "lo"));
  // 16 GiB of addresses, five pages behind them.
  CHECK(json_at(mapping_of("sparse-middle"), "rss") == "20480");
  CHECK(target.finish().ok());
}

TEST_CASE("tasks that are half gone are shown as what they are") {
  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "image");
  const Json json = show(directory / "image");
  const auto said = [&](const char* what) -> const Json& {
    return process_of(json, std::stoi(target.said(what).front()));
  };
  CHECK(json_at(said("zombie"), "state") == "Z");
  CHECK(json_at(said("zombie"), "exit_status") == std::to_string(77 << 8));
  CHECK(elements_at(said("zombie"), "threads").empty());
  CHECK(json_at(said("stopped"), "state") == "T");
  CHECK(json_at(said("stopped"), "threads.0.job_stopped") == "true");
  CHECK(json_at(said("orphan"), "parent") == std::to_string(target.pid()));
  CHECK(elements_at(said("headless"), "mappings").size() > 5);
  element_with(said("headless"), "threads", "name", "headless");
  CHECK(target.finish().ok());
}

TEST_CASE("arguments, environment, limits and directories are those of the program") {
  const TempDir directory;
  RunOptions options{.directory = directory.path(),
                     .environment = {{"SNAPGDB_TEST", "a value\nof two lines"}},
                     .before_exec = [] {
                       const rlimit limit{123, 456};
                       setrlimit(RLIMIT_NOFILE, &limit);
                     }};
  Target target("busy", {"--mib", "1", "an argument", ""}, options);
  capture(target.pid(), directory / "image");
  const Json json = show(directory / "image");
  const Json& process = process_of(json, target.pid());
  CHECK(json_at(process, "arguments.3") == "an argument");
  CHECK(json_at(process, "arguments.4") == "");
  CHECK(json_at(process, "working_directory") == directory.path());
  CHECK(json_at(process, "executable") == target_path("busy"));
  CHECK(contains(json_at(process, "environment"), "SNAPGDB_TEST=a value"));
  const Json& limit = element_with(process, "limits", "name", "Max open files");
  CHECK(json_at(limit, "soft") == "123");
  CHECK(json_at(limit, "hard") == "456");
  CHECK(target.finish().ok());
}

// ---- Backtraces ------------------------------------------------------------------------------

Words functions_of(const Json& thread) {
  Words functions;
  for (const Json* frame : elements_at(thread, "frames")) {
    functions.push_back(json_at(*frame, "function"));
  }
  return functions;
}

size_t count_containing(const Words& words, const std::string& part) {
  return std::count_if(words.begin(), words.end(),
                       [&](const std::string& word) { return contains(word, part); });
}

TEST_CASE("backtraces name every function, across a library, an inlined one and a signal") {
  const TempDir directory;
  for (const char* name : {"witness", "witness-static"}) {
    CAPTURE(name);
    Target target(name, {"--alone"});
    capture(target.pid(), directory / "image");
    const Json json = backtraces(directory / "image", std::to_string(target.pid()));
    const auto thread = [&](const char* called) -> const Json& {
      return element_with(json, "processes.0.threads", "name", called);
    };
    const Words deep = functions_of(thread("deep"));
    CAPTURE(deep);
    CHECK(count_containing(deep, "marked_recurse") == 13);
    CHECK(count_containing(deep, "libwitness_call") == 1);
    CHECK(count_containing(deep, "marked_inlined") == 1);
    CHECK(count_containing(deep, "marked_callback") == 1);
    CHECK(contains(functions_of(thread("spin")).front(), "hold_registers_spinning"));
    CHECK(contains(functions_of(thread("pause")).front(), "hold_registers_in_pause"));
    CHECK(count_containing(functions_of(thread("handler")), "marked_handler") == 1);
    CHECK(contains(json_at(thread("handler"), "frames"), "\"signal_frame\":true"));
    CHECK(count_containing(functions_of(thread("witness")), "main") >= 1);
    for (const Json* one : elements_at(json, "processes.0.threads")) {
      CAPTURE(json_at(*one, "name"));
      CHECK(json_at(*one, "end") == "outermost");
    }
    CHECK(target.finish().ok());
  }
}

TEST_CASE("backtraces have files and lines when the program is gone") {
  TempDir programs, results;
  std::filesystem::copy_file(target_path("witness"), programs / "witness");
  std::filesystem::copy_file(target_path("libwitness.so"), programs / "libwitness.so");
  Target target = Target::at(programs / "witness", {"--alone"});
  capture(target.pid(), results / "image");
  const Result before = snapgdb({"bt", results / "image"});
  std::filesystem::remove_all(programs.path());
  const Result after = snapgdb({"bt", results / "image"});
  INFO(after);
  CHECK(after.out == before.out);
  CHECK(contains(after.out, "libwitness.cc:"));
  CHECK(contains(after.out, "witness_threads.cc:"));
  CHECK(target.finish().ok());
}

// What gdb says of each frame. It adds functions that ended in a jump to the next one, of which no
// frame is left (gdb.TAILCALL_FRAME, 3); those are none here.
Words frames_of(const Dump& dump, const std::string& thread) {
  Words frames;
  for (size_t i = 0;; ++i) {
    const auto found = dump.find(fmt::format("{} frame {}", thread, i));
    if (found == dump.end()) return frames;
    if (!found->second.ends_with(" type 3")) frames.push_back(found->second);
  }
}

TEST_CASE("backtraces stand at the same addresses as gdb's, frame by frame") {
  const TempDir directory;
  Target target("witness", {"--alone"});
  capture(target.pid(), directory / "image");
  const Json json = backtraces(directory / "image", std::to_string(target.pid()));
  const Dump dump = dump_with_gdb(
      {"-ex", "target remote | " + program() + " " + directory / "image"}, target.running().out());
  for (const Json* thread : elements_at(json, "processes.0.threads")) {
    const std::string tid = json_at(*thread, "tid");
    const Words in_gdb = frames_of(dump, fmt::format("{} thread {}", target.pid(), tid));
    const auto frames = elements_at(*thread, "frames");
    CAPTURE(tid, in_gdb);
    for (size_t i = 0; i < frames.size(); ++i) {
      // gdb ends at main(), which was called, too.
      if (i == in_gdb.size() && contains(in_gdb.back(), "main at ")) break;
      REQUIRE(i < in_gdb.size());
      CHECK(contains(in_gdb[i], " pc " + json_at(*frames[i], "pc") + " "));
    }
    CHECK(in_gdb.size() <= frames.size());
  }
  CHECK(target.finish().ok());
}

TEST_CASE("one process or one thread can be asked for, and what is not there is refused") {
  const TempDir directory;
  Target target("witness");
  capture(target.pid(), directory / "image");
  const std::string image = directory / "image", pid = std::to_string(target.pid());
  CHECK(elements_at(backtraces(image, pid), "processes").size() == 1);
  const Json one = backtraces(image, pid + "." + pid);
  CHECK(elements_at(one, "processes.0.threads").size() == 1);
  check_refused(snapgdb({"bt", image, "1"}), 1, {image, "1"});
  check_refused(snapgdb({"bt", image, pid + ".1"}), 1, {pid, "1"});
  check_refused(snapgdb({"bt", image, "deep"}), 2, {"deep"});
  check_refused(snapgdb({"show", image, "--pid", "1"}), 1, {"1"});
}

}  // namespace
}  // namespace snapgdb::e2e
