// `snapgdb run`: the program runs as if snapgdb were not there, and its crash is in the image.

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

struct Manner {
  const char* name;
  int signal;          // 0: it exits
  int status;          // if it exits
  const char* reason;  // of the snapshot; nullptr: there is none
};

constexpr Manner kManners[] = {
    {"segv-thread", SIGSEGV, 0, "SIGSEGV"},
    {"abort", SIGABRT, 0, "SIGABRT"},
    {"divide", SIGFPE, 0, "SIGFPE"},
    {"term", SIGTERM, 0, "SIGTERM"},
    {"throw", SIGABRT, 0, "SIGABRT"},
    {"report", SIGSEGV, 0, "SIGSEGV"},
    {"child", 0, 5, "SIGSEGV"},
    {"kill", SIGKILL, 0, nullptr},  // nothing comes before a SIGKILL
    {"recover", 0, 0, nullptr},
    {"status-42", 0, 42, nullptr},
    {"fork-many", 0, 0, nullptr},
    {"exec", 0, 0, nullptr},
    {"ok", 0, 0, nullptr},
};

Result run_crasher(const std::string& image, const Words& arguments, RunOptions options = {}) {
  Words words{"run", "-o", image, "--", target_path("crasher")};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return snapgdb(words, std::move(options));
}

// What the program itself said on standard error.
std::string own_lines(const std::string& err) {
  std::string own;
  for (const std::string& line : lines_of(err)) {
    if (!line.starts_with("snapgdb: ")) own += line + "\n";
  }
  return own;
}

Json summary_of(const std::string& image) {
  return parse_json(snapgdb({"show", image, "--json"}).out);
}

TEST_CASE("a program under snapgdb run ends and speaks as it does without") {
  for (const Manner& manner : kManners) {
    const TempDir directory;
    const Result with = run_crasher(directory / "image", {manner.name});
    const Result without = run({target_path("crasher"), manner.name});
    INFO(manner.name << "\n" << with << "without:\n" << without);
    CHECK(with.signal == manner.signal);
    if (manner.signal == 0) CHECK(with.status == manner.status);
    CHECK(with.signal == without.signal);
    CHECK(with.status == without.status);
    CHECK(with.out == without.out);
    CHECK(own_lines(with.err) == without.err);
    CHECK(directory.names() == (manner.reason ? Words{"image"} : Words{}));
    if (!manner.reason) {
      CHECK(with.err == without.err);
      continue;
    }
    CHECK(snapgdb({"verify", directory / "image"}).ok());
    CHECK(contains(json_at(summary_of(directory / "image"), "snapshot.reason"), manner.reason));
  }
}

TEST_CASE("the image shows the crash: the thread that crashed first, where it crashed") {
  const TempDir directory;
  run_crasher(directory / "image", {"segv-thread"});
  const Json json = summary_of(directory / "image");
  const std::string tid = json_at(json, "snapshot.focus_tid");
  const Json& thread = element_with(json, "processes.0.threads", "tid", tid);
  CHECK(json_at(thread, "name") == "crashing");
  CHECK(json_at(thread, "stop_signal") == std::to_string(SIGSEGV));

  const Result result = gdb({"target remote | " + program() + " " + directory / "image", "bt",
                             "p $_siginfo.si_signo", "p pointer"});
  INFO(result);
  CHECK(contains(result.out, "crash_here"));
  CHECK(contains(result.out, "$1 = 11"));
  CHECK(contains(result.out, "$2 = (volatile int *) 0x0"));
}

TEST_CASE("a crash of a child is captured with its parent, and the child is in focus") {
  const TempDir directory;
  run_crasher(directory / "image", {"child"});
  const Json json = summary_of(directory / "image");
  CHECK(elements_at(json, "processes").size() == 2);
  CHECK(json_at(json, "snapshot.focus_pid") == json_at(json, "processes.1.pid"));
  CHECK(json_at(json, "snapshot.root_pid") == json_at(json, "processes.0.pid"));
  const Result result = gdb({"target remote | " + program() + " " + directory / "image --pid " +
                                 json_at(json, "processes.1.pid"),
                             "bt"});
  INFO(result);
  CHECK(contains(result.out, "crash_here"));
}

