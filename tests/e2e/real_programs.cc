// Programs that nobody here wrote, captured while they are busy: alive afterwards, and their
// results are right.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

constexpr int kCaptures = 5;

bool have(const std::string& path) {
  return std::filesystem::exists(path);
}

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

// A port that was free a moment ago.
int free_port() {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  REQUIRE(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  socklen_t size = sizeof address;
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

void wait_until_served(const std::string& url, const Words& curl_options = {}) {
  Words words{"curl", "-sf", "-o", "/dev/null", url};
  words.insert(words.end(), curl_options.begin(), curl_options.end());
  for (int i = 0; i < 500; ++i) {
    if (run(words).ok()) return;
    usleep(20000);
  }
  FAIL("nothing is served at " << url);
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

// ---- Servers -----------------------------------------------------------------------------------

// Load from h2load while the server is captured; every request must have been answered.
void check_served_under_load(Running& server, const std::string& url, const Words& h2load_options,
                             const std::string& image) {
  Words words{"h2load", "-c", "8", "-D", "3", url};
  words.insert(words.end(), h2load_options.begin(), h2load_options.end());
  Running load(words);
  usleep(300000);
  capture_repeatedly(server.pid(), image);
  const Result result = load.wait();
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, " 0 failed, 0 errored, 0 timeout"));
  CHECK_FALSE(contains(result.out, " 0 succeeded"));
  CHECK_FALSE(server.exited());
}

TEST_CASE("nghttpd, a server in C++ with threads, answers everything while it is captured") {
  if (skip_unless(have("/usr/sbin/nghttpd") && have("/usr/bin/h2load"),
                  "nghttp2-server and nghttp2-client are not installed")) {
    return;
  }
  const TempDir directory;
  const std::string content(50000, 'n');
  write_file(directory / "file", content);
  const std::string port = std::to_string(free_port());
  const std::string url = "http://127.0.0.1:" + port + "/file";
  Running server({"/usr/sbin/nghttpd", "--no-tls", "--address=127.0.0.1", "-n", "3", "-d",
                  directory.path(), port});
  wait_until_served(url, {"--http2-prior-knowledge"});
  check_served_under_load(server, url, {}, directory / "image");
  CHECK(run({"curl", "-s", "--http2-prior-knowledge", url}).out == content);
  check_backtraces_contain(directory / "image", {"ev_run", "nghttpd"});
}

TEST_CASE("nginx with its workers answers everything while it is captured") {
  if (skip_unless(have("/usr/sbin/nginx") && have("/usr/bin/h2load"),
                  "nginx-light and nghttp2-client are not installed")) {
    return;
  }
  const TempDir directory;
  const std::string content(20000, 'x');
  write_file(directory / "file", content);
  const std::string port = std::to_string(free_port());
  const std::string url = "http://127.0.0.1:" + port + "/file";
  write_file(directory / "nginx.conf",
             fmt::format(R"(
daemon off; pid {0}/pid; error_log {0}/error.log; worker_processes 2; {2}
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};
       uwsgi_temp_path {0}; scgi_temp_path {0}; keepalive_requests 1000000;
       server {{ listen 127.0.0.1:{1}; root {0}; }} }}
)",
                         directory.path(), port, geteuid() == 0 ? "user root;" : ""));
  Running server(
      {"/usr/sbin/nginx", "-e", directory / "error.log", "-c", directory / "nginx.conf"});
  wait_until_served(url);
  check_served_under_load(server, url, {"--h1"}, directory / "image");
  CHECK(run({"curl", "-s", url}).out == content);
  // nginx says it when a worker dies or a call fails.
  for (const std::string& line : lines_of(read_file(directory / "error.log"))) {
    CAPTURE(line);
    CHECK_FALSE(contains(line, "exited on signal"));
    CHECK_FALSE(contains(line, "failed"));
  }
  kill(server.pid(), SIGQUIT);
  CHECK(server.wait().ok());
}

}  // namespace
}  // namespace snapgdb::e2e
