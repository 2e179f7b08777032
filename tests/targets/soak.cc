// A random tree, told by its seed: processes with sessions and groups of their own, zombies and
// orphans, threads, memory, and descriptors of every kind, which are made here and there,
// inherited, closed, duplicated, and sent. Each process checks in the end that it is as it was, the
// first one that the same things are shared among them, and whoever made something that it holds
// what it did.
//
// --seed N      which tree (1)
// --only A,B    descriptors of these kinds only
// --without A,B no descriptors of these kinds
// --list        says what kinds there are

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "soak.h"

namespace {

using soak::Random;
using target::setup;

constexpr int kMost = 14;      // processes, without zombies
constexpr int kHighest = 400;  // where descriptors may be put

// What all processes see.
struct Shared {
  std::atomic<int> born, ready, compared, done, bad;
  pid_t pids[kMost];
};

Shared* shared;
int end_pipe[2];
std::vector<soak::Kind> kinds;

// All that there are; who is not ready may still bear others.
void await_all(const std::atomic<int>& counter, int but = 0) {
  while (counter < shared->born - but) target::sleep_ms(1);
}

// ---- One process --------------------------------------------------------------------------------

class Process {
 public:
  Process(const target::ScratchDirectory& scratch, std::vector<int> inherited)
      : scratch_(scratch), known_(std::move(inherited)) {
    shared->pids[number_] = getpid();
  }

  // Returns in every process of the tree below, also. The numbers of those are from its own to
  // `end`.
  void grow(Random random, int end) {
    change_identity(random);
    for (uint64_t count = random.below(5); count > 0; --count) make_object(random);
    for (uint64_t count = random.below(4); count > 0; --count) rearrange(random);
    checks_.push_back(soak::map_memory(random));
    int next = number_ + 1;
    for (uint64_t count = random.below(4); count > 0 && next < end; --count) {
      Random own = random.branch();
      const int first = next;
      next += 1 + static_cast<int>(random.below(static_cast<uint64_t>(end - next)));
      if (bear(own, first, next)) return;
    }
    if (random.one_in(3)) leave_zombie(random);
    for (uint64_t count = random.below(4); count > 0; --count) start_thread(random);
  }

  void remember() { state_.remember(); }
  void compare() { state_.compare(); }
  void check() const {
    for (const auto& check : checks_) check();
  }

 private:
  void change_identity(Random& random) {
    char name[16];
    snprintf(name, sizeof name, "soak %lu", random.below(1000));
    prctl(PR_SET_NAME, name);
    umask(static_cast<mode_t>(random.below(0100)));
    // Who leads a group cannot begin a session.
    if (number_ > 0 && random.one_in(3))
      setup("setsid", setsid());
    else if (number_ > 0 && random.one_in(3))
      setup("setpgid", setpgid(0, 0));
    sigset_t blocked;
    sigemptyset(&blocked);
    for (uint64_t count = random.below(4); count > 0; --count)
      sigaddset(&blocked, static_cast<int>(SIGRTMIN + random.below(20)));
    sigaddset(&blocked, SIGTERM);
    setup("sigprocmask", sigprocmask(SIG_SETMASK, &blocked, nullptr));
    if (random.one_in(2)) signal(SIGUSR1, SIG_IGN);
    if (number_ > 0 && random.one_in(4))
      setup("sigqueue", sigqueue(getpid(), SIGTERM, {.sival_int = 7}));
    const rlimit limit{random.below(1000) + 1000, RLIM_INFINITY};
    if (random.one_in(3)) setrlimit(RLIMIT_STACK, &limit);
    if (random.one_in(3)) setup("chdir", chdir(random.one_in(2) ? "/" : "/usr"));
    if (random.one_in(3)) setup("nice", nice(static_cast<int>(random.below(5))) < 0);
  }

  void make_object(Random& random) {
    const soak::Kind& kind = kinds[random.below(kinds.size())];
    Random own = random.branch();
    soak::Object object = kind.make({own, scratch_, known_});
    known_.insert(known_.end(), object.descriptors.begin(), object.descriptors.end());
    kept_.insert(kept_.end(), object.descriptors.begin(), object.descriptors.end());
    checks_.push_back([name = kind.name, check = std::move(object.check)] {
      const int before = target::verdict();
      check();
      if (target::verdict() != before) target::differs("  that was of kind %s", name);
    });
  }

