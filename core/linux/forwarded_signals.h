#pragma once

#include "core/base/ids.h"

namespace snapgdb {

// From now on, signals that others send to us go to `pid`, whose place we hold. What is ignored
// stays so (nohup(1)). What the terminal sends does not go there if it is in our process group,
// the whole of which has got it.
void forward_signals_to(Pid pid);

// While it lives, nothing is forwarded.
class ForwardingPause {
 public:
  ForwardingPause();
  ~ForwardingPause();
  ForwardingPause(const ForwardingPause&) = delete;
  ForwardingPause& operator=(const ForwardingPause&) = delete;

 private:
  pid_t to_;
};

// They are ours again, and do nothing.
void forward_no_signals();

}  // namespace snapgdb
