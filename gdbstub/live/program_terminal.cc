#include "gdbstub/live/program_terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "core/base/error.h"
#include "core/linux/child.h"

namespace snapgdb::gdbstub {
namespace {

constexpr int kStandardStreams = 3;

}  // namespace

// What is written comes through as it is; what we write is not shown by the terminal as well.
ProgramTerminal::ProgramTerminal() : ours_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
  std::array<char, 64> name{};
  if (!ours_.valid() || ::grantpt(ours_.get()) != 0 || ::unlockpt(ours_.get()) != 0 ||
      ::ptsname_r(ours_.get(), name.data(), name.size()) != 0)
    throw_errno("cannot make a terminal for the program");
  theirs_ = Fd(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios settings{};
  if (!theirs_.valid() || ::tcgetattr(theirs_.get(), &settings) != 0)
    throw_errno("cannot open the program's terminal {}", name.data());
  settings.c_oflag &= ~static_cast<tcflag_t>(OPOST);
  settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  ::tcsetattr(theirs_.get(), TCSANOW, &settings);
  ::fcntl(ours_.get(), F_SETFL, O_RDWR | O_NONBLOCK);
}

ProgramTerminal::Lent::Lent(const ProgramTerminal& terminal) {
  for (int stream = 0; stream < kStandardStreams; ++stream) {
    kept_[stream] = Fd(::fcntl(stream, F_DUPFD_CLOEXEC, kStandardStreams));
    if (::dup2(terminal.theirs_.get(), stream) < 0)
      throw_errno("cannot pass on the program's terminal");
  }
}

ProgramTerminal::Lent::~Lent() {
  for (int stream = 0; stream < kStandardStreams; ++stream)
    if (kept_[stream].valid())
      ::dup2(kept_[stream].get(), stream);
    else
      ::close(stream);
}

std::string ProgramTerminal::take_output() {
  std::string out;
  std::array<char, 4096> piece;
  for (ssize_t n; (n = ::read(ours_.get(), piece.data(), piece.size())) > 0;)
    out.append(piece.data(), static_cast<size_t>(n));
  return out;
}

void ProgramTerminal::send_input(std::string_view text) {
  write_all(ours_.get(), std::as_bytes(std::span(text)), "to the program's terminal");
}

void ProgramTerminal::leave_reader() {
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot leave a process to read the program's terminal");
  // The reader itself is nobody's child of ours, whom nobody would wait for.
  if (child > 0) return void(wait_for(child));
  ::setsid();
  if (::fork() != 0) ::_exit(0);
  const int kept = ours_.get() == 0 ? 0 : ::dup2(ours_.get(), 0);
  ::close_range(1, ~0u, 0);
  ::fcntl(kept, F_SETFL, O_RDWR);
  std::array<char, 4096> piece;
  while (::read(kept, piece.data(), piece.size()) > 0 || errno == EINTR) continue;
  ::_exit(0);
}

}  // namespace snapgdb::gdbstub
