// Ends in the manner named by its argument. Used by the tests of `snapgdb run`.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace {

[[gnu::noinline]] int crash_here(volatile int* pointer) {
  *pointer = 7;
  return 0;
}

int crash_in_thread() {
  pthread_t thread;
  const auto body = [](void*) -> void* {
    pthread_setname_np(pthread_self(), "crashing");
    crash_here(nullptr);
    return nullptr;
  };
  pthread_create(&thread, nullptr, body, nullptr);
  pthread_join(thread, nullptr);
  return 0;
}

int call_abort() {
  abort();
}

int divide() {
  volatile int zero = 0;
  return 100 / zero;
}

int terminate_itself() {
  raise(SIGTERM);
  return 0;
}

int kill_itself() {
  return kill(getpid(), SIGKILL);
}

int throw_exception() {
  throw std::runtime_error("nobody catches this");
}

// Two processes of which the child crashes; the parent says how and succeeds in failing.
int crash_in_child() {
  const pid_t child = fork();
  if (child == 0) return crash_here(nullptr);
  int status = 0;
  waitpid(child, &status, 0);
  printf("child ended by signal %d\n", WTERMSIG(status));
  return 5;
}

// A crash that is none: the handler mends it.
int recover() {
  static sigjmp_buf back;
  struct sigaction action {};
  action.sa_handler = [](int) { siglongjmp(back, 1); };
  sigaction(SIGSEGV, &action, nullptr);
  if (sigsetjmp(back, 1) == 0) crash_here(nullptr);
  puts("recovered");
  return 0;
}

// Fatal only the second time, from inside a handler that puts the default action back.
int report_and_crash() {
  struct sigaction action {};
  action.sa_handler = [](int signal) {
    if (write(STDERR_FILENO, "crash reporter\n", 15) < 0) _exit(1);
    ::signal(signal, SIG_DFL);
  };
  sigaction(SIGSEGV, &action, nullptr);
  return crash_here(nullptr);
}

int copy_input() {
  char buffer[4096];
  for (ssize_t n; (n = read(STDIN_FILENO, buffer, sizeof buffer)) > 0;) {
    if (write(STDOUT_FILENO, buffer, n) != n) return 1;
  }
  return 0;
}

int describe_terminal() {
  printf("stdin %d stdout %d stderr %d foreground %d\n", isatty(0), isatty(1), isatty(2),
         tcgetpgrp(0) == getpgrp());
  return 0;
}

int say_what_it_inherited() {
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\n", fd);
  }
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      printf("ignored %d\n", signal);
    }
    if (sigismember(&blocked, signal) == 1) printf("blocked %d\n", signal);
  }
  printf("parent %d group leader %d\n", getppid(), getpgrp() == getpid());
  return 0;
}

int exit_with_42() {
  return 42;
}

// Many children that come and go: each must be followed, and none may be held up.
int fork_many() {
  for (int i = 0; i < 50; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(i);
    int status = 0;
    if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != i) return 1;
  }
  puts("50 children");
  return 0;
}

int execute_another() {
  return execl("/bin/echo", "echo", "another program", nullptr);
}

struct Manner {
  const char* name;
  int (*run)();
};

constexpr Manner kManners[] = {
    {"segv-thread", crash_in_thread},
    {"abort", call_abort},
    {"divide", divide},
    {"term", terminate_itself},
    {"kill", kill_itself},
    {"throw", throw_exception},
    {"child", crash_in_child},
    {"recover", recover},
    {"report", report_and_crash},
    {"cat", copy_input},
    {"terminal", describe_terminal},
    {"inherited", say_what_it_inherited},
    {"status-42", exit_with_42},
    {"fork-many", fork_many},
    {"exec", execute_another},
    {"ok", [] { return 0; }},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Manner& manner : kManners) {
    if (argc == 2 && !strcmp(argv[1], manner.name)) return manner.run();
  }
  for (const Manner& manner : kManners) fprintf(stderr, "crasher %s\n", manner.name);
  return 2;
}
