#pragma once

#include "target.h"

namespace sentinel {

// A member's line to the root, which now and then asks whether all is as it was.
class Line {
 public:
  enum class Request { kNone, kCheck, kEnd };

  explicit Line(int fd) : fd_(fd) {}
  void announce() const;  // this process, as ready
  Request wait(int milliseconds) const;
  void answer() const;                             // kCheck: with the verdict so far
  void serve(const std::function<void()>& check);  // until the end

 private:
  int fd_;
};

// What of a process must be the same at every quiet moment.
class Unchanged {
 public:
  void remember(bool has_children_that_come_and_go = false);
  void check();

 private:
  target::OwnState state_;
  bool watches_children_ = true;
};

struct Role {
  const char* name;
  void (*play)(Line& line);  // from "ready" to the end
  bool orphan = false;       // its parent is gone: it is the subreaper's
};
extern const std::vector<Role> kRoles;

}  // namespace sentinel
