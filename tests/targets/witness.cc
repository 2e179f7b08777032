// Several processes and threads with known values wherever a process can hold any.
//
// Before "ready" it says what there is, for tests that look at it from outside:
//   process PID NAME · thread PID TID NAME · global NAME · tls NAME ·
//   range PID NAME ADDRESS SIZE bytes|unreadable
// Options: --may-be-stopped (SIGSTOP and SIGCONT may come), --alone (no children), --no-tiles (AMX
// is not used).

#include <sys/prctl.h>
#include <unistd.h>

#include <cfloat>
#include <cmath>
#include <optional>

#include "libwitness.h"
#include "registers.h"
#include "target.h"
#include "witness_memory.h"
#include "witness_threads.h"

struct WitnessStruct {
  const char* text;
  unsigned three_bits : 3;
  signed minus_two : 4;
  double numbers[5];
  long (*function)(long (*)(long), long);
};

extern "C" {
long witness_role = 0;
long witness_zero = 0;
long witness_minus_one = -1;
long witness_least = INT64_MIN;
unsigned long witness_greatest = UINT64_MAX;
unsigned char witness_bytes[256];
const char witness_constant[] = "constant \001\377 text";
WitnessStruct witness_struct = {
    "text", 5, -2, {-0.0, INFINITY, NAN, DBL_TRUE_MIN, -DBL_MAX}, libwitness_call};
}

namespace {

using witness::Kind;

void fill_globals(long role) {
  witness_role = role;
  for (int i = 0; i < 256; ++i) witness_bytes[i] = static_cast<unsigned char>(i ^ role);
}

void check_globals(long role) {
  target::expect_equal("witness_role", witness_role, role);
  target::expect_equal("witness_zero", witness_zero, 0);
  target::expect_equal("witness_minus_one", witness_minus_one, ~uint64_t{0});
  target::expect_equal("witness_least", witness_least, uint64_t{1} << 63);
  target::expect_equal("witness_greatest", witness_greatest, UINT64_MAX);
  target::expect_equal("libwitness_global", libwitness_global, 0x11b0000000000011);
  for (int i = 0; i < 256; ++i) target::expect_equal("a byte", witness_bytes[i], i ^ (role & 0xff));
  if (!std::signbit(witness_struct.numbers[0])) target::differs("-0.0 has lost its sign");
}

void say_globals() {
  for (const char* name :
       {"witness_role", "witness_zero", "witness_minus_one", "witness_least", "witness_greatest",
        "witness_bytes", "witness_constant", "witness_struct", "libwitness_global"}) {
    target::say("global %s", name);
  }
  for (const char* name : {"witness_tls", "libwitness_tls", "witness_tls_zeros"}) {
    target::say("tls %s", name);
  }
}

struct Role {
  const char* name;
  std::vector<Kind> threads;
};

const Role kRoles[] = {
    {"witness",
     {Kind::kSpin, Kind::kPause, Kind::kDeep, Kind::kHandler, Kind::kCondition, Kind::kTiles}},
    {"witness-one", {Kind::kDeep, Kind::kPause}},
    {"witness-inner", {Kind::kSpin, Kind::kHandler}},
    {"witness (two)", {Kind::kPause}},
};

// One process of the tree from its fork to its end.
class Member {
 public:
  Member(int role, const target::ScratchDirectory& scratch, const witness::SharedMemory& shared)
      : role_(role), shared_(shared), memory_(scratch, role) {
    prctl(PR_SET_NAME, kRoles[role].name);
    fill_globals(role);
    target::say("process %d %s", getpid(), kRoles[role].name);
    witness::say_regions(shared_.regions());
    witness::say_regions(memory_.regions());
    threads_.emplace(kRoles[role].threads, role);
  }

  void remember(bool may_be_stopped) {
    target::watch_for_sigchld(may_be_stopped);
    state_.remember();
  }

  // The state first: what follows changes it.
  void check() {
    state_.compare();
    target::expect_no_sigchld();
    threads_->finish();
    check_globals(role_);
    witness::check_regions(memory_.regions());
    witness::check_regions(shared_.regions());
  }

 private:
  int role_;
  const witness::SharedMemory& shared_;
  witness::PrivateMemory memory_;
  std::optional<witness::Threads> threads_;
  target::OwnState state_;
};

class Tree {
 public:
  explicit Tree(bool may_be_stopped) : may_be_stopped_(may_be_stopped), shared_(scratch_) {}

  int run_root(bool alone) {
    if (!alone) children_ = {fork_member(1, family_, true), fork_member(3, family_, false)};
    Member root(0, scratch_, shared_);
    family_.wait_for_announcements(alone ? 0 : 3);
    root.remember(may_be_stopped_);
    say_globals();
    target::ready();
    target::wait_for_end();
    root.check();
    family_.end();
    return reap();
  }

 private:
  // Children come first, so that fork(2) happens in a process of one thread. They end after their
  // parent has checked itself: `family` is the parent's.
  pid_t fork_member(int role, target::Family& family, bool with_child) {
    const pid_t child = family.fork_child();
    if (child) return child;
    children_.clear();
    target::Family own;
    if (with_child) children_.push_back(fork_member(2, own, false));
    Member member(role, scratch_, shared_);
    member.remember(may_be_stopped_);
    family_.announce_ready();
    family.wait_for_end_of_family();
    member.check();
    own.end();
    _exit(reap());
  }

  int reap() {
    for (const pid_t child : children_) target::expect_success_of(child);
    target::expect_no_children();
    return target::verdict();
  }

  bool may_be_stopped_;
  target::ScratchDirectory scratch_;
  witness::SharedMemory shared_;
  target::Family family_;
  std::vector<pid_t> children_;
};

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  if (target::has_flag(argc, argv, "--no-tiles")) target::forbid_amx();
  Tree tree(target::has_flag(argc, argv, "--may-be-stopped"));
  return tree.run_root(target::has_flag(argc, argv, "--alone"));
}
