// Tasks that are half gone: a zombie child, a process whose leader is a zombie while another of its
// threads lives, an orphan (adopted by this subreaper), whose session has no leader any more (but
// with
// --without-session), and a child stopped by job control (but with --without-stopped: a restored
// one's stop is reported to its parent again). Before "ready" it says "zombie PID", "headless PID",
// "orphan PID" and "stopped PID".

#include <errno.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "target.h"

namespace {

using target::setup;

// The letter of /proc/PID/stat.
char state_of(pid_t pid) {
  char path[64], text[512] = {};
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE* file = fopen(path, "r");
  if (!file) return '?';
  const size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  const char* end = length ? strrchr(text, ')') : nullptr;
  return end ? end[2] : '?';
}

void wait_for_state(pid_t pid, char state) {
  while (state_of(pid) != state) target::sleep_ms(1);
}

pid_t start_zombie() {
  const pid_t child = setup("fork", fork());
  if (child == 0) _exit(77);
  wait_for_state(child, 'Z');
  return child;
}

// The leader exits alone; the process lives on in its second thread.
pid_t start_headless(target::Family& family) {
  const pid_t child = family.fork_child();
  if (child) {
    wait_for_state(child, 'Z');
    return child;
  }
  static target::Family* shared = &family;
  static target::Thread* living = new target::Thread("headless", [] {
    shared->announce_ready();
    shared->wait_for_end_of_family();
    exit(target::verdict());
  });
  (void)living;
  pthread_exit(nullptr);
}

// The one between exits, so that the subreaper, this program's root, becomes the parent.
pid_t start_orphan(target::Family& family, bool with_session) {
  int report[2];
  setup("pipe", pipe(report));
  const pid_t between = family.fork_child();
  if (between == 0) {
    const pid_t session = with_session ? setup("setsid", setsid()) : getsid(0);
    const pid_t orphan = setup("fork", fork());  // not to die with its parent: that is the point
    if (orphan) {
      setup("write", write(report[1], &orphan, sizeof orphan));
      _exit(0);
    }
    prctl(PR_SET_NAME, "orphan");
    family.announce_ready();
    family.wait_for_end_of_family();
    target::expect_equal("the orphan's session", getsid(0), session);
    _exit(target::verdict());
  }
  pid_t orphan = 0;
  if (read(report[0], &orphan, sizeof orphan) != sizeof orphan) target::cannot("read");
  close(report[0]);
  close(report[1]);
  target::expect_success_of(between);
  return orphan;
}

pid_t start_stopped(target::Family& family) {
  const pid_t child = family.fork_child();
  if (child == 0) {
    prctl(PR_SET_NAME, "stopped");
    raise(SIGSTOP);
    family.wait_for_end_of_family();
    _exit(target::verdict());
  }
  int status = 0;
  target::expect_equal("waitpid", waitpid(child, &status, WUNTRACED), child);
  if (!WIFSTOPPED(status)) target::differs("the child did not stop");
  return child;
}

void check_zombie(pid_t zombie) {
  target::expect_equal("the zombie's state", state_of(zombie), 'Z');
  int status = 0;
  target::expect_equal("waitpid", waitpid(zombie, &status, 0), zombie);
  target::expect_equal("the zombie's status", status, 77 << 8);
}

// It must neither have been set going nor have been reported a second time.
void check_stopped(pid_t stopped) {
  target::expect_equal("the stopped child's state", state_of(stopped), 'T');
  siginfo_t info{};
  waitid(P_PID, stopped, &info, WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT);
  target::expect_equal("a second report of the stop", info.si_pid, 0);
  kill(stopped, SIGCONT);
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  const bool with_stopped = !target::has_flag(argc, argv, "--without-stopped");
  setup("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1));
  target::Family family;
  const pid_t headless = start_headless(family);
  const pid_t orphan = start_orphan(family, !target::has_flag(argc, argv, "--without-session"));
  const pid_t stopped = with_stopped ? start_stopped(family) : 0;
  const pid_t zombie = start_zombie();
  family.wait_for_announcements(2);
  target::watch_for_sigchld(false);
  target::OwnState state;
  state.remember();
  target::say("process %d zombies\nzombie %d\nheadless %d\norphan %d\nstopped %d", getpid(), zombie,
              headless, orphan, stopped);
  target::ready();
  target::wait_for_end();

  state.compare();
  target::expect_no_sigchld();
  check_zombie(zombie);
  target::expect_equal("the headless leader's state", state_of(headless), 'Z');
  if (with_stopped) check_stopped(stopped);
  family.end();
  for (const pid_t child : {headless, orphan, stopped})
    if (child) target::expect_success_of(child);
  target::expect_no_children();
  return target::verdict();
}
