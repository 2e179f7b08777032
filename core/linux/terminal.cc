#include "core/linux/terminal.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/base/error.h"

namespace snapgdb {
namespace {

template <typename T>
std::string asked(const Fd& terminal, unsigned long request) {
  T value{};
  if (::ioctl(terminal.get(), request, &value) != 0) return {};
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

int number(const Fd& terminal, unsigned long request) {
  int value = 0;
  return ::ioctl(terminal.get(), request, &value) == 0 ? value : 0;
}

template <typename T>
void set(const Fd& terminal, unsigned long request, const std::string& value, const char* what) {
  T copy{};
  if (value.size() != sizeof copy) return;  // it was not known
  std::memcpy(&copy, value.data(), sizeof copy);
  if (::ioctl(terminal.get(), request, &copy) != 0)
    throw_errno("cannot set {} of a terminal", what);
}

uint32_t index_of(const Fd& master) {
  unsigned index = 0;
  if (::ioctl(master.get(), TIOCGPTN, &index) != 0)
    throw_errno("cannot tell the number of a terminal");
  return index;
}

Fd open_any_master() {
  Fd master(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master.valid()) throw_errno("cannot open /dev/ptmx");
  return master;
}

termios2 settings_of(const Fd& terminal) {
  termios2 settings{};
  if (::ioctl(terminal.get(), TCGETS2, &settings) != 0)
    throw_errno("cannot read the settings of a terminal");
  return settings;
}

void set_settings(const Fd& terminal, const termios2& settings) {
  if (::ioctl(terminal.get(), TCSETS2, &settings) != 0)
    throw_errno("cannot set the settings of a terminal");
}

void set_packet_mode(const Fd& master, bool on) {
  const int value = on;
  if (::ioctl(master.get(), TIOCPKT, &value) != 0)
    throw_errno("cannot set the packet mode of a terminal");
}

// poll(2) has what the other side has sent arrive (n_tty_poll(), drivers/tty/n_tty.c).
int arrived(const Fd& terminal) {
  pollfd poll{.fd = terminal.get(), .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) < 0 ? 0 : number(terminal, FIONREAD);
}

// Whether there is something to be read, which may be an end of file; or room to write.
bool is_ready(const Fd& terminal, short events) {
  pollfd poll{.fd = terminal.get(), .events = events, .revents = 0};
  return ::poll(&poll, 1, 0) > 0 && (poll.revents & events);
}

std::string read_once(const Fd& terminal) {
  std::string block(4096, '\0');  // a line has room in it (N_TTY_BUF_SIZE)
  const ssize_t n = ::read(terminal.get(), block.data(), block.size());
  if (n < 0) throw_errno("cannot read what is queued in a terminal");
  block.resize(static_cast<size_t>(n));
  return block;
}

void take_from(const Fd& terminal, std::string& taken) {
  while (arrived(terminal) > 0) taken += read_once(terminal);
}

// Each read(2) gives a line. An end of file ends one, too, and is not among what is read.
void take_lines(const Fd& slave, TerminalQueues& taken) {
  while (is_ready(slave, POLLIN)) {
    const std::string line = read_once(slave);
    taken.input += line;
    if (!line.ends_with('\n'))
      taken.ends_of_file.push_back(static_cast<uint32_t>(taken.input.size()));
  }
}

// Nothing is echoed, translated or taken for a signal; lines are lines still.
termios2 passing_on(termios2 settings) {
  settings.c_iflag = settings.c_oflag = 0;
  settings.c_lflag &= ICANON | EXTPROC;
  std::memset(settings.c_cc, 0, sizeof settings.c_cc);  // _POSIX_VDISABLE
  return settings;
}

// Whatever a terminal keeps is kept by the line discipline of terminals: others have no queue of
// their own that could be read.
bool has_usual_discipline(const Fd& slave) {
  return number(slave, TIOCGETD) == N_TTY;
}

void set_line_discipline(const Fd& slave, int discipline) {
  if (::ioctl(slave.get(), TIOCSETD, &discipline) != 0)
    throw_errno("cannot set line discipline {}", discipline);
}

void set_flow(const Fd& slave, int action) {
  if (::ioctl(slave.get(), TCXONC, action) != 0)
    throw_errno("cannot stop or start the output of a terminal");
}

// Does not wait, as long as it lives, whatever the program had set.
class ScopedImpatience {
 public:
  explicit ScopedImpatience(const Fd& terminal)
      : terminal_(terminal), flags_(::fcntl(terminal.get(), F_GETFL)) {
    if (flags_ < 0 || ::fcntl(terminal.get(), F_SETFL, flags_ | O_NONBLOCK) != 0)
      throw_errno("cannot set the flags of a terminal");
  }
  ~ScopedImpatience() { ::fcntl(terminal_.get(), F_SETFL, flags_); }
  ScopedImpatience(const ScopedImpatience&) = delete;

 private:
  const Fd& terminal_;
  int flags_;
};

// The kernel counts what it allocates: of pieces that nearly fill one, most has room
// (tty_buffer_alloc(), drivers/tty/tty_buffer.c).
constexpr size_t kPiece = 1023;

// poll(2) does not wait for what is on its way if there is something to be read already, and
// settings that change would meet it.
void settle(const Fd& terminal) {
  int before = -1, now = arrived(terminal);
  while (now != std::exchange(before, now)) {
    ::usleep(1000);
    now = number(terminal, FIONREAD);
  }
}

// To the other side, which is looked at for its part of the queue to be filled. How much was left.
size_t put(const Fd& terminal, const Fd& other, std::string_view text) {
  if (text.empty()) return 0;
  const ScopedImpatience impatience(terminal);
  for (bool is_full = false; !text.empty();) {
    const ssize_t n = ::write(terminal.get(), text.data(), std::min(kPiece, text.size()));
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      throw_errno("cannot write what was queued in a terminal");
    if (n <= 0 && std::exchange(is_full, true)) break;
    if (n <= 0) {
      settle(other);
      continue;
    }
    text.remove_prefix(static_cast<size_t>(n));
    is_full = false;
    arrived(other);
  }
  settle(other);
  return text.size();
}

// One that the text does not have. nullopt: it has them all.
std::optional<char> free_character(const std::string& text) {
  for (int c = 1; c < 256; ++c)
    if (text.find(static_cast<char>(c)) == std::string::npos) return static_cast<char>(c);
  return std::nullopt;
}

size_t put_input(const Fd& master, const Fd& slave, const TerminalQueues& queues) {
  const auto mark = free_character(queues.input);
  if (queues.ends_of_file.empty() || !mark)
    return put(master, slave, queues.input) + queues.ends_of_file.size();
  termios2 settings = settings_of(master);
  settings.c_cc[VEOF] = static_cast<cc_t>(*mark);
  set_settings(master, settings);
  std::string input;
  size_t done = 0;
  for (const size_t end : queues.ends_of_file) {
    const size_t to = std::clamp(end, done, queues.input.size());
    input += queues.input.substr(done, to - done) + *mark;
    done = to;
  }
  return put(master, slave, input + queues.input.substr(done));
}

// What ^S has stopped, ^Q starts again, and what the program has stopped, the program.
void stop_output(const Fd& master, const Fd& slave, const TerminalQueues& queues) {
  const auto stop = static_cast<char>(settings_of(master).c_cc[VSTOP]);
  if (queues.flow == TerminalQueues::Flow::kRuns) return;
  if (queues.flow == TerminalQueues::Flow::kStoppedByProgram || stop == '\0')
    return set_flow(slave, TCOOFF);
  put(master, slave, {&stop, 1});
  constexpr int kTries = 100;
  for (int i = 0; i < kTries && is_ready(slave, POLLOUT); ++i) ::usleep(1000);
}

// A master in packet mode is told of what happens from now on.
void put_packet_status(const Fd& master, const Fd& slave, const TerminalQueues& queues) {
  set_packet_mode(master, true);
  if (queues.packet_status & TIOCPKT_STOP) stop_output(master, slave, queues);
  if (queues.packet_status & TIOCPKT_START) set_flow(slave, TCOOFF), set_flow(slave, TCOON);
}

}  // namespace

// Without IXON, what ^S has stopped runs again (n_tty_set_termios(), drivers/tty/n_tty.c).
void TakenQueues::take_input() {
  const termios2 before = settings_of(slave_);
  const bool is_stopped = !is_ready(slave_, POLLOUT);
  if ((before.c_lflag & (ICANON | EXTPROC)) == ICANON) take_lines(slave_, queues_);
  termios2 raw = passing_on(before);
  raw.c_lflag = 0;
  set_settings(slave_, raw);
  if (is_stopped)
    queues_.flow = is_ready(slave_, POLLOUT) ? TerminalQueues::Flow::kStoppedByTerminal
                                             : TerminalQueues::Flow::kStoppedByProgram;
  take_from(slave_, queues_.input);
  set_settings(slave_, before);
}

void TakenQueues::take() {
  has_packets_ = number(master_, TIOCGPKT) != 0;
  if (has_packets_ && is_ready(master_, POLLPRI))
    for (const char status : read_once(master_))
      queues_.packet_status = static_cast<uint8_t>(status);
  if (has_packets_) set_packet_mode(master_, false);
  take_from(master_, queues_.output);
  if (slave_.valid() && has_usual_discipline(slave_)) take_input();
  take_from(master_, queues_.output);  // what was not echoed while the output was stopped
  if (has_packets_) set_packet_mode(master_, true);
}

TakenQueues::~TakenQueues() {
  if (!master_.valid()) return;
  try {
    if (has_packets_) set_packet_mode(master_, true);
    if (queues_.empty()) return;
    const Fd slave = slave_.valid() ? std::move(slave_) : open_slave(master_, O_RDWR);
    put_queues(master_, slave, queues_);
  } catch (const SystemError&) {
    // One that nobody can write to any more. What led here is what is told.
  }
}

size_t put_queues(const Fd& master, const Fd& slave, const TerminalQueues& queues) {
  if (queues.empty()) return 0;
  const bool has_packets = number(master, TIOCGPKT) != 0;
  const int discipline = number(slave, TIOCGETD);
  if (discipline != N_TTY) set_line_discipline(slave, N_TTY);
  if (has_packets) set_packet_mode(master, false);
  const termios2 before = settings_of(master);
  set_settings(master, passing_on(before));
  set_flow(slave, TCOON);
  const size_t lost = put_input(master, slave, queues) + put(slave, master, queues.output);
  set_settings(master, before);
  if (!(queues.packet_status & TIOCPKT_STOP)) stop_output(master, slave, queues);
  if (has_packets) put_packet_status(master, slave, queues);
  if (discipline != N_TTY) set_line_discipline(slave, discipline);
  return lost;
}

uint8_t lost_packet_status(const TerminalQueues& queues) {
  const bool is_stopped = queues.flow != TerminalQueues::Flow::kRuns;
  return queues.packet_status & static_cast<uint8_t>(~(is_stopped ? TIOCPKT_STOP : TIOCPKT_START));
}

bool is_hung_up_slave(const Fd& terminal) {
  unsigned device = 0;
  return ::ioctl(terminal.get(), TIOCGDEV, &device) != 0 && errno == EIO;
}

// The kernel's new_encode_dev(): 8 low bits of the minor number, 12 of the major, the minor's rest.
std::optional<uint32_t> index_of_slave(uint64_t encoded) {
  constexpr uint64_t kFirstMajor = 136, kMajors = 8, kMinors = 256;
  const uint64_t major = (encoded >> 8) & 0xfff;
  const uint64_t minor = (encoded & 0xff) | ((encoded >> 12) & 0xfff00);
  if (major < kFirstMajor || major >= kFirstMajor + kMajors) return std::nullopt;
  return static_cast<uint32_t>((major - kFirstMajor) * kMinors + minor);
}

// Of a master, TIOCGDEV and the settings are its slave's.
std::optional<TerminalState> terminal_state(const Fd& terminal, bool master) {
  unsigned device = 0;
  if (::ioctl(terminal.get(), TIOCGDEV, &device) != 0) return std::nullopt;
  const auto index = index_of_slave(device);
  if (!index) return std::nullopt;
  TerminalState state{.master = master, .index = *index};
  state.settings = asked<termios2>(terminal, TCGETS2);
  state.locked_settings = asked<termios>(terminal, TIOCGLCKTRMIOS);
  state.window_size = asked<winsize>(terminal, TIOCGWINSZ);
  state.unread = number(terminal, FIONREAD);
  state.has_unread = state.unread > 0 || (!master && is_ready(terminal, POLLIN));
  state.exclusive = number(terminal, TIOCGEXCL) != 0;
  state.line_discipline = number(terminal, TIOCGETD);
  if (!master) {
    state.takes_output = state.line_discipline != N_TTY || is_ready(terminal, POLLOUT);
    return state;
  }
  state.packet_mode = number(terminal, TIOCGPKT) != 0;
  state.locked = number(terminal, TIOCGPTLCK) != 0;
  state.has_packet_status = state.packet_mode && is_ready(terminal, POLLPRI);
  pollfd poll{.fd = terminal.get(), .events = 0, .revents = 0};
  state.hung_up = ::poll(&poll, 1, 0) > 0 && (poll.revents & POLLHUP);
  return state;
}

// The kernel gives the lowest that is free; those below are held meanwhile.
Fd open_master(uint32_t index) {
  std::vector<Fd> lower;
  Fd master = open_any_master();
  while (index_of(master) < index) {
    Fd next(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!next.valid()) break;  // so many are not allowed
    lower.push_back(std::exchange(master, std::move(next)));
  }
  if (index_of(master) != index && !lower.empty()) master = std::move(lower.front());
  const int unlock = 0;
  if (::ioctl(master.get(), TIOCSPTLCK, &unlock) != 0) throw_errno("cannot unlock a terminal");
  return master;
}

Fd open_slave(const Fd& master, int flags) {
  // O_CLOEXEC would stay among the flags of the open file, of which /proc/PID/fdinfo makes those of
  // every descriptor (ptm_open_peer(), drivers/tty/pty.c; Linux 6.18).
  Fd slave(::ioctl(master.get(), TIOCGPTPEER, flags | O_NOCTTY));
  if (!slave.valid()) throw_errno("cannot open the other side of a terminal");
  return slave;
}

// Locking settings takes CAP_SYS_ADMIN; most have none locked.
void set_terminal(const Fd& terminal, const TerminalState& state) {
  if (!state.master && state.line_discipline != N_TTY &&
      ::ioctl(terminal.get(), TIOCSETD, &state.line_discipline) != 0)
    throw_errno("cannot set line discipline {}", state.line_discipline);
  set<termios2>(terminal, TCSETS2, state.settings, "the settings");
  set<winsize>(terminal, TIOCSWINSZ, state.window_size, "the window size");
  if (state.locked_settings.find_first_not_of('\0') != std::string::npos)
    set<termios>(terminal, TIOCSLCKTRMIOS, state.locked_settings, "the locked settings");
  const int on = 1;
  if (state.packet_mode && ::ioctl(terminal.get(), TIOCPKT, &on) != 0)
    throw_errno("cannot set the packet mode of a terminal");
}

std::string terminal_settings(int terminal) {
  termios2 settings{};
  if (::ioctl(terminal, TCGETS2, &settings) != 0) return {};
  return {reinterpret_cast<const char*>(&settings), sizeof settings};
}

bool set_terminal_settings(int terminal, const std::string& settings) {
  termios2 copy{};
  if (settings.size() != sizeof copy) return false;
  std::memcpy(&copy, settings.data(), sizeof copy);
  return ::ioctl(terminal, TCSETSW2, &copy) == 0;
}

// Not from the background, where we would be stopped.
LentSettings::LentSettings(const std::string& settings) {
  if (::tcgetpgrp(STDIN_FILENO) != ::getpgrp()) return;
  usual_ = terminal_settings(STDIN_FILENO);
  set_terminal_settings(STDIN_FILENO, settings);
}

LentSettings::~LentSettings() {
  if (!usual_.empty() && ::tcgetpgrp(STDIN_FILENO) == ::getpgrp())
    set_terminal_settings(STDIN_FILENO, usual_);
}

void close_off_terminal(const Fd& terminal, const TerminalState& state) {
  const int on = 1;
  if ((state.locked && ::ioctl(terminal.get(), TIOCSPTLCK, &on) != 0) ||
      (state.exclusive && ::ioctl(terminal.get(), TIOCEXCL) != 0))
    throw_errno("cannot lock a terminal");
}

}  // namespace snapgdb
