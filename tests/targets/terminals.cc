// Pseudoterminals with both sides in the tree: settings with a speed of their own, several
// descriptions of a slave, packet mode, one that is locked, one that is hung up, and the
// controlling terminal of a session with a foreground group.
//   --queues: what nobody has read yet, too, which only a capture that ends the tree can take
//   along.

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

constexpr unsigned kSpeed = 123457;
constexpr winsize kSize{65535, 1, 777, 0};
constexpr mode_t kMode = 0604;

struct Terminal {
  int master, index;
};

Terminal make_terminal() {
  Terminal made{setup("open /dev/ptmx", open("/dev/ptmx", O_RDWR | O_NOCTTY)), 0};
  setup("TIOCGPTN", ioctl(made.master, TIOCGPTN, &made.index));
  return made;
}

void unlock(const Terminal& terminal) {
  const int off = 0;
  setup("TIOCSPTLCK", ioctl(terminal.master, TIOCSPTLCK, &off));
}

std::string path_of(int index) {
  return "/dev/pts/" + std::to_string(index);
}

int open_slave(const Terminal& terminal, int flags) {
  return setup("open a slave", open(path_of(terminal.index).c_str(), flags | O_NOCTTY));
}

termios2 wanted_settings(const termios2& usual) {
  termios2 wanted = usual;
  wanted.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  wanted.c_oflag = 0;
  wanted.c_cflag = (wanted.c_cflag & ~static_cast<tcflag_t>(CBAUD)) | BOTHER;
  wanted.c_ospeed = kSpeed;
  wanted.c_cc[VMIN] = 60, wanted.c_cc[VTIME] = 255, wanted.c_cc[VINTR] = 1;
  return wanted;
}

