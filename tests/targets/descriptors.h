#pragma once

#include <functional>
#include <string>
#include <vector>

#include "target.h"

// One descriptor of every kind, with awkward values, each at a number that tests know.
namespace descriptors {

class Holder {
 public:
  // Moves `fd` to `number`, says "fd NUMBER KIND", and runs `check` at the end.
  // Numbers that are even are closed on exec, odd ones are not, so that both are everywhere.
  int hold(int number, const char* kind, int fd, std::function<void()> check);
  // For descriptors that must keep a flag or number of their own.
  void add(int number, const char* kind, std::function<void()> check);
  void check() const;

  const target::ScratchDirectory& scratch() const { return scratch_; }

 private:
  struct Held {
    int number;
    std::string kind;
    std::function<void()> check;
  };

  target::ScratchDirectory scratch_;
  std::vector<Held> held_;
};

void hold_files(Holder& holder);    // 100 …: files, directories, pipes, locks, devices
void hold_sockets(Holder& holder);  // 200 …: unix, IPv4, IPv6, netlink
void hold_event_sources(Holder& holder, int child_pid);  // 300 …: eventfd, timerfd, epoll, …

// A string with every byte value in it.
std::string pattern(size_t size, unsigned seed);
void write_all(int fd, const std::string& bytes);
// What one read(2) of up to `size` bytes gives must be exactly `expected`.
void expect_read(int fd, size_t size, const std::string& expected);

}  // namespace descriptors