TEST_CASE("each death is a snapshot of the image, threads' too, and gdb goes from one to another") {
  const TempDir directory;
  const std::string crasher = target_path("crasher"), image = directory / "image";
  const Result result =
      snapgdb({"run", "-o", image, "--", "sh", "-c",
               crasher + " abort; " + crasher + " segv-thread; " + crasher + " segv-thread; true"});
  INFO(result);
  CHECK(result.ok());
  const Result looked =
      gdb({"target remote | " + program() + " " + image + " --pid " +
               json_at(summary_of(image), "snapshot.root_pid"),
           "monitor snapshots", "monitor goto 1", "maintenance flush register-cache",
           "print (int)getpid()", "monitor goto 3", "print (int)getpid()", "monitor goto 4"});
  INFO(looked);
  for (const char* part : {"   1  ", "*   3  ", "SIGABRT", "SIGSEGV", "This is snapshot 1 of 3",
                           "There is no snapshot 4"})
    CHECK(contains(looked.out + looked.err, part));
  const std::string pid = json_at(summary_of(image), "snapshot.root_pid");
  CHECK(contains(looked.out, "$1 = " + pid));
  CHECK(contains(looked.out, "$2 = " + pid));
}

TEST_CASE("a program is captured before its first instruction, and runs from the image alone") {
  const TempDir directory;
  const std::string image = directory / "image";
  const Result result = snapgdb({"run", "--on", "start", "--kill", "-o", image, "--",
                                 target_path("crasher"), "status-42", "and more"});
  INFO(result);
  CHECK(result.ok());
  CHECK(result.out.empty());
  CHECK(json_at(summary_of(image), "snapshot.reason") == "start");
  const Result looked = gdb({"target remote | " + program() + " " + image, "x/i $pc", "break main",
                             "continue", "print argc", "print argv[2]", "continue"});
  INFO(looked);
  // The first instruction of the dynamic linker; the program, which takes one word, ends by itself.
  for (const char* part : {"mov    %rsp,%rdi", "$1 = 3", "\"and more\"", "exited with code 02"})
    CHECK(contains(looked.out, part));
}

TEST_CASE("what is captured at its start runs on as ever, and its crash is its own") {
  const TempDir directory;
  for (const Manner& manner : {kManners[1], kManners[9]}) {
    const std::string image = directory / manner.name;
    const Result with =
        snapgdb({"run", "--on", "start", "-o", image, "--", target_path("crasher"), manner.name});
    const Result without = run({target_path("crasher"), manner.name});
    INFO(with << "without:\n" << without);
    CHECK(with.signal == without.signal);
    CHECK(with.status == without.status);
    CHECK(with.out == without.out);
    CHECK(json_at(summary_of(image), "snapshot.reason") == "start");
  }
}

TEST_CASE("a program whose start cannot be captured does not run") {
  const Result result = snapgdb(
      {"run", "--on", "start", "-o", "/nonexistent/image", "--", target_path("crasher"), "ok"});
  check_refused(result, 1, {"/nonexistent/image"});
}

TEST_CASE("killing is about the start only") {
  check_refused(snapgdb({"run", "--kill", "-o", "x", "--", "true"}), 2, {"--kill", "--on start"});
}

TEST_CASE("standard input, inherited descriptors and signal dispositions pass through") {
  const TempDir directory;
  RunOptions with_pipe{.input = RunOptions::kPipe};
  Running copying(
      {program(), "run", "-o", directory / "image", "--", target_path("crasher"), "cat"},
      with_pipe);
  copying.write("through ");
  copying.write("and through\n");
  copying.close_input();
  CHECK(copying.wait().out == "through and through\n");

  // Descriptor 7 is open and SIGHUP ignored: the program must find both, and nothing more.
  const std::string shell = "trap '' HUP; exec 7</dev/null; ";
  const std::string crasher = target_path("crasher") + " inherited | grep -v '^parent'";
  const Result without = run({"sh", "-c", shell + crasher});
  const Result with = run({"sh", "-c", shell + program() + " run -o image -- " + crasher},
                          {.directory = directory.path()});
  INFO(with << without);
  CHECK(contains(without.out, "fd 7"));
  CHECK(contains(without.out, "ignored 1"));
  CHECK(with.out == without.out);
}

