// snapgdb restore --isolated: trees that run again, and touch nothing outside.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

// As whom to try it: root, and whoever else there is.
std::vector<std::optional<uid_t>> users() {
  if (geteuid() != 0) return {std::nullopt};
  return {std::nullopt, kNobody};
}

// A scratch directory of that user's.
struct DirectoryOf : TempDir {
  explicit DirectoryOf(std::optional<uid_t> user) {
    if (user) REQUIRE(chown(path().c_str(), *user, *user) == 0);
  }
};

// A shell that has said "ready", and does the rest when it gets a line.
Running shell(const std::string& before, const std::string& after, RunOptions options) {
  options.input = RunOptions::kPipe;
  Running running({"bash", "-c", before + "; echo ready; read line; " + after}, options);
  running.wait_for_line("ready");
  usleep(100'000);
  return running;
}

// A listening socket on loopback, and its port.
struct Listener {
  Listener() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(bind(socket.get(), any, size) == 0);
    REQUIRE(listen(socket.get(), 1) == 0);
    REQUIRE(getsockname(socket.get(), any, &size) == 0);
    port = ntohs(address.sin_port);
  }
  Fd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  int port = 0;
};

// ---- Files --------------------------------------------------------------------------------------

TEST_CASE("what an isolated tree writes lands in a scratch, and files outside stay as they are") {
  for (const auto user : users()) {
    CAPTURE(user.value_or(0));
    const DirectoryOf directory(user);
    const std::string image = directory / "image", work = directory / "work";
    fs::create_directory(work);
    if (user) REQUIRE(chown(work.c_str(), *user, *user) == 0);
    Running program = shell("cd work; echo before >data; echo x >gone; exec 3>>data",
                            "echo after >&3; rm gone; echo new >new; mkdir -p a/b; "
                            "echo deep >a/b/c; cat data; ls",
                            {.directory = directory.path(), .user = user});
    take_away(program, image, {.user = user});
    // Others go on working beside it, with files that they keep to themselves.
    const Running others({"bash", "-c",
                          "umask 077; echo x >kept; while :; do file=$(mktemp noise.XXXXXX); "
                          "echo x | tee -a kept >$file; rm $file; done"},
                         {.directory = directory.path()});
    for (int round = 0; round < 5; ++round) {
      const std::string scratch = fmt::format("{}/scratch{}", directory.path(), round);
      const Result end =
          run_again(image, {"--isolated", "--scratch", scratch}, {.user = user}, "\n");
      INFO(end);
      CHECK(end.ok());
      CHECK(end.out == "before\nafter\na\ndata\nnew\n");
      CHECK(contains(end.err, "4 files that it wrote or removed: see " + scratch));
      CHECK(read_file(scratch + work + "/data") == "before\nafter\n");
      CHECK(read_file(scratch + work + "/new") == "new\n");
      CHECK(read_file(scratch + work + "/a/b/c") == "deep\n");
      CHECK(read_file(scratch + "/removed") == work + "/gone\n");
      CHECK(read_file(work + "/data") == "before\n");
      CHECK(fs::exists(work + "/gone"));
      CHECK_FALSE(fs::exists(work + "/new"));
    }
  }
}

TEST_CASE("a tree that writes nothing leaves no scratch") {
  const TempDir directory;
  Running program = shell("true", "exit 5", {});
  take_away(program, directory / "image");
  const Result end =
      run_again(directory / "image", {"--isolated", "--scratch", directory / "scratch"}, {}, "\n");
  INFO(end);
  CHECK(end.status == 5);
  CHECK_FALSE(fs::exists(directory / "scratch"));
}

TEST_CASE("a scratch may be named as directories are, with a slash at the end") {
  const TempDir directory;
  Running program =
      shell("true", "echo x >$HOME/new", {.environment = {{"HOME", directory.path()}}});
  take_away(program, directory / "image");
  const Result end =
      run_again(directory / "image", {"--isolated", "--scratch", directory / "scratch/"}, {}, "\n");
  INFO(end);
  CHECK(read_file(directory / "scratch" + directory.path() + "/new") == "x\n");
  CHECK(fs::exists(directory / "image"));
}

TEST_CASE("a scratch that exists already is refused, and stays as it is") {
  const TempDir directory;
  fs::create_directory(directory / "scratch");
  std::ofstream(directory / "scratch/file") << "mine";
  Running program = shell("true", "true", {});
  take_away(program, directory / "image");
  const Result end =
      run_again(directory / "image", {"--isolated", "--scratch", directory / "scratch"});
  INFO(end);
  CHECK(end.status == 1);
  CHECK(contains(end.err, "it exists already"));
  CHECK(read_file(directory / "scratch/file") == "mine");
}

