#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

struct IdColumn {
  void (pb::Credentials::*user)(uint32_t);
  void (pb::Credentials::*group)(uint32_t);
};
// The columns of "Uid:" and "Gid:" in /proc/PID/status, in the order of proc(5).
constexpr IdColumn kColumns[] = {
    {&pb::Credentials::set_ruid, &pb::Credentials::set_rgid},
    {&pb::Credentials::set_euid, &pb::Credentials::set_egid},
    {&pb::Credentials::set_suid, &pb::Credentials::set_sgid},
    {&pb::Credentials::set_fsuid, &pb::Credentials::set_fsgid},
};

// Without a security module that has labels, the file is there, but cannot be read.
bool has_labels() {
  static const bool kHasLabels =
      ProcDirectory::of(Pid{::getpid()}).read_if_allowed("attr/current").has_value();
  return kHasLabels;
}

void read_credentials(const ProcFields& status, pb::Credentials& out) {
  const auto users = split_blank(status.text("Uid")), groups = split_blank(status.text("Gid"));
  for (size_t i = 0; i < std::size(kColumns) && i < users.size() && i < groups.size(); ++i) {
    const IdColumn& column = kColumns[i];
    (out.*column.user)(parse_number<uint32_t>(users[i]).value_or(UINT32_MAX));
    (out.*column.group)(parse_number<uint32_t>(groups[i]).value_or(UINT32_MAX));
  }
  for (const std::string_view group : split_blank(status.text("Groups")))
    out.add_groups(parse_number<uint32_t>(group).value_or(UINT32_MAX));
  out.set_cap_inheritable(status.number("CapInh", 16));
  out.set_cap_permitted(status.number("CapPrm", 16));
  out.set_cap_effective(status.number("CapEff", 16));
  out.set_cap_bounding(status.number("CapBnd", 16));
  out.set_cap_ambient(status.number("CapAmb", 16));
  out.set_no_new_privs(status.number("NoNewPrivs") != 0);
  out.set_seccomp_mode(static_cast<uint32_t>(status.number("Seccomp")));
  out.set_seccomp_filters(static_cast<uint32_t>(status.number("Seccomp_filters")));
}

// As whom somebody has logged in, for the records of audit; nullopt: the kernel has none.
std::optional<uint32_t> login_user_of(const ProcDirectory& task) {
  const auto text = task.read_if_allowed("loginuid");
  return text ? parse_number<uint32_t>(trim(*text)) : std::nullopt;
}

void capture(CaptureContext&, const StoppedTask& stopped, pb::Thread& thread) {
  pb::Credentials& out = *thread.mutable_credentials();
  read_credentials(stopped.status(), out);
  if (const auto user = login_user_of(stopped.proc())) out.set_login_user(*user);
  if (has_labels())
    out.set_lsm_label(
        std::string(trim(stopped.proc().read_if_allowed("attr/current").value_or(""))));
}

// ---- Restoring ----------------------------------------------------------------------------------

struct CapabilityHeader {
  uint32_t version = 0x20080522;  // _LINUX_CAPABILITY_VERSION_3
  int32_t pid = 0;
};

// What the task has already, it need not be given: changing it takes rights that an ordinary user
// does not have.
bool has_ids_already(const pb::Credentials& wanted, const ProcFields& status) {
  pb::Credentials now;
  read_credentials(status, now);
  const auto ids = [](const pb::Credentials& of) {
    return std::array{of.ruid(), of.euid(), of.suid(), of.fsuid(),
                      of.rgid(), of.egid(), of.sgid(), of.fsgid()};
  };
  return ids(now) == ids(wanted);
}

// Those that we have ourselves it was born with, even where a user namespace hides them.
void add_groups(const pb::Credentials& wanted, const UserNumbers& numbers, Seed& seed) {
  std::vector<uint32_t> groups(wanted.groups().begin(), wanted.groups().end());
  std::vector<gid_t> own(static_cast<size_t>(::getgroups(0, nullptr)));
  own.resize(static_cast<size_t>(::getgroups(static_cast<int>(own.size()), own.data())));
  if (groups == own) return;
  for (uint32_t& group : groups) group = numbers.group(group);
  std::erase(groups, UserNumbers::kNone);
  seed.add_if_allowed("set the groups", SYS_setgroups,
                      {groups.size(), seed.put(std::as_bytes(std::span(groups)))});
}

// One that has no number there stays what it is.
void add_ids(const pb::Credentials& wanted, const UserNumbers& numbers, Seed& seed) {
  const auto user = [&](uint32_t outside) { return numbers.user(outside); };
  const auto group = [&](uint32_t outside) { return numbers.group(outside); };
  seed.add(fmt::format("become group {}", wanted.egid()), SYS_setresgid,
           {group(wanted.rgid()), group(wanted.egid()), group(wanted.sgid())});
  seed.add("set the group for files", SYS_setfsgid, {group(wanted.fsgid())});
  seed.add(fmt::format("become user {}", wanted.euid()), SYS_setresuid,
           {user(wanted.ruid()), user(wanted.euid()), user(wanted.suid())});
  seed.add("set the user for files", SYS_setfsuid, {user(wanted.fsuid())});
}