TEST_CASE("a standard descriptor that is closed is so for the program, too") {
  const TempDir directory;
  const auto inherited = [&](const std::string& closed, const std::string& before) {
    const Result result =
        run({"sh", "-c",
             fmt::format("exec {}; exec {}{} inherited", closed, before, target_path("crasher"))},
            {.directory = directory.path()});
    std::string own;
    for (const std::string& line : lines_of(result.out))
      if (!line.starts_with("parent")) own += line + "\n";
    return own;
  };
  for (const char* closed : {"0<&-", "2>&-", "0<&- 2>&-"}) {
    CAPTURE(closed);
    const std::string without = inherited(closed, "");
    CHECK(contains(without, "fd 1\n"));
    CHECK(inherited(closed, program() + " run -o image -- ") == without);
  }
}

TEST_CASE("the program has the terminal, in the foreground") {
  const TempDir directory;
  // script(1) gives a terminal of its own.
  const Result result = run({"script", "-qec",
                             fmt::format("{} run -o {} -- {} terminal", program(),
                                         directory / "image", target_path("crasher")),
                             "/dev/null"});
  INFO(result);
  CHECK(contains(result.out, "stdin 1 stdout 1 stderr 1 foreground 1"));
}

TEST_CASE("options of the program are not taken for snapgdb's") {
  const TempDir directory;
  const Result result =
      snapgdb({"run", "-o", directory / "image", "--", "echo", "-o", "--help", "--", "x"});
  INFO(result);
  CHECK(result.out == "-o --help -- x\n");
}

TEST_CASE("a program that cannot be started is said to be so") {
  const TempDir directory;
  const Result result =
      snapgdb({"run", "-o", directory / "image", "--", "/nonexistent/program", "x"});
  INFO(result);
  CHECK(result.status != 0);
  CHECK(lines_of(result.err).size() == 1);
  CHECK(result.err.starts_with("snapgdb: "));
  CHECK(contains(result.err, "/nonexistent/program"));
  CHECK(directory.names().empty());
}

TEST_CASE("an image that cannot be written does not change how the program ends") {
  const Result result = run_crasher("/nonexistent/image", {"abort"});
  INFO(result);
  CHECK(contains(result.err, "/nonexistent/image"));
  CHECK((result.signal == SIGABRT || result.status == 1));
}

TEST_CASE("a signal to snapgdb is one to the program") {
  const TempDir directory;
  Running running({program(), "run", "-o", directory / "image", "--", "sh", "-c",
                   "echo started $$; exec sleep 1000"});
  const pid_t program_pid = std::stoi(running.wait_for_line("started ").substr(8));
  kill(running.pid(), SIGTERM);
  const Result result = running.wait();
  INFO(result);
  CHECK(result.signal == SIGTERM);
  CHECK((state_of(program_pid) == 0 || state_of(program_pid) == 'Z'));
}

TEST_CASE("a program that forks and starts threads all the time runs under snapgdb run") {
  const TempDir directory;
  Running running({program(), "run", "-o", directory / "image", "--", target_path("forker")},
                  {.input = RunOptions::kPipe});
  running.wait_for_line("ready");
  usleep(500000);
  running.close_input();
  const Result result = running.wait();
  INFO(result);
  CHECK(result.status == 0);
  CHECK(directory.names().empty());
}

TEST_CASE("job control reaches the program through snapgdb run") {
  const TempDir directory;
  Running running({program(), "run", "-o", directory / "image", "--", "sh", "-c",
                   "echo started $$; read line; echo got $line"},
                  {.input = RunOptions::kPipe});
  const pid_t pid = std::stoi(running.wait_for_line("started ").substr(8));
  kill(pid, SIGSTOP);
  usleep(100000);
  running.write("a line\n");
  usleep(100000);
  CHECK_FALSE(contains(running.out(), "got"));
  kill(pid, SIGCONT);
  running.wait_for_line("got a line");
  CHECK(running.wait().ok());
}

