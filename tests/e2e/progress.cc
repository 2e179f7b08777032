// Long work shows on a terminal how far it is, and nothing is left of that.

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "core/base/fd.h"
#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

// A terminal, and what programs have written to it.
class Terminal {
 public:
  Terminal() : master_(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)) {
    REQUIRE((master_.valid() && grantpt(master_.get()) == 0 && unlockpt(master_.get()) == 0));
    name_ = ptsname(master_.get());
  }

  // In a child: the terminal that controls it, of which it is in the foreground or not.
  void become_own(bool foreground) const {
    const int fd = open(name_.c_str(), O_RDWR | O_NOCTTY);
    setsid();
    ioctl(fd, TIOCSCTTY, 0);
    if (!foreground) setpgid(0, 0), move_to_background(fd);
    dup2(fd, STDERR_FILENO);
  }

  const std::string& shown(int milliseconds) {
    pollfd readable{master_.get(), POLLIN, 0};
    char text[4096];
    if (poll(&readable, 1, milliseconds) > 0)
      for (ssize_t n; (n = read(master_.get(), text, sizeof text)) > 0;)
        shown_.append(text, static_cast<size_t>(n));
    return shown_;
  }
  bool shows(const std::string& text) {
    for (int tries = 0; tries < 1200; ++tries)
      if (contains(shown(100), text)) return true;
    return false;
  }

 private:
  // Another group of its session is in the foreground, then.
  static void move_to_background(int fd) {
    const pid_t other = fork();
    if (other == 0) {
      setpgid(0, 0);
      signal(SIGTTOU, SIG_IGN);
      tcsetpgrp(fd, getpgrp());
      _exit(0);
    }
    waitpid(other, nullptr, 0);
  }

  Fd master_;
  std::string name_, shown_;
};

// A capture that takes as long as nobody reads what it writes.
class Stalled {
 public:
  explicit Stalled(const Terminal& terminal, bool foreground)
      : target_("zombies"),
        capturing_(command(),
                   {.before_exec = [&terminal, foreground] { terminal.become_own(foreground); }}) {}

  Result finish() {
    Running reading({"cat", fifo()});
    Result result = capturing_.wait();
    CHECK(reading.wait().ok());
    CHECK(target_.finish().ok());
    return result;
  }

 private:
  std::string fifo() const { return directory_ / "fifo"; }
  Words command() const {
    REQUIRE(mkfifo(fifo().c_str(), 0600) == 0);
    holder_ = Fd(open(fifo().c_str(), O_RDWR | O_CLOEXEC));  // so that opening does not wait
    return {program(), "capture", std::to_string(target_.pid()), "--level", "0", "-o", fifo()};
  }

  TempDir directory_;
  Target target_;
  mutable Fd holder_;
  Running capturing_;
};

TEST_CASE("on a terminal a long capture shows how far it is, and takes that away at the end") {
  Terminal terminal;
  Stalled capture(terminal, true);
  CHECK(terminal.shows("capturing "));
  CHECK(terminal.shows(" % of "));
  const Result result = capture.finish();
  INFO(result);
  const std::string shown = terminal.shown(1000);
  const size_t cleared = shown.rfind("\r\x1b[K"), last = shown.rfind(" % of ");
  REQUIRE(cleared != shown.npos);
  CHECK(last < cleared);
  CHECK(contains(shown.substr(cleared), "stopped for"));
}

TEST_CASE("in the background of a terminal a long capture shows nothing until its end") {
  Terminal terminal;
  Stalled capture(terminal, false);
  usleep(1'500'000);
  CHECK(terminal.shown(0).empty());
  const Result result = capture.finish();
  INFO(result);
  CHECK_FALSE(contains(terminal.shown(1000), "\x1b"));
  CHECK(contains(terminal.shown(0), "stopped for"));
}

}  // namespace
}  // namespace snapgdb::e2e
