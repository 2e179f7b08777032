// Namespaces of its own, with something in each that nobody else has:
//   --user MAP --groups MAP   a user namespace, "INSIDE OUTSIDE COUNT", several joined by commas
//   --uts  --time             host names; clocks that are days ahead
//   --mounts  --pivot         file systems in memory, and more; a root directory of its own
//   --devices                 … with a device, and a file of somebody else's, in one of them
//   --net                     links, addresses, routes
// Each function sets something up, and returns what checks it at the end.

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>
#include <vector>

#include "spaces.h"
#include "target.h"

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  if (!(file << text).flush()) target::cannot(path.c_str());
}

void expect_text(const char* what, const std::string& seen, const std::string& expected) {
  if (seen != expected)
    target::differs("%s: \"%s\" instead of \"%s\"", what, seen.c_str(), expected.c_str());
}

std::string scratch() {
  const char* directory = getenv("TMPDIR");
  return directory ? directory : "/tmp";
}

namespace {

using target::expect_equal;
using target::setup;

constexpr int kNewTime = 0x80;  // CLONE_NEWTIME

// ---- Users --------------------------------------------------------------------------------------

std::string lines_of(std::string map) {
  for (char& c : map)
    if (c == ',') c = '\n';
  return map + "\n";
}

// Somebody who stays outside writes the maps: who is not root may only once setgroups(2) is denied.
void enter_user_namespace(const std::string& users, const std::string& groups) {
  int go[2];
  setup("pipe", pipe(go));
  const std::string proc = "/proc/" + std::to_string(getpid()) + "/";
  const bool is_root = geteuid() == 0;
  const pid_t helper = setup("fork", fork());
  if (helper == 0) {
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1) _exit(1);
    if (!is_root) write_text(proc + "setgroups", "deny");
    write_text(proc + "uid_map", lines_of(users));
    write_text(proc + "gid_map", lines_of(groups));
    _exit(0);
  }
  close(go[0]);
  setup("unshare", unshare(CLONE_NEWUSER));
  setup("write", write(go[1], "", 1));
  close(go[1]);
  int status = 0;
  setup("waitpid", waitpid(helper, &status, 0));
  if (status != 0) target::cannot("the maps of users");
}

// The first of each map: as such, and of further ones as groups.
void become_first(const std::string& users, const std::string& groups) {
  std::istringstream user_words(users), group_words(groups);
  uid_t user = 0;
  gid_t group = 0;
  user_words >> user, group_words >> group;
  if (read_text("/proc/self/setgroups") == "allow\n") {
    const gid_t further[] = {group, group + 1};
    setup("setgroups", setgroups(2, further));
  }
  setup("setresgid", setresgid(group, group, group));
  setup("setresuid", setresuid(user, user, user));
}

Check own_users(const std::string& users, const std::string& groups) {
  // Whoever one becomes may write there.
  if (getenv("TMPDIR")) setup("chmod", chmod(scratch().c_str(), 01777));
  enter_user_namespace(users, groups);
  become_first(users, groups);
  const std::string maps = read_text("/proc/self/uid_map") + read_text("/proc/self/gid_map");
  const std::string rights = read_text("/proc/self/setgroups");
  const uid_t user = getuid();
  const gid_t group = getgid();
  std::vector<gid_t> further(64);
  further.resize(static_cast<size_t>(setup("getgroups", getgroups(64, further.data()))));
  std::string name = scratch() + "/spaces-XXXXXX";
  const int file = setup("mkstemp", mkstemp(name.data()));
  setup("unlink", unlink(name.c_str()));
  return [=] {
    expect_text("maps of users and groups",
                read_text("/proc/self/uid_map") + read_text("/proc/self/gid_map"), maps);
    expect_text("setgroups", read_text("/proc/self/setgroups"), rights);
    expect_equal("user", getuid(), user);
    expect_equal("effective user", geteuid(), user);
    expect_equal("group", getgid(), group);
    std::vector<gid_t> now(64);
    now.resize(static_cast<size_t>(getgroups(64, now.data())));
    expect_equal("further groups", now == further, true);
    struct stat status {};
    setup("fstat", fstat(file, &status));
    expect_equal("owner of a removed file", status.st_uid, user);
    expect_equal("group of a removed file", status.st_gid, group);
  };
}