void expect_arrives(const char* what, int from, int to, const std::string& sent,
                    const std::string& expected) {
  target::expect_call(what, write(from, sent.data(), sent.size()));
  pollfd poll_for{to, POLLIN, 0};
  char seen[64] = {};
  expect_equal(what, static_cast<uint64_t>(poll(&poll_for, 1, 10'000)), 1);
  const long n = target::expect_call(what, read(to, seen, sizeof seen));
  if (n < 0 || std::string(seen, static_cast<size_t>(n)) != expected)
    target::differs("%s: another text arrives", what);
}

void expect_flags(const char* what, int fd, int expected) {
  constexpr int kStatus = O_ACCMODE | O_NONBLOCK;
  expect_equal(what, static_cast<uint64_t>(fcntl(fd, F_GETFL) & kStatus),
               static_cast<uint64_t>(expected));
}

// What is queued on both sides: a line and the beginning of one, with their echo; and bytes of
// every value, as many as there is room for.
struct Queues {
  Terminal lines = make_terminal(), bytes = make_terminal();
  int line_slave = -1, byte_slave = -1;

  static std::string every_byte() {
    std::string all;
    for (int i = 0; i < 4000; ++i) all += static_cast<char>(i * 7);
    return all;
  }

  Queues() {
    unlock(lines), unlock(bytes);
    line_slave = open_slave(lines, O_RDWR), byte_slave = open_slave(bytes, O_RDWR);
    termios2 settings;
    setup("TCGETS2", ioctl(byte_slave, TCGETS2, &settings));
    settings = wanted_settings(settings);
    settings.c_iflag = 0, settings.c_lflag = 0;
    settings.c_cc[VMIN] = 1, settings.c_cc[VTIME] = 0;
    setup("TCSETS2", ioctl(byte_slave, TCSETS2, &settings));
    setup("write", write(lines.master, "line\npart", 9));
    constexpr int kEcho = 10;
    for (int echo = 0; echo < kEcho; target::sleep_ms(1))
      setup("FIONREAD", ioctl(lines.master, FIONREAD, &echo));
    setup("write", write(line_slave, "out\n", 4));
    const std::string all = every_byte();
    setup("write", write(bytes.master, all.data(), all.size()));
    setup("write", write(byte_slave, all.data(), all.size()));
  }

  static std::string read_all(int from, size_t size) {
    std::string seen;
    char block[4096];
    pollfd poll_for{from, POLLIN, 0};
    while (seen.size() < size && poll(&poll_for, 1, 1000) == 1) {
      const ssize_t n = read(from, block, sizeof block);
      if (n <= 0) break;
      seen.append(block, static_cast<size_t>(n));
    }
    return seen;
  }

  void check() const {
    expect_equal("what was typed and written", read_all(lines.master, 16) == "line\r\npartout\r\n",
                 true);
    expect_equal("a line", read_all(line_slave, 5) == "line\n", true);
    setup("write", write(lines.master, "ial\n", 4));
    expect_equal("the rest of another", read_all(line_slave, 8) == "partial\n", true);
    expect_equal("bytes from the master", read_all(byte_slave, 4000) == every_byte(), true);
    expect_equal("bytes from the slave", read_all(bytes.master, 4000) == every_byte(), true);
  }
};

// In the foreground, in a group of its own.
void be_in_foreground(const target::Family& family, pid_t group) {
  family.announce_ready();
  family.wait_for_end_of_family();
  const int terminal = open("/dev/tty", O_RDWR);
  target::expect_call("open /dev/tty", terminal);
  expect_equal("its group", static_cast<uint64_t>(getpgrp()), static_cast<uint64_t>(group));
  expect_equal("the foreground group", static_cast<uint64_t>(tcgetpgrp(terminal)),
               static_cast<uint64_t>(group));
  _exit(target::verdict());
}

void lead_session(target::Family& family, const Terminal& terminal) {
  setup("setsid", setsid());
  const int slave = open_slave(terminal, O_RDWR);
  setup("TIOCSCTTY", ioctl(slave, TIOCSCTTY, 0));
  close(slave);
  const pid_t child = family.fork_child();
  if (child == 0) {
    setup("setpgid", setpgid(0, 0));
    signal(SIGTTOU, SIG_IGN);
    const int own = setup("open /dev/tty", open("/dev/tty", O_RDWR));
    setup("tcsetpgrp", tcsetpgrp(own, getpid()));
    close(own);
    be_in_foreground(family, getpid());
  }
  family.announce_ready();
  family.wait_for_end_of_family();
  target::expect_success_of(child);
  int session = 0;
  target::expect_call("TIOCGSID", ioctl(terminal.master, TIOCGSID, &session));
  expect_equal("the session", static_cast<uint64_t>(session), static_cast<uint64_t>(getpid()));
  _exit(target::verdict());
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  target::Family family;
  const Terminal used = make_terminal(), locked = make_terminal(), hung_up = make_terminal(),
                 controlling = make_terminal();
  unlock(used), unlock(hung_up), unlock(controlling);
  close(open_slave(hung_up, O_RDWR));
  const int slave = open_slave(used, O_RDWR | O_NONBLOCK);
  const int peer = setup("TIOCGPTPEER", ioctl(used.master, TIOCGPTPEER, O_RDONLY | O_NOCTTY));
  const int same = setup("dup", dup(slave));
  setup("fchmod", fchmod(slave, kMode));
  setup("F_SETFL", fcntl(used.master, F_SETFL, O_NONBLOCK));
  termios2 settings;
  setup("TCGETS2", ioctl(slave, TCGETS2, &settings));
  termios2 wanted = wanted_settings(settings);
  setup("TCSETS2", ioctl(slave, TCSETS2, &wanted));
  setup("TCGETS2", ioctl(slave, TCGETS2, &wanted));  // the kernel brings it into a form of its own
  setup("TIOCSWINSZ", ioctl(slave, TIOCSWINSZ, &kSize));
  const int on = 1;
  setup("TIOCPKT", ioctl(used.master, TIOCPKT, &on));
  const bool has_queues = target::has_flag(argc, argv, "--queues");
  std::optional<Queues> queues;
  if (has_queues) queues.emplace();
  const pid_t leader = family.fork_child();
  if (leader == 0) lead_session(family, controlling);
  family.wait_for_announcements(2);
  target::ready();
  target::wait_for_end();

  termios2 seen;
  target::expect_call("TCGETS2", ioctl(peer, TCGETS2, &seen));
  if (memcmp(&seen, &wanted, sizeof seen) != 0) target::differs("the settings");
  winsize size{};
  target::expect_call("TIOCGWINSZ", ioctl(used.master, TIOCGWINSZ, &size));
  if (memcmp(&size, &kSize, sizeof size) != 0) target::differs("the window size");
  int index = -1, packets = 0, is_locked = 0;
  ioctl(used.master, TIOCGPTN, &index), ioctl(used.master, TIOCGPKT, &packets);
  ioctl(locked.master, TIOCGPTLCK, &is_locked);
  expect_equal("its number", static_cast<uint64_t>(index), static_cast<uint64_t>(used.index));
  expect_equal("packet mode", static_cast<uint64_t>(packets), 1);
  expect_equal("being locked", static_cast<uint64_t>(is_locked), 1);
  struct stat status {};
  target::expect_call("fstat", fstat(slave, &status));
  expect_equal("the node's mode", status.st_mode & 07777, kMode);
  expect_flags("the slave's flags", slave, O_RDWR | O_NONBLOCK);
  expect_flags("the peer's flags", peer, O_RDONLY);
  expect_flags("the master's flags", used.master, O_RDWR | O_NONBLOCK);
  setup("F_SETFL", fcntl(same, F_SETFL, 0));
  expect_flags("flags of a description in common", slave, O_RDWR);
  expect_arrives("from the slave", slave, used.master, "up\n", std::string("\0up\n", 4));
  expect_arrives("from the master", used.master, peer, std::string(60, 'd'), std::string(60, 'd'));
  pollfd gone{hung_up.master, 0, 0};
  expect_equal("being hung up", static_cast<uint64_t>(poll(&gone, 1, 0)), 1);
  pollfd waiting{locked.master, 0, 0};
  expect_equal("not being hung up", static_cast<uint64_t>(poll(&waiting, 1, 0)), 0);
  if (queues) queues->check();
  family.end();
  target::expect_success_of(leader);
  return target::verdict();
}
