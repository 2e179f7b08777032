// One descriptor of every kind, with awkward values, in a parent and a child that share them.
// Before "ready" it says "process PID NAME" and "fd NUMBER KIND".

#include "descriptors.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstring>

namespace descriptors {

int Holder::hold(int number, const char* kind, int fd, std::function<void()> check) {
  if (fd != number) {
    target::setup("dup3", dup3(fd, number, number % 2 ? 0 : O_CLOEXEC));
    close(fd);
  }
  add(number, kind, std::move(check));
  return number;
}

void Holder::add(int number, const char* kind, std::function<void()> check) {
  target::say("fd %d %s", number, kind);
  held_.push_back({number, kind, std::move(check)});
}

void Holder::check() const {
  for (const Held& held : held_) {
    const int flags = fcntl(held.number, F_GETFD);
    if (flags < 0) target::differs("fd %d (%s) is gone", held.number, held.kind.c_str());
    target::expect_equal("FD_CLOEXEC", flags, held.number % 2 ? 0 : FD_CLOEXEC);
    held.check();
  }
}

std::string pattern(size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(target::mix(seed + i / 8) >> i % 8 * 8);
  return bytes;
}

void write_all(int fd, const std::string& bytes) {
  const ssize_t written = write(fd, bytes.data(), bytes.size());
  if (written != static_cast<ssize_t>(bytes.size())) target::cannot("write");
}

void expect_read(int fd, size_t size, const std::string& expected) {
  std::string seen(size, '\0');
  const ssize_t length = target::expect_call("read", read(fd, seen.data(), size));
  seen.resize(length < 0 ? 0 : length);
  if (seen != expected) {
    target::differs("fd %d gave %zu bytes that are not the %zu expected ones", fd, seen.size(),
                    expected.size());
  }
}

}  // namespace descriptors

int main() {
  target::prepare_end();
  signal(SIGIO, SIG_IGN);
  descriptors::Holder holder;
  descriptors::hold_files(holder);
  descriptors::hold_sockets(holder);
  target::Family family;
  const pid_t child = family.fork_child();
  target::OwnState state;
  if (child == 0) {
    prctl(PR_SET_NAME, "sharing child");
    state.remember();
    family.announce_ready();
    family.wait_for_end_of_family();
    state.compare();
    _exit(target::verdict());
  }
  descriptors::hold_event_sources(holder, child);
  family.wait_for_announcements(1);
  target::watch_for_sigchld(false);
  state.remember();
  target::say("process %d descriptors", getpid());
  target::say("process %d sharing child", child);
  target::ready();

  target::wait_for_end();
  state.compare();
  target::expect_no_sigchld();
  holder.check();
  family.end();
  target::expect_success_of(child);
  target::expect_no_children();
  return target::verdict();
}