TEST_CASE("two isolated restores at the same time do not see each other") {
  const TempDir directory;
  Running program = shell("cd $PWD; echo 0 >count",
                          "for i in 1 2 3 4 5; do echo $(($(cat count) + 1)) >count; sleep 0.1; "
                          "done; cat count; echo $$; kill -0 $$; set -- /proc/[0-9]*; echo $#",
                          {.directory = directory.path()});
  const pid_t pid = program.pid();
  take_away(program, directory / "image");
  const auto start = [&] {
    Running restored({snapgdb::e2e::program(), "restore", "--isolated", directory / "image"},
                     {.input = RunOptions::kPipe});
    restored.write("\n");
    return restored;
  };
  Running first = start(), second = start();
  for (Running* restored : {&first, &second}) {
    const Result end = restored->wait();
    INFO(end);
    CHECK(end.out == fmt::format("5\n{}\n2\n", pid));  // itself, and who keeps it
    fs::remove_all(end.err.substr(end.err.rfind(' ') + 1, end.err.size() - end.err.rfind(' ') - 2));
  }
  CHECK(read_file(directory / "count") == "0\n");
}

// Where others' directories lie above, the one in which the tree works is imitated for it.
TEST_CASE("an isolated tree of a user's has a FIFO that lies beside its working directory") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  for (const char* then : {"", "; os.rmdir(directory + '/work')"}) {
    CAPTURE(then);
    TakenPython program(
        fmt::format(
            "os.mkdir(directory + '/work'); os.chdir(directory + '/work'){}\n"
            "os.mkfifo(directory + '/fifo'); fifo = os.open(directory + '/fifo', os.O_RDWR)\n"
            "os.write(fifo, b'x')",
            then),
        "assert os.read(fifo, 1) == b'x'", {.user = kNobody});
    program.take({.user = kNobody});
    program.check_runs_again({.user = kNobody});
  }
}

TEST_CASE(
    "large files beside the directories of a user's isolated tree are said to be unwritable") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  TakenPython program(
      "os.mkdir(directory + '/work'); os.chdir(directory + '/work')\n"
      "for name in 'abc': open(directory + '/' + name, 'wb').write(bytes(2 << 20))",
      "try: open(directory + '/a', 'ab'); sys.exit(1)\n"
      "except OSError: pass",
      {.user = kNobody});
  program.take({.user = kNobody});
  const Result end = run_again(program.image, {"--isolated"}, {.user = kNobody});
  INFO(end);
  CHECK(end.ok());
  // Other tests have such files, too.
  const std::string files = " other files cannot be written to in the sandbox\n";
  CHECK(contains(end.err, files));
  CHECK(end.err.find(files) == end.err.rfind(files));
  for (const char* name : {"/a", "/b", "/c"})
    CHECK_FALSE(contains(end.err, program.directory / name + " cannot be written to"));
}

TEST_CASE("an executable that is gone comes from the image, and can be executed again") {
  for (const auto user : users()) {
    CAPTURE(user.value_or(0));
    const DirectoryOf directory(user);
    const std::string copy = directory / "my-bash", image = directory / "image";
    fs::copy_file("/bin/bash", copy);
    Running program(
        {copy, "-c",
         "echo ready; read line; readlink /proc/$$/exe; " + copy + " -c 'echo again'; exit 3"},
        {.input = RunOptions::kPipe, .user = user});
    program.wait_for_line("ready");
    usleep(100'000);
    take_away(program, image, {.user = user});
    fs::remove(copy);
    const Result outside = run_again(image, {}, {.user = user}, "\n");
    INFO(outside);
    const Result end = run_again(image, {"--isolated"}, {.user = user}, "\n");
    INFO(end);
    CHECK(end.out == copy + "\nagain\n");
    CHECK(end.status == 3);
    CHECK_FALSE(fs::exists(copy));
  }
}

TEST_CASE("a tree of another kernel has its vDSO, which leads to this kernel's") {
  const TempDir directory;
  Target program("foreign_vdso");
  take_away(program.running(), directory / "image");
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", options);
    INFO(end);
    CHECK(end.ok());
    CHECK(contains(end.err, "the vDSO is that of another kernel"));
  }
}

// ---- Everything else outside --------------------------------------------------------------------

TEST_CASE("the network of an isolated tree reaches nothing, but itself") {
  const TempDir directory;
  const Listener listener;
  Running program = shell("true",
                          fmt::format("exec 2>&1; exec 5<>/dev/tcp/127.0.0.1/{0} && echo reached; "
                                      "grep -c : /proc/net/dev",
                                      listener.port),
                          {});
  take_away(program, directory / "image");
  const Result end = run_again(directory / "image", {"--isolated"}, {}, "\n");
  INFO(end);
  CHECK(contains(end.out, "Connection refused"));
  CHECK(contains(end.out, "\n1\n"));  // lo
  CHECK_FALSE(contains(end.out, "reached"));
}