  // Of what is not its own it may close what it likes.
  void rearrange(Random& random) {
    if (known_.empty()) return;
    const size_t which = random.below(known_.size());
    const int fd = known_[which];
    const bool is_own = std::find(kept_.begin(), kept_.end(), fd) != kept_.end();
    switch (random.below(3)) {
      case 0:
        if (is_own) break;
        close(fd);
        known_.erase(known_.begin() + static_cast<long>(which));
        break;
      case 1:
        known_.push_back(setup("dup", fcntl(fd, random.one_in(2) ? F_DUPFD : F_DUPFD_CLOEXEC,
                                            random.below(kHighest))));
        break;
      case 2:
        setup("F_SETFD", fcntl(fd, F_SETFD, random.one_in(2) ? FD_CLOEXEC : 0));
        break;
    }
  }

  void become_child(int number) {
    number_ = number;
    shared->pids[number_] = getpid();
    kept_.clear(), checks_.clear(), threads_.clear();
  }

  // True in those that are born.
  bool bear(Random& random, int number, int end) {
    const bool is_orphan = random.one_in(4);
    ++shared->born;
    const pid_t child = setup("fork", fork());
    if (child != 0) {
      if (is_orphan) waitpid(child, nullptr, 0);
      return false;
    }
    if (is_orphan && setup("fork", fork()) != 0) _exit(0);
    become_child(number);
    grow(random, end);
    return true;
  }

  void leave_zombie(Random& random) {
    const int status = static_cast<int>(random.below(256));
    const pid_t child = setup("fork", fork());
    if (child == 0) _exit(status);
    siginfo_t info{};
    setup("waitid", waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT));
    checks_.push_back([child, status] {
      int seen = 0;
      target::expect_call("waitpid", waitpid(child, &seen, 0));
      target::expect_equal("a zombie's status", static_cast<uint64_t>(WEXITSTATUS(seen)),
                           static_cast<uint64_t>(status));
    });
  }

  void start_thread(Random& random) {
    const uint64_t value = random.below(UINT64_MAX);
    auto stop = std::make_shared<std::atomic<bool>>(false);
    threads_.push_back(std::make_shared<target::Thread>("soaking", [value, stop] {
      thread_local uint64_t own = value;
      while (!*stop) target::sleep_ms(5);
      target::expect_equal("a thread's own variable", own, value);
    }));
    checks_.push_back([thread = threads_.back(), stop] {
      *stop = true;
      thread->join();
    });
  }

  const target::ScratchDirectory& scratch_;
  int number_ = 0;
  std::vector<int> known_;  // descriptors
  std::vector<int> kept_;   // of them, those that its own checks need
  std::vector<std::function<void()>> checks_;
  std::vector<std::shared_ptr<target::Thread>> threads_;
  target::OwnState state_;
};

// ---- The whole tree, as its first process sees it
// ------------------------------------------------

std::vector<int> descriptors_of(pid_t pid) {
  std::vector<int> numbers;
  for (int fd = 3; fd < 1024; ++fd) {
    struct stat status {};
    const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
    if (lstat(path.c_str(), &status) == 0) numbers.push_back(fd);
  }
  return numbers;
}

struct Holder {
  pid_t pid;
  int fd;
};

// kcmp(2) orders what it compares, so equals are found by sorting. The order is another one in a
// restored tree: each is known by the first that holds it.
std::string sharing_of_descriptions(const std::vector<pid_t>& pids) {
  std::vector<Holder> holders;
  for (const pid_t pid : pids)
    for (const int fd : descriptors_of(pid)) holders.push_back({pid, fd});
  const auto compare = [](const Holder& a, const Holder& b) {
    return syscall(SYS_kcmp, a.pid, b.pid, KCMP_FILE, a.fd, b.fd);
  };
  std::vector<size_t> order(holders.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return compare(holders[a], holders[b]) == 1; });
  std::vector<size_t> first(holders.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const bool is_new = i == 0 || compare(holders[order[i - 1]], holders[order[i]]) != 0;
    first[order[i]] = is_new ? order[i] : first[order[i - 1]];
  }
  std::ostringstream text;
  for (size_t i = 0; i < holders.size(); ++i)
    text << holders[i].pid << '/' << holders[i].fd << " is " << holders[first[i]].pid << '/'
         << holders[first[i]].fd << '\n';
  return text.str();
}

