// gdb (and lldb) connected to an image: what a person types, and what must come of it.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

// An image to be served. The static program where its libraries do not matter: gdb is done sooner.
struct Served {
  explicit Served(const char* name = "witness-static", const Words& arguments = {"--alone"})
      : target(name, arguments) {
    capture(target.pid(), image);
  }

  // gdb, connected as the manual says: with no other argument.
  Result gdb_says(Words commands, const std::string& more = "") const {
    commands.insert(commands.begin(), "target remote | " + program() + " " + image + more);
    return gdb(commands);
  }

  TempDir directory;
  std::string image = directory / "image.snapgdb";
  Target target;
};

TEST_CASE("gdb shows every thread by its name, however odd") {
  const Served served;
  const Result result = served.gdb_says({"info threads"});
  check_says(result, {"\"witness\"", "\"spin\"", "\"pause\"", "\"deep\"", "\"handler\"",
                      "odd <&>\"'%s \xc3\xa9", "\"tiles\""});
  CHECK_FALSE(contains(result.err, "warning: `"));
}

TEST_CASE("gdb shows registers up to the last vector register") {
  const Served served;
  // The spinning thread is the second, since threads come in order of age.
  const Result result = served.gdb_says({"thread find spin", "thread 2", "p/x $r15", "p $r14",
                                         "p/x $mxcsr", "p/x $fctrl", "info registers rip fs_base"});
  check_says(result, {
                         "$1 = 0xffffffffffffffff",
                         "$2 = 0",
                         "0x7f80",
                         "0xf7f",
                         "hold_registers_spinning",
                     });
}

TEST_CASE("gdb reads globals, thread-locals, the heap, files and arguments") {
  const Served served("witness");
  check_says(served.gdb_says({"p witness_least", "p witness_struct.numbers[1]", "thread 3",
                              "p witness_tls", "p libwitness_tls", "p libwitness_global",
                              "info auxv", "info sharedlibrary", "p (char*)witness_constant"}),
             {"$1 = -9223372036854775808", "$2 = inf", "$3 = 28673", "$4 = -28673",
              "$5 = 1274518694545850385", "AT_PHDR", "libwitness.so", "constant \\001\\377 text"});
}

TEST_CASE("a program that the dynamic linker was told to run has its symbols and variables") {
  const TempDir directory;
  const std::string image = directory / "image.snapgdb";
  const Target target =
      Target::at("/lib64/ld-linux-x86-64.so.2", {target_path("witness"), "--alone"});
  capture(target.pid(), image);
  check_says(gdb({"target remote | " + program() + " " + image, "p witness_least", "thread 3",
                  "p witness_tls", "p libwitness_tls", "info sharedlibrary"}),
             {"$1 = -9223372036854775808", "$2 = 28673", "$3 = -28673", "libwitness.so",
              "/targets/witness"});
}

TEST_CASE("a library is the mapped one, wherever its name leads by now, and in what runs") {
  namespace fs = std::filesystem;
  const TempDir directory;
  const std::string image = directory / "image.snapgdb", name = directory / "libwitness.so";
  const std::string library = read_file(target_path("libwitness.so"));
  fs::copy(target_path("witness"), directory / "witness");
  fs::copy(target_path("libwitness.so"), directory / "libwitness.so.1");
  fs::create_symlink("libwitness.so.1", name);
  {
    const Target target = Target::at(directory / "witness", {"--alone"});
    capture(target.pid(), image, {"--all-memory"});
  }
  fs::remove(name);
  fs::remove(directory / "libwitness.so.1");
  std::ofstream(directory / "libwitness.so.2") << "no library";
  fs::create_symlink("libwitness.so.2", name);
  const auto get = [&](const std::string& as) {
    return "remote get " + name + " " + (directory / as);
  };
  check_says(gdb({"target remote | " + program() + " " + image, "info sharedlibrary", get("looked"),
                  "p libwitness_global", "thread find spin", "thread 2", "stepi", get("ran")}),
             {"target:" + name, "$1 = 1274518694545850385", "its content comes from the image"});
  CHECK(read_file(directory / "looked") == library);
  CHECK(read_file(directory / "ran") == library);
}

