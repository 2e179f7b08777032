// Programs that nobody here wrote, taken away in the midst of their work: restored, they go on with
// it, and come to the result that they come to undisturbed.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <iostream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

// Everything that is run is for bash, in an empty directory.
struct Program {
  std::string name;
  Words needs;
  std::string prepare;  // before anything is measured
  std::string work;     // says "begun" as its first line
  int seconds = 1;      // how long it works before it is taken away
};

const Program kPython{.name = "python3 with processes and threads",
                      .needs = {"python3"},
                      .prepare = R"end(cat >work.py <<'END'
import hashlib, multiprocessing, threading, time
def digest(number):
    text = str(number)
    for _ in range(3000): text = hashlib.sha256(text.encode()).hexdigest()
    return text
def work():
    counts = [0] * 4
    def count(i):
        for _ in range(300): counts[i] += 1; time.sleep(0.01)
    threads = [threading.Thread(target=count, args=(i,)) for i in range(4)]
    for thread in threads: thread.start()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        for number, text in enumerate(pool.imap(digest, range(400))): print(number, text)
    for thread in threads: thread.join()
    print(counts)
print("begun", flush=True)
work()
END
)end",
                      .work = "exec python3 work.py"};

const Program kPipeline{
    .name = "a pipeline of bash, sort and sha256sum",
    .needs = {"bash", "sort", "sha256sum"},
    .prepare = "",
    .work =
        "echo begun; for i in {1..400}; do seq $i 37 20000; sleep 0.005; done | "
        "sort -n | (sleep 1; tee sorted) | while read line; do echo \"<$line>\"; done | sha256sum; "
        "sha256sum <sorted"};

const Program kCompiler{.name = "g++ under make",
                        .needs = {"g++", "make"},
                        .prepare = R"end(
for i in 1 2 3; do printf '#include <regex>\n#include <iostream>\nvoid part%d() { std::cout <<
std::regex_replace("part 0", std::regex("[0-9]"), "%d") << std::endl; }\n' $i $i >part$i.cc; done
printf 'void part1(); void part2(); void part3(); int main() { part1(); part2(); part3(); }' >main.cc
printf 'program: main.o part1.o part2.o part3.o\n\tg++ -o $@ $^\n%%.o: %%.cc\n\tg++ -O1 -c $<\n' >Makefile
)end",
                        .work = "echo begun; make -sj2 && ./program"};

const Program kGo{.name = "a program in Go",
                  .needs = {"go"},
                  .prepare = R"end(cat >work.go <<'END'
package main
import ("crypto/sha256"; "fmt"; "sync")
func main() {
	fmt.Println("begun")
	sums := make([][32]byte, 4)
	var all sync.WaitGroup
	for i := range sums {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			for n := 0; n < 12000000; n++ { sums[i] = sha256.Sum256(append(sums[i][:], byte(i))) }
		}(i)
	}
	all.Wait()
	fmt.Printf("%x\n", sums)
}
END
GOCACHE=$PWD/cache GO111MODULE=off go build -o work work.go)end",
                  .work = "exec ./work"};

const Program kJava{.name = "a program in Java",
                    .needs = {"java"},
                    .prepare = R"end(cat >Work.java <<'END'
import java.util.*;
public class Work {
  public static void main(String[] words) throws Exception {
    System.out.println("begun");
    List<Thread> threads = new ArrayList<>();
    long[] sums = new long[4];
    for (int i = 0; i < 4; ++i) {
      final int number = i;
      threads.add(new Thread(() -> {
        Map<Integer, String> map = new HashMap<>();
        for (int n = 0; n < 15000000; ++n) {
          map.put(n % 50000, "value " + n * number);
          sums[number] += map.get((n * 7) % (n % 50000 + 1)) == null ? 1 : n;
        }
      }));
    }
    for (Thread thread : threads) thread.start();
    for (Thread thread : threads) thread.join();
    System.out.println(Arrays.toString(sums));
  }
}
END
)end",
                    .work = "exec java -Xmx128m Work.java",
                    .seconds = 2};

const Program kSqlite{.name = "sqlite in a transaction",
                      .needs = {"python3"},
                      .prepare = R"end(cat >work.py <<'END'
import sqlite3, time
database = sqlite3.connect("database", isolation_level=None)
database.execute("create table numbers (number integer primary key, text text)")
database.execute("begin immediate")
print("begun", flush=True)
for number in range(200000):
    database.execute("insert into numbers values (?, ?)", (number, "text %d" % number * 9))
    if number % 1000 == 0: time.sleep(0.01)
database.execute("commit")
print(database.execute("pragma integrity_check").fetchall())
print(database.execute("select count(*), sum(number), sum(length(text)) from numbers").fetchall())
END
)end",
                      .work = "rm -f database*; exec python3 work.py"};

