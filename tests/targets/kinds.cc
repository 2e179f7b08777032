// Memory of awkward kinds, which must be neither read wrongly nor changed by being looked at: huge
// pages, guard pages, what a userfaultfd has not delivered yet or protects, what forks do not
// inherit, mappings at the ends of the address space. What the machine lacks is passed over, with a
// line that says so.
//
// --hugetlb          also pages of the machine's pool of huge ones, up to 14
// --no-userfaultfd   without one; first copies are not made of a process that has one
// --told-of-forks    its userfaultfd is told of forks (needs CAP_SYS_PTRACE)
// --ballast MIB      so much ordinary memory besides
// --seccomp          under a filter, which allows everything

#include "kinds.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <cstdlib>
#include <optional>

namespace {

void enter_seccomp() {
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{1, allow};
  target::setup("PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  target::setup("PR_SET_SECCOMP", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  kinds::Runs runs;
  kinds::set_up_anonymous(runs);
  kinds::set_up_guards(runs);
  const bool with_huge_pages = target::has_flag(argc, argv, "--hugetlb");
  if (with_huge_pages) kinds::set_up_huge(runs);
  kinds::set_up_ballast(runs,
                        std::strtoul(target::option(argc, argv, "--ballast", "0"), nullptr, 0));
  std::optional<kinds::Userfault> userfault;
  if (!target::has_flag(argc, argv, "--no-userfaultfd"))
    userfault.emplace(runs, with_huge_pages, target::has_flag(argc, argv, "--told-of-forks"));
  kinds::set_up_growing(runs);
  if (target::has_flag(argc, argv, "--seccomp")) enter_seccomp();
  runs.say();
  target::watch_for_sigchld(false);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  state.compare();
  runs.check_absent();
  runs.check_patterns();
  if (userfault) userfault->check();
  runs.check_guards();
  kinds::check_growing(runs);
  runs.check_zeros();
  target::expect_no_sigchld();
  kinds::check_fork(runs);
  if (userfault) userfault->check_told_of_fork();
  return target::verdict();
}