TEST_CASE("the image is not written among what the command writes") {
  for (const char* output : {"-", "/dev/stdout"}) {
    CAPTURE(output);
    const Result result = snapgdb({"run", "-o", output, "--", "echo", "has begun"});
    check_refused(result, 2, {"the command writes there", "-o FILE"});
    CHECK(result.out.empty());
  }
}

TEST_CASE("an image that cannot be written is said to be so before the command begins") {
  const TempDir directory;
  write_file(directory / "file", "");
  for (const std::string& output : {directory.path(), directory / "none/image",
                                    directory / "file/image", directory / "slash/"}) {
    CAPTURE(output);
    const Result result = snapgdb({"run", "-o", output, "--", "echo", "has begun"});
    check_refused(result, 1, {output});
    CHECK(result.out.empty());
  }
  CHECK(directory.names() == Words{"file"});
}

TEST_CASE("an image that may not be written is said to be so before the command begins") {
  if (skip_unless(geteuid() == 0, "needs root to become another user")) return;
  const TempDir directory;
  check_refused(
      snapgdb({"run", "-o", directory / "image", "--", "echo", "has begun"}, {.user = kNobody}), 1,
      {"Permission denied"});
}

// How a program that forks three children, each of which crashes, ends; and its image.
constexpr const char* kThreeCrashes =
    "import os, sys\n"
    "for _ in range(3):\n"
    "  child = os.fork()\n"
    "  if child == 0: os.abort()\n"
    "  os.waitpid(child, 0)\n"
    "sys.exit(7)\n";

TEST_CASE("nobody needs to hear what snapgdb has to say") {
  const TempDir directory;
  const std::string image = directory / "x.snapgdb";
  const std::string command = program() + " run -o " + image + " -- python3 -c \"$0\"";
  // A full device, nothing, a pipe that nobody reads.
  for (const char* nobody : {" 2>/dev/full", " 2>&-", " 2> >(exec 0<&-; exec sleep 1)"}) {
    CAPTURE(nobody);
    const Result end = run({"bash", "-c", command + nobody, kThreeCrashes});
    INFO(end);
    CHECK(end.status == 7);
    CHECK(snapgdb({"show", image + "@3"}).ok());
    std::filesystem::remove(image);
  }
}

TEST_CASE("what keeps a snapshot from being taken does not change how the program ends") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  constexpr uid_t kNobodyElse = 54'329;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  const Result end = snapgdb({"run", "-o", directory / "x.snapgdb", "--", "python3", "-c",
                              "import os, sys\n"
                              "if os.fork() == 0: os.abort()\n"
                              "os.wait(); sys.exit(7)"},
                             {.user = kNobodyElse, .before_exec = [] {
                                const rlimit limit{3, 3};
                                setrlimit(RLIMIT_NPROC, &limit);
                              }});
  INFO(end);
  CHECK(end.status == 7);
  CHECK(contains(end.err, "no snapshot: cannot start a thread"));
}

TEST_CASE("a crash after the first thread has ended is captured") {
  const TempDir directory;
  const Result end = snapgdb({"run", "-o", directory / "x.snapgdb", "--", "python3", "-c",
                              "import ctypes, os, threading, time\n"
                              "def crash():\n"
                              "  while ' Z ' not in open(f'/proc/{os.getpid()}/stat').read():\n"
                              "    time.sleep(0.01)\n"
                              "  ctypes.string_at(8)\n"
                              "threading.Thread(target=crash).start()\n"
                              "ctypes.CDLL(None).pthread_exit(None)"});
  INFO(end);
  CHECK(end.signal == SIGSEGV);
  check_says(snapgdb({"show", directory / "x.snapgdb"}), {"SIGSEGV"});
}

