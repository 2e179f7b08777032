// More timers than there is room on the stack to ask for (--timers N, of one thread).

#include <signal.h>
#include <time.h>

#include <cstdlib>

#include "target.h"

int main(int argc, char** argv) {
  target::prepare_end();
  const int count = argc > 2 ? atoi(argv[2]) : 40;
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  for (int i = 0; i < count; ++i) {
    timer_t timer{};
    target::setup("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer));
  }
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();
  state.compare();
  return target::verdict();
}
