// A tree that checks itself all the time: registers, memory, blocked calls, timers, locks,
// children.
//
// Each line on standard input is answered by "checked N whole", or "changed" for the last word.
// What only holds at quiet moments is looked at then, and at the end: mappings, descriptors,
// threads, children and signals of every process. Before "ready" it says "process PID NAME" of
// each.

#include "sentinel.h"

#include <errno.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace sentinel {

using target::setup;

void Line::announce() const {
  const pid_t pid = getpid();
  setup("write", write(fd_, &pid, sizeof pid));
}

Line::Request Line::wait(int milliseconds) const {
  pollfd asked{fd_, POLLIN, 0};
  if (poll(&asked, 1, milliseconds) <= 0) return Request::kNone;
  char byte;
  return read(fd_, &byte, 1) == 1 ? Request::kCheck : Request::kEnd;
}

void Line::answer() const {
  const pid_t verdict = target::verdict();
  setup("write", write(fd_, &verdict, sizeof verdict));
}

void Line::serve(const std::function<void()>& check) {
  announce();
  for (Request request; (request = wait(-1)) != Request::kEnd;) {
    if (request == Request::kNone) continue;  // a signal of its own
    check();
    answer();
  }
  check();
}

void Unchanged::remember(bool has_children_that_come_and_go) {
  watches_children_ = !has_children_that_come_and_go;
  if (watches_children_) target::watch_for_sigchld(false);
  state_.remember();
}

void Unchanged::check() {
  state_.compare_once_settled();
  if (watches_children_) target::expect_no_sigchld();
  siginfo_t info{};
  constexpr int kAnything = WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT | __WALL;
  if (waitid(P_ALL, 0, &info, kAnything) == 0 && info.si_pid)
    target::differs("child %d has something to report: %d", info.si_pid, info.si_code);
  int signal = 0;
  prctl(PR_GET_PDEATHSIG, &signal);
  target::expect_equal("PR_GET_PDEATHSIG", signal, SIGKILL);
}

namespace {

struct Member {
  pid_t pid;
  int line;
};

[[noreturn]] void play(const Role& role, int fd, pid_t root) {
  while (role.orphan && getppid() != root) target::sleep_ms(1);  // else it would die as it is left
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, role.name);
  Line line(fd);
  role.play(line);
  _exit(target::verdict());
}

// Has a child of its own, and goes.
[[noreturn]] void leave_an_orphan(const Role& role, int fd, pid_t root) {
  if (setup("fork", fork()) == 0) play(role, fd, root);
  _exit(0);
}

pid_t answer_of(int line) {
  pid_t answer;
  if (read(line, &answer, sizeof answer) != sizeof answer) target::cannot("reading an answer");
  return answer;
}

Member start(const Role& role, const std::vector<Member>& others) {
  int ends[2];
  setup("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
  const pid_t root = getpid(), child = setup("fork", fork());
  if (child == 0) {
    close(ends[0]);
    for (const Member& other : others) close(other.line);
    role.orphan ? leave_an_orphan(role, ends[1], root) : play(role, ends[1], root);
  }
  close(ends[1]);
  if (role.orphan) target::expect_success_of(child);
  const pid_t pid = answer_of(ends[0]);
  target::say("process %d %s", pid, role.name);
  return {pid, ends[0]};
}

bool all_whole(const std::vector<Member>& members) {
  for (const Member& member : members) setup("write", write(member.line, "", 1));
  bool whole = target::verdict() == 0;
  for (const Member& member : members) whole &= answer_of(member.line) == 0;
  return whole;
}

int run_root() {
  setup("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1));
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  target::say("process %d sentinel", getpid());
  std::vector<Member> members;
  for (const Role& role : kRoles) members.push_back(start(role, members));
  Unchanged unchanged;
  unchanged.remember();
  target::ready();
  unsigned checks = 0;
  for (char byte; read(STDIN_FILENO, &byte, 1) == 1;) {
    if (byte != '\n') continue;
    unchanged.check();
    target::say("checked %u %s", ++checks, all_whole(members) ? "whole" : "changed");
  }
  unchanged.check();
  for (const Member& member : members) close(member.line);
  for (const Member& member : members) target::expect_success_of(member.pid);
  target::expect_no_children();
  return target::verdict();
}

}  // namespace
}  // namespace sentinel

int main() {
  return sentinel::run_root();
}