TEST_CASE("what is not in the image is an error, never zeros") {
  const Served served;
  std::string kept_out;
  for (const std::string& line : served.target.said("range")) {
    if (contains(line, "left-out-of-cores")) kept_out = line.substr(line.find("0x"));
  }
  kept_out = kept_out.substr(0, kept_out.find(' '));
  const Result result = served.gdb_says({"x/2gx " + kept_out, "x/2gx 0x10"});
  check_says(result, {"Cannot access memory at address " + kept_out,
                      "Cannot access memory at address 0x10"});
}

TEST_CASE("set var works for the session and leaves the image as it is") {
  const Served served;
  const std::string before = read_file(served.image);
  check_says(served.gdb_says({"set var witness_zero = 4711", "p witness_zero", "thread 2",
                              "set var $rbx = 0x1234", "p $rbx", "set var $xmm3.v2_int64[1] = 0x77",
                              "p $xmm3.v2_int64[1]", "frame function main", "p witness_zero"}),
             {"$1 = 4711", "$2 = 4660", "$3 = 119", "$4 = 4711"});
  CHECK(read_file(served.image) == before);
  check_says(served.gdb_says({"p witness_zero"}), {"$1 = 0"});
}

TEST_CASE("continue, step and calls say clearly that a snapshot does not run") {
  const Served served;
  Words commands;
  const Words refused{"continue", "stepi", "next", "finish", "print libwitness_call(0,1)"};
  for (const std::string& command : refused) {
    commands.insert(commands.end(), {"echo <" + command + ">\\n", command});
  }
  commands.insert(commands.end(), {"echo <end>\\n", "p witness_minus_one"});
  const Result result = served.gdb_says(commands);
  INFO(result);
  CHECK(contains(result.out, "$1 = -1"));  // the session goes on
  // Errors come on standard error, in the order of the commands.
  size_t said = 0;
  for (const std::string& line : lines_of(result.out + result.err)) {
    said += contains(line, "snapshot") && !contains(line, "monitor ps");
  }
  CHECK(said >= refused.size());
}

// What gdb has of its stub, if that is started by the shell of this name: one socket for packets,
// and one for what is said aside, until that has ended.
std::string sockets_with(const std::string& shell, const std::string& target, bool non_stop) {
  const std::string count =
      "python import os; links = ['/proc/self/fd/' + fd for fd in os.listdir('/proc/self/fd')]; "
      "print('sockets:', sum(os.path.realpath(link).find('socket:') >= 0 for link in links))";
  const Result result = gdb({non_stop ? "set non-stop on" : "set non-stop off", target, count}, {},
                            {.environment = {{"SHELL", shell}}});
  INFO(shell << '\n' << result);
  const size_t at = result.out.find("sockets: ");
  REQUIRE(at != result.out.npos);
  return result.out.substr(at, result.out.find('\n', at) - at);
}

TEST_CASE("gdb need not look at the stub's standard error, but where that has something to say") {
  const Served served;
  const std::string target = "target remote | " + program() + " " + served.image;
  // bash(1) becomes the stub, dash(1) waits for it and holds what it was given.
  for (const std::string shell : {"/bin/bash", "/bin/dash"}) {
    CHECK(sockets_with(shell, target, false) == "sockets: 1");
    CHECK(sockets_with(shell, target, true) == "sockets: 2");
  }
}

TEST_CASE("standard error that is the way of replies as well stays open") {
  const Served served;
  check_says(served.gdb_says({"p witness_minus_one"}, " 2>&1"), {"$1 = -1"});
}

TEST_CASE("breakpoints and watchpoints do not end the session") {
  const Served served;
  check_says(served.gdb_says({"break main", "watch witness_zero", "delete", "bt", "kill"}),
             {"Breakpoint 1", "main"});
}

TEST_CASE("monitor says what it can do, and does it") {
  const Served served;
  check_says(served.gdb_says({"monitor help", "monitor ps", "monitor frobnicate"}),
             {"monitor ps", "monitor missing", std::to_string(served.target.pid()), "witness",
              "frobnicate"});
}

TEST_CASE("option --pid shows another process of the tree, and a wrong one is refused") {
  const Served served("witness-static", {});
  const pid_t another = served.target.processes().back();
  check_says(served.gdb_says({"info inferiors"}, fmt::format(" --pid {}", another)),
             {fmt::format("process {}", another)});
  // Without it, it says how to reach the others.
  check_says(served.gdb_says({"p witness_minus_one"}), {"$1 = -1", "--pid", "snapgdb debug"});
  check_refused(snapgdb({served.image, "--pid", "1"}, {.input = RunOptions::kPipe}), 1, {"1"});
}

