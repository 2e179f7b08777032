#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb {

// What the kernel tells of a pseudoterminal through a descriptor of either side (pty(7),
// tty_ioctl(2)), without changing it.
struct TerminalState {
  bool master = false;
  uint32_t index = 0;                                  // of /dev/pts/N
  std::string settings, locked_settings, window_size;  // struct termios2, termios, winsize
  int unread = 0;                                      // bytes that this side could read
  bool has_unread = false;                             // also if it is the end of a file (^D) only
  bool has_packet_status = false;                      // of a master: one that nobody has read
  bool takes_output = true;  // of a slave: not, if its output is stopped, or the master's side full
  bool packet_mode = false, locked = false;  // of a master
  bool exclusive = false;                    // of this side
  bool hung_up = false;                      // of a master: the last slave was closed
  int line_discipline = 0;
};
// nullopt: it is no pseudoterminal.
std::optional<TerminalState> terminal_state(const Fd& terminal, bool master);

// Whether it is a terminal whose other side is gone: all that is done with it fails.
bool is_hung_up_slave(const Fd& terminal);

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

// The terminal that is our standard input has other settings while this exists.
class LentSettings {
 public:
  explicit LentSettings(const std::string& settings);  // "": those that it has
  ~LentSettings();
  LentSettings(const LentSettings&) = delete;
  LentSettings& operator=(const LentSettings&) = delete;

 private:
  std::string usual_;
};

// What both sides of a terminal could read, and what else is found out by changing it only.
struct TerminalQueues {
  std::string input, output;  // of the slave, of the master
  // Where in `input` an end of file (^D) waits; or ends a line, which has no newline then.
  std::vector<uint32_t> ends_of_file;
  enum class Flow { kRuns, kStoppedByProgram, kStoppedByTerminal } flow = Flow::kRuns;
  uint8_t packet_status = 0;  // TIOCPKT_*, of a master in packet mode
  bool empty() const {
    return input.empty() && output.empty() && ends_of_file.empty() && flow == Flow::kRuns &&
           packet_status == 0;
  }
};

// Those of a terminal, taken away from it, also a line that has no end yet; settings are afterwards
// what they were. Puts them back in the end, unless somebody keeps them: while the tree is still
// stopped.
class TakenQueues {
 public:
  // `slave`: none, if it is out of reach; then what it could read is left where it is.
  TakenQueues(Fd master, Fd slave) : master_(std::move(master)), slave_(std::move(slave)) {}
  TakenQueues(TakenQueues&&) = default;
  TakenQueues& operator=(TakenQueues&&) = delete;
  ~TakenQueues();
  // Throws SystemError; what was taken by then goes back all the same.
  void take();
  const TerminalQueues& queues() const { return queues_; }
  void keep() { queues_ = {}; }

 private:
  void take_input();

  Fd master_, slave_;
  bool has_packets_ = false;
  TerminalQueues queues_;
};
// Has both sides find that again, whatever the settings would make of it. How many bytes there was
// no room for. Throws SystemError.
size_t put_queues(const Fd& master, const Fd& slave, const TerminalQueues& queues);
// Of a packet status, what put_queues() cannot bring about.
uint8_t lost_packet_status(const TerminalQueues& queues);
// What would be in the way of opening it further.
void close_off_terminal(const Fd& terminal, const TerminalState& state);

// The device number as /proc/PID/stat and TIOCGDEV show it, of /dev/pts/N.
std::optional<uint32_t> index_of_slave(uint64_t encoded_device);

}  // namespace snapgdb
