// Programs that nobody here wrote, captured while they are busy: alive afterwards, and their
// results are right.

#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

constexpr int kCaptures = 5;

void capture_repeatedly(pid_t pid, const std::string& image) {
  for (int i = 0; i < kCaptures; ++i) {
    capture(pid, image);
    usleep(100000);
  }
  const Result verified = snapgdb({"verify", image});
  INFO(verified);
  CHECK(verified.ok());
}

void check_backtraces_contain(const std::string& image, const Words& functions) {
  const Result result = snapgdb({"bt", image});
  INFO(result);
  CHECK(result.ok());
  for (const std::string& function : functions) {
    CAPTURE(function);
    CHECK(contains(result.out, function));
  }
}

// ---- Python ------------------------------------------------------------------------------------

constexpr char kPythonProgram[] = R"(
import hashlib, multiprocessing, sys, threading

def digest(start):
    value = b"x" * start
    for _ in range(20000):
        value = hashlib.sha256(value).digest()
    return value.hex()

def work(tasks, results):
    def loop():
        for start in iter(tasks.get, None):
            results.put((start, digest(start)))
    threads = [threading.Thread(target=loop, name=f"thread-{i}") for i in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

if __name__ == "__main__":
    tasks, results = multiprocessing.Queue(), multiprocessing.Queue()
    workers = [multiprocessing.Process(target=work, args=(tasks, results)) for _ in range(3)]
    for worker in workers: worker.start()
    expected = {start: digest(start) for start in range(8)}
    print("busy", flush=True)
    asked = threading.Thread(target=sys.stdin.read)
    asked.start()
    rounds = 0
    while asked.is_alive() or rounds == 0:
        for start in expected: tasks.put(start)
        assert dict(results.get() for _ in expected) == expected
        rounds += 1
    for _ in range(9): tasks.put(None)
    for worker in workers: worker.join()
    print("right in all rounds" if all(w.exitcode == 0 for w in workers) else "a worker failed")
)";

TEST_CASE("python with worker processes and threads, captured while busy, gets its sums right") {
  const TempDir directory;
  write_file(directory / "busy.py", kPythonProgram);
  Running python({"/usr/bin/python3", directory / "busy.py"}, {.input = RunOptions::kPipe});
  python.wait_for_line("busy");
  capture_repeatedly(python.pid(), directory / "image");
  python.close_input();
  const Result result = python.wait();
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, "right in all rounds"));
  CHECK(result.err.empty());
  check_backtraces_contain(directory / "image", {"main", "clone3"});
}

// ---- A shell pipeline --------------------------------------------------------------------------

TEST_CASE("a bash pipeline, captured while busy, loses and doubles nothing") {
  const TempDir directory;
  // Every round adds 500500; whatever is lost or comes twice breaks that.
  const std::string pipeline =
      "echo busy; "
      "while [ ! -e stop ]; do seq 1 1000; done | sed s/9/9/ | "
      "while read -r n; do echo $n; done | tee copy | "
      "awk '{ n += $1 } END { print n % 500500, (NR > 0) }'";
  Running bash({"bash", "-c", pipeline}, {.directory = directory.path()});
  bash.wait_for_line("busy");
  capture_repeatedly(bash.pid(), directory / "image");
  write_file(directory / "stop", "");
  const Result result = bash.wait();
  INFO(result);
  CHECK(result.ok());
  CHECK(result.out == "busy\n0 1\n");
  CHECK(result.err.empty());
}

}  // namespace
}  // namespace snapgdb::e2e