TEST_CASE("a program that its own filter of system calls has killed is said to have no snapshot") {
  const TempDir directory;
  // prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER): SECCOMP_RET_KILL_PROCESS for everything.
  const Result end =
      snapgdb({"run", "-o", directory / "x.snapgdb", "--", "python3", "-c",
               "import ctypes, struct\n"
               "libc = ctypes.CDLL(None)\n"
               "program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x80000000))\n"
               "filters = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))\n"
               "libc.prctl(38, 1, 0, 0, 0); libc.prctl(22, 2, filters)"});
  INFO(end);
  CHECK(end.signal == SIGSYS);
  CHECK(contains(end.err, "no snapshot: SIGSYS ended process"));
  CHECK(directory.names().empty());
}

TEST_CASE("processes that have the number of one that died before are captured, too") {
  if (skip_unless(geteuid() == 0, "only root chooses numbers")) return;
  const TempDir directory;
  const std::string image = directory / "x.snapgdb";
  const Result end = run({"unshare", "--pid", "--fork", "--mount-proc", program(), "run", "-o",
                          image, "--", "python3", "-c",
                          "import os, sys\n"
                          "for _ in range(3):\n"
                          "  open('/proc/sys/kernel/ns_last_pid', 'w').write('70')\n"
                          "  child = os.fork()\n"
                          "  if child == 0: os.abort()\n"
                          "  assert child == 71, child\n"
                          "  os.waitpid(child, 0)\n"
                          "sys.exit(7)"});
  INFO(end);
  CHECK(end.status == 7);
  CHECK(snapgdb({"show", image + "@3"}).ok());
}

TEST_CASE("where /proc does not tell of the program, it is not begun") {
  if (skip_unless(geteuid() == 0, "namespaces take root")) return;
  const TempDir directory;
  const Result end = run({"unshare", "--pid", "--fork", program(), "run", "-o",
                          directory / "x.snapgdb", "--", "touch", directory / "begun"});
  INFO(end);
  CHECK(end.status == 1);
  check_says(end, {"/proc is that of another pid namespace", "mount -t proc"});
  CHECK(directory.names().empty());
}

TEST_CASE("what the program leaves running goes on unwatched, which is said") {
  const TempDir directory;
  // Its end is that of standard input. It is known once it has run.
  Running running({program(), "run", "-o", "x.snapgdb", "--", "sh", "-c",
                   "mkfifo fifo; exec 3<&0\n"
                   "(echo up; exec cat <&3 >/dev/null) >fifo &\n"
                   "read up <fifo; exit 4"},
                  {.input = RunOptions::kPipe, .directory = directory.path()});
  const Result end = running.wait();
  running.close_input();
  INFO(end);
  CHECK(end.status == 4);
  CHECK(end.out.empty());
  CHECK(end.err == "snapgdb: 1 process goes on unwatched\n");
}

TEST_CASE("a program that is no longer there comes from its image, which is said") {
  const TempDir directory;
  const std::string image = directory / "image", path = directory / "program";
  std::filesystem::copy_file(target_path("crasher"), path);
  REQUIRE(snapgdb({"run", "--on", "start", "--kill", "-o", image, "--", path, "ok"}).ok());
  std::filesystem::remove(path);
  check_says(snapgdb({"restore", image, "--dry-run"}), {path + " is not here"});
  std::filesystem::copy_file(target_path("restricted"), path);
  check_says(snapgdb({"restore", image, "--dry-run"}), {path + " is another one here"});
}

TEST_CASE("^C that only snapgdb is sent reaches the program") {
  const TempDir directory;
  Running running({program(), "run", "-o", directory / "x.snapgdb", "--", "python3", "-c",
                   "import signal, sys, time\n"
                   "signal.signal(signal.SIGINT, lambda *_: sys.exit(9))\n"
                   "print('ready', flush=True)\n"
                   "while True: time.sleep(1)"});
  running.wait_for_line("ready");
  ::kill(running.pid(), SIGINT);
  const Result end = running.wait();
  INFO(end);
  CHECK(end.status == 9);
}

}  // namespace
}  // namespace snapgdb::e2e