TEST_CASE("snapgdb debug has every process as an inferior") {
  const Served served("witness-static", {});
  const Result result = snapgdb({"debug", served.image, "--", "-nx", "-batch", "-ex",
                                 "info inferiors", "-ex", "thread apply all bt 3"});
  INFO(result);
  CHECK(result.status == 0);
  for (const pid_t pid : served.target.processes()) {
    CHECK(contains(result.out, fmt::format("process {}", pid)));
  }
  CHECK_FALSE(contains(result.out, "?? ()"));
}

TEST_CASE("snapgdb debug passes on gdb's exit status") {
  const Served served;
  CHECK(snapgdb({"debug", served.image, "--", "-nx", "-batch", "-ex", "quit 17"}).status == 17);
}

TEST_CASE("gdb shows why an image cannot be opened, however soon that is known") {
  for (int i = 0; i < 10; ++i)
    check_says(gdb({"target remote | " + program() + " /nowhere/at.all"}),
               {"/nowhere/at.all", "No such file or directory"});
}

// ---- Over a socket ---------------------------------------------------------------------------

std::string wait_for_listening(Running& server) {
  for (int i = 0; i < 30000 && !server.exited(); ++i) {
    const std::string said = server.err();
    const size_t at = said.find("listening on ");
    if (at != said.npos && contains(said.substr(at), "\n")) {
      const std::string rest = said.substr(at + 13);
      return rest.substr(0, rest.find('\n'));
    }
    usleep(2000);
  }
  FAIL("snapgdb serve does not say where it listens: " << server.err());
  return "";
}

TEST_CASE("serve listens at a unix socket, for one debugger after the other") {
  const Served served;
  const std::string path = served.directory / "socket";
  Running server({program(), "serve", served.image, "--listen", "unix:" + path});
  wait_for_listening(server);
  for (int i = 0; i < 2; ++i) {
    check_says(gdb({"target remote " + path, "p witness_least"}), {"$1 = -9223372036854775808"});
  }
  CHECK_FALSE(server.exited());
}

TEST_CASE("lldb connects and shows the same threads") {
  const Served served("witness");
  Running server({program(), "serve", served.image, "--listen", "tcp:127.0.0.1:0"});
  const std::string address = wait_for_listening(server);
  const std::string port = address.substr(address.rfind(':') + 1);
  const Result result =
      run({"lldb", "--no-lldbinit", "--batch", "-o", "gdb-remote 127.0.0.1:" + port, "-o",
           "thread list", "-o", "thread backtrace all", "-o", "register read r15"});
  check_says(result, {"name = 'deep'", "marked_recurse", "libwitness_call"});
}

TEST_CASE("a client that goes away in the middle does no harm to the server") {
  const Served served;
  const std::string path = served.directory / "socket";
  Running server({program(), "serve", served.image, "--listen", "unix:" + path});
  wait_for_listening(server);
  for (const char* garbage : {"", "$g#", "\x03", "$qSupported:x#00", "+++", "$vFile:open:#9a"}) {
    Running client({"python3", "-c",
                    "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
                    "s.send(sys.argv[2].encode())",
                    path, garbage});
    CHECK(client.wait().ok());
  }
  check_says(gdb({"target remote " + path, "p witness_minus_one"}), {"$1 = -1"});
}

TEST_CASE("a process that is not in the image is said to be so before anybody connects") {
  const Served served;
  check_refused(snapgdb({"serve", served.image, "--pid", "1", "--listen", "tcp:127.0.0.1:0"}), 1,
                {"process 1"});
}

TEST_CASE("debug finds a place for its socket, however long the names of directories are") {
  const Served served;
  const std::string deep = served.directory / std::string(120, 'd');
  std::filesystem::create_directory(deep);
  const Result result =
      snapgdb({"debug", served.image, "--", "-nx", "-batch", "-ex", "p witness_minus_one"},
              {.environment = {{"XDG_RUNTIME_DIR", deep}, {"TMPDIR", deep}}});
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, "$1 = -1"));
  CHECK(std::filesystem::is_empty(deep));
}

}  // namespace
}  // namespace snapgdb::e2e
