#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>

#include "core/linux/detour.h"

namespace snapgdb {

// What a task of the stopped tree has been sent on a detour for.
class Question {
 public:
  virtual ~Question() = default;
  // Sets the task going again where it takes several goes; true: finish() will not wait.
  virtual bool proceed() = 0;
  // Takes the answers. What goes wrong is recorded as missing, and not thrown.
  virtual void finish() = 0;
};

// The tasks that are on their way, several at once: a tracer that waits for each in turn goes to
// sleep, and its processor with it, for longer than the task is under way. By address space
// (Process.address_space), which processes may share.
class Questions {
 public:
  // The part of `place` for one more task, which scratch bytes have room in; waits for others where
  // they leave none. Precondition: all of it has room.
  Detour::Place room(uint32_t space, Detour::Place place, size_t scratch);
  // One that is under way there.
  void add(uint32_t space, const Detour::Place& room, std::unique_ptr<Question> question);
  // Whether all are back. Lets them go on, too.
  bool are_over(uint32_t space);
  // Waits for all.
  void finish(uint32_t space);

 private:
  struct UnderWay {
    uint64_t low, high;
    std::unique_ptr<Question> question;
  };
  static void finish_first(std::deque<UnderWay>& under_way);

  std::map<uint32_t, std::deque<UnderWay>> under_way_;
};

}  // namespace snapgdb