// ---- Names and clocks ---------------------------------------------------------------------------

// As long as the kernel allows, and with bytes that are no text.
Check own_names() {
  setup("unshare", unshare(CLONE_NEWUTS));
  const std::string host(64, 'h'), domain = "d\xff\x01 \n.example";
  setup("sethostname", sethostname(host.data(), host.size()));
  setup("setdomainname", setdomainname(domain.data(), domain.size()));
  return [=] {
    utsname names{};
    setup("uname", uname(&names));
    expect_text("host name", names.nodename, host);
    expect_text("domain name", names.domainname, domain);
  };
}

Check own_clocks() {
  constexpr uint64_t kDay = 86400ull * 1'000'000'000;
  setup("unshare", unshare(kNewTime));
  write_text("/proc/self/timens_offsets", "monotonic 864000 5\nboottime 8640000 999999999\n");
  const int space = setup("open", open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC));
  setup("setns", setns(space, kNewTime));
  close(space);
  const auto now = [](clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
  };
  const uint64_t monotonic = now(CLOCK_MONOTONIC), boottime = now(CLOCK_BOOTTIME);
  return [=] {
    expect_equal("CLOCK_MONOTONIC goes on", now(CLOCK_MONOTONIC) - monotonic < kDay, true);
    expect_equal("CLOCK_BOOTTIME goes on", now(CLOCK_BOOTTIME) - boottime < kDay, true);
    struct stat own {
    }, children{};
    setup("stat", stat("/proc/self/ns/time", &own));
    setup("stat", stat("/proc/self/ns/time_for_children", &children));
    expect_equal("the time namespace of its children", children.st_ino, own.st_ino);
  };
}

// ---- Numbers of threads -------------------------------------------------------------------------

// A timer that signals one thread, of which it knows the number.
Check own_timer() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGRTMIN);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &signals, nullptr));
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN;
  event.sigev_value.sival_int = 4711;
  event._sigev_un._tid = target::thread_id();
  timer_t timer{};
  setup("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer));
  return [=] {
    const itimerspec soon{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = 1}};
    const timespec patience{.tv_sec = 10, .tv_nsec = 0};
    expect_equal("timer_settime", timer_settime(timer, 0, &soon, nullptr), 0);
    siginfo_t info{};
    expect_equal("the timer's signal", sigtimedwait(&signals, &info, &patience), SIGRTMIN);
    expect_equal("what it carries", info.si_value.sival_int, 4711);
  };
}

// What /proc tells of itself, as "PID (spaces) …".
Check own_proc() {
  const int file = setup("open", open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
  return [=] {
    char text[64] = {};
    setup("pread", pread(file, text, sizeof text - 1, 0));
    expect_equal("whom /proc/self/stat was of", strtoul(text, nullptr, 10), getpid());
  };
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  const std::string users = target::option(argc, argv, "--user", "");
  std::vector<Check> checks;
  if (!users.empty())
    checks.push_back(own_users(users, target::option(argc, argv, "--groups", users.c_str())));
  const bool has_root = target::has_flag(argc, argv, "--pivot");
  if (has_root || target::has_flag(argc, argv, "--mounts"))
    checks.push_back(own_mounts(has_root, target::has_flag(argc, argv, "--devices")));
  if (target::has_flag(argc, argv, "--net")) checks.push_back(own_network());
  if (target::has_flag(argc, argv, "--uts")) checks.push_back(own_names());
  if (target::has_flag(argc, argv, "--time")) checks.push_back(own_clocks());
  if (target::has_flag(argc, argv, "--numbers"))
    checks.insert(checks.end(), {own_timer(), own_proc()});
  target::ready();
  target::wait_for_end();
  for (const Check& check : checks) check();
  return target::verdict();
}
