#include "core/linux/terminal.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
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

void take_from(const Fd& terminal, std::string& taken) {
  std::string block(4096, '\0');
  while (arrived(terminal) > 0) {
    const ssize_t n = ::read(terminal.get(), block.data(), block.size());
    if (n < 0) throw_errno("cannot read what is queued in a terminal");
    taken.append(block, 0, static_cast<size_t>(n));
  }
}

// Nothing is echoed, translated or taken for a signal; lines are lines still.
termios2 passing_on(termios2 settings) {
  settings.c_iflag = settings.c_oflag = 0;
  settings.c_lflag &= ICANON;
  std::memset(settings.c_cc, 0, sizeof settings.c_cc);  // _POSIX_VDISABLE
  return settings;
}

void take_input(const Fd& slave, std::string& taken) {
  const termios2 before = settings_of(slave);
  termios2 raw = passing_on(before);
  raw.c_lflag = 0;
  set_settings(slave, raw);
  take_from(slave, taken);
  set_settings(slave, before);
}

void take_output(const Fd& master, std::string& taken) {
  const bool has_packets = number(master, TIOCGPKT) != 0;
  if (has_packets) set_packet_mode(master, false);
  take_from(master, taken);
  if (has_packets) set_packet_mode(master, true);
}

}  // namespace

void TakenQueues::take() {
  take_output(master_, output_);
  if (slave_.valid()) take_input(slave_, input_);
}

TakenQueues::~TakenQueues() {
  if (!master_.valid() || (input_.empty() && output_.empty())) return;
  try {
    const Fd slave = slave_.valid() ? std::move(slave_) : open_slave(master_, O_RDWR);
    put_queues(master_, slave, input_, output_, {.settings = asked<termios2>(slave, TCGETS2)});
  } catch (const SystemError&) {
    // One that nobody can write to any more. What led here is what is told.
  }
}

void put_queues(const Fd& master, const Fd& slave, const std::string& input,
                const std::string& output, const TerminalState& state) {
  if (input.empty() && output.empty()) return;
  const bool has_packets = number(master, TIOCGPKT) != 0;
  if (has_packets) set_packet_mode(master, false);
  set_settings(slave, passing_on(settings_of(slave)));
  write_all(master.get(), std::as_bytes(std::span(input)), "a terminal");
  arrived(slave);
  write_all(slave.get(), std::as_bytes(std::span(output)), "a terminal");
  arrived(master);
  set<termios2>(slave, TCSETS2, state.settings, "the settings");
  if (has_packets) set_packet_mode(master, true);
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
  state.exclusive = number(terminal, TIOCGEXCL) != 0;
  state.line_discipline = number(terminal, TIOCGETD);
  if (!master) return state;
  state.packet_mode = number(terminal, TIOCGPKT) != 0;
  state.locked = number(terminal, TIOCGPTLCK) != 0;
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

void close_off_terminal(const Fd& terminal, const TerminalState& state) {
  const int on = 1;
  if ((state.locked && ::ioctl(terminal.get(), TIOCSPTLCK, &on) != 0) ||
      (state.exclusive && ::ioctl(terminal.get(), TIOCEXCL) != 0))
    throw_errno("cannot lock a terminal");
}

}  // namespace snapgdb
