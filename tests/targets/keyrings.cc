// Keys that only the kernel has: linked to the keyrings of a session, a process and a thread, one
// of the longest name and one of the longest content; an empty keyring; a thread whose filter lets
// nobody ask. A restored tree has none of them: then there is nothing to check.

#include "target.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <string>

namespace {

constexpr size_t kLongestName = 4095, kLongestContent = 32767;  // of the kernel's "user" keys

int32_t keyctl(int operation, long first = 0, const void* second = nullptr, size_t third = 0) {
  return static_cast<int32_t>(syscall(SYS_keyctl, operation, first, second, third, 0));
}

struct Key {
  int32_t keyring;
  std::string name, content;
  int32_t serial = 0;

  void add() {
    serial = target::setup("add_key", syscall(SYS_add_key, "user", name.c_str(), content.data(),
                                              content.size(), keyring));
  }
  void check() const {
    std::string now(content.size() + 1, '\0');
    const int32_t size = keyctl(KEYCTL_READ, serial, now.data(), now.size());
    now.resize(size < 0 ? 0 : static_cast<size_t>(size));
    if (now != content) target::differs("key %.20s: %d bytes, or others", name.c_str(), size);
    const long found = syscall(SYS_request_key, "user", name.c_str(), nullptr, 0);
    target::expect_equal("the key that is found by its name", static_cast<uint64_t>(found),
                         static_cast<uint64_t>(serial));
  }
};

void expect_keys_in(const char* what, int32_t keyring, size_t keys) {
  target::expect_equal(what, static_cast<uint64_t>(keyctl(KEYCTL_READ, keyring)),
                       keys * sizeof(int32_t));
}

void forbid_keyctl() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_keyctl, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog value{std::size(program), program};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  target::setup("seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &value));
}

}  // namespace

int main() {
  target::prepare_end();
  target::setup("join a session", keyctl(KEYCTL_JOIN_SESSION_KEYRING));
  Key of_session{KEY_SPEC_SESSION_KEYRING, "of the session; one", std::string(1, '\0')};
  Key of_process{KEY_SPEC_PROCESS_KEYRING, std::string(kLongestName, 'n'), "process"};
  Key first{KEY_SPEC_THREAD_KEYRING, "first", std::string("\0\xff;", 3)};
  Key second{KEY_SPEC_THREAD_KEYRING, "second", std::string(4000, '\xee')};
  // An ordinary user has 20,000 bytes in all.
  if (geteuid() == 0) second.content.resize(kLongestContent, '\xee');
  of_session.add();
  of_process.add();

  target::Family threads;
  target::Thread with_keys("with keys", [&] {
    first.add();
    second.add();
    threads.announce_ready();
    threads.wait_for_end_of_family();
    if (target::was_restored()) return;
    first.check();
    second.check();
    of_process.check();
    expect_keys_in("keys of the thread", KEY_SPEC_THREAD_KEYRING, 2);
  });
  target::Thread empty("empty", [&] {
    target::setup("make a keyring", keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING,
                                           reinterpret_cast<const void*>(1)));
    threads.announce_ready();
    threads.wait_for_end_of_family();
    if (!target::was_restored())
      expect_keys_in("keys of a thread with none", KEY_SPEC_THREAD_KEYRING, 0);
  });
  target::Thread filtered("filtered", [&] {
    forbid_keyctl();
    threads.announce_ready();
    threads.wait_for_end_of_family();
    target::expect_equal("keyctl under a filter", static_cast<uint64_t>(keyctl(KEYCTL_READ, -1)),
                         static_cast<uint64_t>(-1));
  });
  threads.wait_for_announcements(3);
  target::ready();
  target::wait_for_end();

  if (!target::was_restored()) {
    of_session.check();
    of_process.check();
    expect_keys_in("keys of the process", KEY_SPEC_PROCESS_KEYRING, 1);
    errno = 0;
    keyctl(KEYCTL_READ, KEY_SPEC_THREAD_KEYRING);
    target::expect_equal("of a thread without a keyring", static_cast<uint64_t>(errno), ENOKEY);
  }
  threads.end();
  for (target::Thread* thread : {&with_keys, &empty, &filtered}) thread->join();
  return target::verdict();
}