TEST_CASE("a descriptor that cannot be had fails as a lost connection, and is listed") {
  const TempDir directory;
  const std::string name = directory / "name";
  Running outside({"python3", "-c",
                   "import socket, sys\n"
                   "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
                   "print('ready', flush=True); c = s.accept(); input()\n",
                   name},
                  {.input = RunOptions::kPipe});
  outside.wait_for_line("ready");
  Running python({"python3", "-c",
                  "import socket, sys\n"
                  "a = socket.socket(socket.AF_UNIX); a.connect(sys.argv[1])\n"
                  "print('ready', flush=True); input()\n"
                  "try: a.send(b'x'); print('sent')\n"
                  "except OSError as error: print(type(error).__name__)\n"
                  "print(a.recv(10))\n",
                  name},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  usleep(100'000);
  const pid_t pid = python.pid();
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image", {"--isolated"}, {}, "\n");
  INFO(end);
  CHECK(end.out == "BrokenPipeError\nb''\n");
  CHECK(contains(end.err, fmt::format("process {}: descriptor 3, socket:", pid)));
  CHECK(contains(end.err, "fails as a lost connection would"));
}

TEST_CASE("an isolated tree may become other users, and has no power outside") {
  if (skip_unless(geteuid() == 0, "only root has power outside")) return;
  const TempDir directory;
  const std::string name = read_file("/proc/sys/kernel/hostname");
  Running program = shell("true",
                          "setpriv --reuid 1000 --regid 1000 --clear-groups id -u; id -u; "
                          "hostname elsewhere && hostname; "
                          "echo 1 >/proc/sys/vm/drop_caches && echo power; "
                          "echo h >/proc/sysrq-trigger && echo power; "
                          "mount -o remount,rw /sys && echo power; kill -0 1 && echo 1",
                          {});
  take_away(program, directory / "image");
  const Result end = run_again(directory / "image", {"--isolated"}, {}, "\n");
  INFO(end);
  CHECK(end.out == "1000\n0\nelsewhere\n1\n");  // 1 is who keeps the tree
  CHECK(read_file("/proc/sys/kernel/hostname") == name);
}

TEST_CASE("an ordinary user runs again what root ran, as root of their own") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  fs::permissions(directory.path(), fs::perms::all);
  Running program = shell("true", "id -u; (exit 4) & wait $!; exit $?", {.directory = "/"});
  take_away(program, directory / "image");
  fs::permissions(directory / "image", fs::perms::all);
  const Result refused = run_again(directory / "image", {}, {.user = kNobody});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "it belongs to user 0"));
  CHECK(contains(refused.err, "--isolated"));
  const Result end = run_again(directory / "image", {"--isolated"}, {.user = kNobody}, "\n");
  INFO(end);
  CHECK(end.out == "0\n");
  CHECK(end.status == 4);
}

TEST_CASE("processes, threads, registers and memory are as they were, isolated too") {
  const TempDir directory;
  Target witness("witness");
  std::ofstream(witness.scratch() + "/restored").put('\n');
  take_away(witness.running(), directory / "image");
  const Result end =
      run_again(directory / "image", {"--isolated", "--scratch", directory / "scratch"});
  INFO(end);
  CHECK(end.ok());
}

// In whose pid namespaces the first process waits for all others, which we hold.
TEST_CASE("a restore that fails halfway ends") {
  const TempDir directory;
  Running python({"unshare", geteuid() == 0 ? "-pf" : "-Urpf", "python3", "-c",
                  "import mmap, os, sys\n"
                  "whole = mmap.mmap(-1, 8 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
                  "if os.fork() == 0: print('ready', flush=True)\n"
                  "sys.stdin.read()\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  for (const Words& way : {Words{}, Words{"--isolated"}}) {
    const Result failed = run_again(directory / "image", way, {.before_exec = [] {
                                      const rlimit little{4ul << 30, 4ul << 30};
                                      setrlimit(RLIMIT_AS, &little);
                                    }});
    INFO(failed);
    CHECK(failed.status == 1);
    CHECK(contains(failed.err, "Cannot allocate memory"));
  }
}

TEST_CASE("an isolated restore that is killed leaves nothing behind") {
  const TempDir directory;
  Target crowd("crowd", {"--processes", "10", "--threads", "3"});
  take_away(crowd.running(), directory / "image");
  check_killed_at_any_moment({program(), "restore", "--isolated", directory / "image"}, 15,
                             100'000);
}

}  // namespace
}  // namespace snapgdb::e2e