void add_capabilities(const pb::Credentials& wanted, Seed& seed) {
  const auto word = [](uint64_t set, int half) {
    return static_cast<uint32_t>(set >> (32 * half));
  };
  uint32_t data[6];
  for (int half = 0; half < 2; ++half) {
    data[half * 3] = word(wanted.cap_effective(), half);
    data[half * 3 + 1] = word(wanted.cap_permitted(), half);
    data[half * 3 + 2] = word(wanted.cap_inheritable(), half);
  }
  seed.add("set capabilities", SYS_capset,
           {seed.put_value(CapabilityHeader{}), seed.put_value(data)});
}

void add_ambient_capabilities(const pb::Credentials& wanted, Seed& seed) {
  for (uint64_t i = 0; i < 64; ++i)
    if (wanted.cap_ambient() >> i & 1)
      seed.add("set an ambient capability", SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i});
}

// Each step needs a capability that the next may take away; a change of user would take all, but
// for the secure bit that keeps them.
void add_credentials(const pb::Credentials& wanted, const ProcFields& status,
                     const UserNumbers& numbers, Seed& seed) {
  constexpr uint32_t kKeep = 1 << 4, kKeepLocked = 1 << 5;  // SECBIT_KEEP_CAPS and its lock
  // In the way of what follows, as SECBIT_NO_CAP_AMBIENT_RAISE and its lock are.
  constexpr uint32_t kLate = kKeepLocked | 1 << 6 | 1 << 7;
  const uint64_t bounding = status.number("CapBnd", 16);
  for (uint64_t i = 0; i < 64; ++i)
    if (bounding >> i & ~(wanted.cap_bounding() >> i) & 1)
      seed.add("drop a capability", SYS_prctl, {PR_CAPBSET_DROP, i});
  const bool changes_ids = !has_ids_already(wanted, status);
  const uint32_t bits = wanted.securebits();
  const uint32_t meanwhile = (bits & ~kLate) | (changes_ids ? kKeep : 0);
  if (meanwhile) seed.add("set securebits", SYS_prctl, {PR_SET_SECUREBITS, meanwhile});
  add_groups(wanted, numbers, seed);
  if (changes_ids) add_ids(wanted, numbers, seed);
  if (bits & kLate) {
    // That takes a capability, none of which is in effect after a change of user.
    pb::Credentials all = wanted;
    all.set_cap_permitted(status.number("CapPrm", 16));
    all.set_cap_effective(all.cap_permitted());
    add_capabilities(all, seed);
    add_ambient_capabilities(wanted, seed);
    seed.add("set securebits", SYS_prctl, {PR_SET_SECUREBITS, bits});
  }
  add_capabilities(wanted, seed);
  if (!(bits & kLate)) add_ambient_capabilities(wanted, seed);
  if (changes_ids && !(bits & (kKeep | kKeepLocked)))
    seed.add("set securebits", SYS_prctl, {PR_SET_KEEPCAPS, 0});
}

// A task may write its own only, and CAP_AUDIT_CONTROL is asked for unless nobody had logged in. It
// was born with ours.
void restore_login_user(RestoreContext& context, const pb::Thread& thread, Seed& seed) {
  const pb::Credentials& wanted = thread.credentials();
  const auto now = login_user_of(ProcDirectory::of(Pid{seed.tid().value}));
  if (!wanted.has_login_user() || !now || *now == wanted.login_user()) return;
  const std::string text = std::to_string(wanted.login_user());
  const int64_t file =
      seed.try_call(SYS_open, {seed.put("/proc/thread-self/loginuid"), O_WRONLY | O_CLOEXEC});
  int64_t result = file;
  if (file >= 0) {
    result = seed.try_call(SYS_write, {static_cast<uint64_t>(file), seed.put(text), text.size()});
    seed.call("close a file", SYS_close, {static_cast<uint64_t>(file)});
  }
  if (result < 0)
    context.notes.push_back(fmt::format("thread {}: its login user is {} instead of {}: {}",
                                        thread.tid(), static_cast<int32_t>(*now),
                                        static_cast<int32_t>(wanted.login_user()),
                                        errno_text(static_cast<int>(-result))));
}

void restore(RestoreContext& context, const pb::Process& process, const pb::Thread& thread,
             Seed& seed) {
  restore_login_user(context, thread, seed);
  const pb::Credentials& wanted = thread.credentials();
  const ProcFields status(ProcDirectory::of(Pid{seed.tid().value}).read("status"));
  add_credentials(wanted, status, numbers_for(context.plan, process), seed);
  if (wanted.no_new_privs())
    seed.add("renounce new privileges", SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1});
  // Both are reset when the user changes.
  if (thread.parent_death_signal())
    seed.add("set the parent death signal", SYS_prctl,
             {PR_SET_PDEATHSIG, thread.parent_death_signal()});
  // It is the whole process's, and each change of user takes it away: so the last thread sets it.
  if (thread.tid() == process.threads().rbegin()->tid())
    seed.add("set whether it can be dumped", SYS_prctl, {PR_SET_DUMPABLE, process.dumpable()});
  context.perform(seed, thread.tid());
}

}  // namespace

const ThreadRestorer kCredentialRestorer{"credentials", restore};
const ThreadResource kCredentials{"credentials", capture};

}  // namespace snapgdb
