#pragma once

#include <string>
#include <string_view>

#include "core/base/fd.h"

namespace snapgdb::gdbstub {

// What a restored program has for its standard streams where those came from outside: a terminal
// whose other side is ours, since ours belong to the debugger's protocol.
class ProgramTerminal {
 public:
  ProgramTerminal();  // throws SystemError

  // While it exists, our own standard streams are the program's.
  class Lent {
   public:
    explicit Lent(const ProgramTerminal& terminal);
    ~Lent();
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;

   private:
    Fd kept_[3];
  };

  int descriptor() const { return ours_.get(); }
  // What was written since the last time; never waits.
  std::string take_output();
  void send_input(std::string_view text);
  // For a program that goes on without us: a process takes what it writes, as long as somebody may.
  void leave_reader();

 private:
  Fd ours_, theirs_;
};

}  // namespace snapgdb::gdbstub
