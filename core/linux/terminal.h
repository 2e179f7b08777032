#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "core/base/fd.h"

namespace snapgdb {

// What the kernel tells of a pseudoterminal through a descriptor of either side (pty(7),
// tty_ioctl(2)), without changing it.
struct TerminalState {
  bool master = false;
  uint32_t index = 0;                                  // of /dev/pts/N
  std::string settings, locked_settings, window_size;  // struct termios2, termios, winsize
  int unread = 0;                                      // bytes that this side could read
  bool packet_mode = false, locked = false;            // of a master
  bool exclusive = false;                              // of this side
  bool hung_up = false;                                // of a master: the last slave was closed
  int line_discipline = 0;
};
// nullopt: it is no pseudoterminal.
std::optional<TerminalState> terminal_state(const Fd& terminal, bool master);

// A new pseudoterminal, unlocked: its master. With that index, where it is free.
Fd open_master(uint32_t index);
// Its other side; never the caller's controlling terminal. `flags` of open(2).
Fd open_slave(const Fd& master, int flags);

// Settings, window size and line discipline. Through a master it sets those of the slave. Throw
// SystemError.
void set_terminal(const Fd& terminal, const TerminalState& state);
// A struct termios2; "": it is no terminal.
std::string terminal_settings(int terminal);
// Whether it worked.
bool set_terminal_settings(int terminal, const std::string& settings);
// What both sides of a terminal could read, taken away from them, also of a line that has no end
// yet; settings are afterwards what they were. Puts it back in the end, unless somebody keeps it:
// while the tree is still stopped.
class TakenQueues {
 public:
  // `slave`: none, if it is out of reach; then what it could read is left where it is.
  TakenQueues(Fd master, Fd slave) : master_(std::move(master)), slave_(std::move(slave)) {}
  TakenQueues(TakenQueues&&) = default;
  TakenQueues& operator=(TakenQueues&&) = delete;
  ~TakenQueues();
  // Throws SystemError; what was taken by then goes back all the same.
  void take();
  const std::string& input() const { return input_; }
  const std::string& output() const { return output_; }
  void keep() { input_.clear(), output_.clear(); }

 private:
  Fd master_, slave_;
  std::string input_, output_;
};
// Has both sides find that again, whatever the settings would make of it. `state`: of the slave.
void put_queues(const Fd& master, const Fd& slave, const std::string& input,
                const std::string& output, const TerminalState& state);
// What would be in the way of opening it further.
void close_off_terminal(const Fd& terminal, const TerminalState& state);

// The device number as /proc/PID/stat and TIOCGDEV show it, of /dev/pts/N.
std::optional<uint32_t> index_of_slave(uint64_t encoded_device);

}  // namespace snapgdb