const Program kGzip{.name = "gzip of a large file",
                    .needs = {"gzip"},
                    .prepare = "seq 1 9000000 >large",
                    .work = "echo begun; gzip -9nkf large; sha256sum <large.gz"};

void check_goes_on(const Program& program, const Words& options) {
  for (const std::string& needed : program.needs)
    if (skip_unless(installed(needed), needed + " is not installed")) return;
  const TempDir directory, images;
  const RunOptions here{.directory = directory.path(), .environment = {{"PATH", search_path()}}};
  const Result prepared = run({"bash", "-c", program.prepare}, here);
  INFO(prepared);
  REQUIRE(prepared.ok());

  Running working({"bash", "-c", program.work}, here);
  working.wait_for_line("begun");
  usleep(static_cast<useconds_t>(program.seconds) * 1'000'000);
  REQUIRE_FALSE(working.exited());
  take_away(working, images / "image");
  // As often as one likes; files that it changes are as it left them only the first time.
  const Result restored = run_again(images / "image", options, here);
  INFO(restored);
  CHECK(restored.ok());

  const Result undisturbed = run({"bash", "-c", program.work}, here);
  INFO(undisturbed);
  REQUIRE(undisturbed.ok());
  CHECK(working.out() + restored.out == undisturbed.out);
}

}  // namespace

TEST_CASE("python3 with processes and threads goes on with its work") {
  check_goes_on(kPython, {});
}
TEST_CASE("a pipeline of bash, sort and sha256sum goes on with its work") {
  check_goes_on(kPipeline, {});
}
TEST_CASE("g++ under make goes on with its work") {
  check_goes_on(kCompiler, {});
}
TEST_CASE("a program in Go goes on with its work") {
  check_goes_on(kGo, {});
}
TEST_CASE("a program in Java goes on with its work") {
  check_goes_on(kJava, {"--without", "socket"});  // which it has, but does not use
}
TEST_CASE("sqlite goes on with its transaction") {
  check_goes_on(kSqlite, {});
}
TEST_CASE("gzip goes on with its file") {
  check_goes_on(kGzip, {});
}
TEST_CASE("what goes on with its work outside does so isolated, too") {
  const TempDir scratch;
  int number = 0;
  for (const Program* program : {&kPython, &kPipeline, &kCompiler, &kSqlite, &kGzip}) {
    CAPTURE(program->name);
    check_goes_on(*program,
                  {"--isolated", "--scratch", fmt::format("{}/{}", scratch.path(), ++number)});
  }
}

// script(1) has the master of the shell's terminal, and bytes go through both.
TEST_CASE("a shell under script goes on with its session") {
  if (skip_unless(installed("script"), "script is not installed")) return;
  const TempDir directory;
  Running shell({"script", "-qec", "bash --norc --noprofile -i", "/dev/null"},
                {.input = RunOptions::kPipe, .environment = {{"TERM", "dumb"}, {"HISTFILE", ""}}});
  shell.write("cd /usr; n=41; said() { echo \"<$((n + $1)) in $PWD>\"; }\n");
  shell.write("said 0\n");
  while (!contains(shell.out(), "<41 in /usr>")) {
    REQUIRE_FALSE(shell.exited());
    usleep(10'000);
  }
  // The shell waits for what is typed next, in a terminal with settings of its own.
  usleep(200'000);
  take_away(shell, directory / "image");
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    CAPTURE(options);
    const Result end = run_again(directory / "image", options, {}, "said 1; exit 7\n");
    INFO(end);
    CHECK(end.status == 7);
    CHECK(contains(end.out, "<42 in /usr>"));
  }
}

TEST_CASE("an orphan of a zombie comes back beside another zombie") {
  TakenPython program(
      "assert libc.prctl(36, 1, 0, 0, 0) == 0\n"  // PR_SET_CHILD_SUBREAPER
      "first = os.fork()\n"
      "if first == 0: os._exit(3)\n"
      "told, telling = os.pipe()\n"
      "second = os.fork()\n"
      "if second == 0:\n"
      "  os.setsid()\n"
      "  orphan = os.fork()\n"
      "  while orphan == 0: signal.pause()\n"
      "  os.write(telling, struct.pack('i', orphan)); os._exit(4)\n"
      "orphan = struct.unpack('i', os.read(told, 4))[0]\n"
      "for zombie in first, second:\n"
      "  while ' Z ' not in open(f'/proc/{zombie}/stat').read(): time.sleep(0.01)",
      "for child, status in (first, 3), (second, 4):\n"
      "  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status\n"
      "os.kill(orphan, 9); assert os.waitpid(orphan, 0)[1] == 9");
  program.take();
  program.check_runs_again();
}

}  // namespace snapgdb::e2e