// Parent (but for the first one's), group, session.
std::string relations_of(pid_t pid, bool is_first) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string state;
  int parent = 0, group = 0, session = 0;
  fields >> state >> parent >> group >> session;
  // What is outside has other numbers where the tree is in a namespace of its own.
  const auto known = [](int number) {
    return std::find(shared->pids, shared->pids + kMost, number) != shared->pids + kMost ? number
                                                                                         : 0;
  };
  std::ostringstream out;
  out << pid << " parent " << (is_first ? 0 : parent) << " group " << known(group) << " session "
      << known(session) << '\n';
  return out.str();
}

std::string portrait() {
  std::vector<pid_t> pids(shared->pids, shared->pids + kMost);
  std::erase(pids, 0);
  std::string text = sharing_of_descriptions(pids);
  for (const pid_t pid : pids) text += relations_of(pid, pid == getpid());
  return text;
}

void compare_portraits(const std::string& before, const std::string& after) {
  std::istringstream a(before), b(after);
  for (std::string was, is; std::getline(a, was) && std::getline(b, is);)
    if (was != is) target::differs("%s; it was: %s", is.c_str(), was.c_str());
  if (std::count(before.begin(), before.end(), '\n') !=
      std::count(after.begin(), after.end(), '\n'))
    target::differs("there are more or fewer descriptors than there were");
}

// ---- From the beginning to the end
// ---------------------------------------------------------------

void wait_until_told() {
  char byte;
  while (read(end_pipe[0], &byte, 1) < 0) {
  }
}

// Nobody takes anything away before all have looked.
void check(Process& process) {
  ++shared->compared;
  await_all(shared->compared);
  process.check();
  if (target::verdict()) ++shared->bad;
  ++shared->done;
}

[[noreturn]] void be_descendant(Process& process) {
  setup("close", close(end_pipe[1]));
  process.remember();
  ++shared->ready;
  wait_until_told();
  process.compare();
  check(process);
  await_all(shared->done);  // a parent that ends first would change who is whose
  _exit(target::verdict());
}

std::vector<std::string> words_of(const char* list) {
  std::vector<std::string> words;
  std::istringstream stream(list);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

void choose_kinds(int argc, char** argv) {
  const auto only = words_of(target::option(argc, argv, "--only", ""));
  const auto without = words_of(target::option(argc, argv, "--without", ""));
  const auto has = [](const auto& list, const char* name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (const soak::Kind& kind : soak::kinds())
    if ((only.empty() || has(only, kind.name)) && !has(without, kind.name)) kinds.push_back(kind);
  if (kinds.empty()) {
    fprintf(stderr, "soak: there are no such kinds\n");
    exit(2);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (target::has_flag(argc, argv, "--list")) {
    for (const soak::Kind& kind : soak::kinds()) target::say("%s", kind.name);
    return 0;
  }
  choose_kinds(argc, argv);
  const uint64_t seed = strtoull(target::option(argc, argv, "--seed", "1"), nullptr, 10);
  target::prepare_end();
  setup("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1));
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  shared = new (memory) Shared{};
  shared->born = 1;
  setup("pipe2", pipe2(end_pipe, O_CLOEXEC));
  const pid_t first = getpid();
  target::ScratchDirectory scratch;
  Process process(scratch, {});
  process.grow(Random(seed), kMost);
  if (getpid() != first) be_descendant(process);

  await_all(shared->ready, 1);
  const std::string before = portrait();
  process.remember();
  target::ready();
  target::wait_for_end();

  compare_portraits(before, portrait());
  process.compare();
  setup("close", close(end_pipe[1]));
  check(process);
  await_all(shared->done);
  if (shared->bad && !target::verdict()) target::differs("something in the tree, see above");
  while (wait(nullptr) > 0) {
  }
  return target::verdict();
}
