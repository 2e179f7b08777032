// Processes in namespaces that the first one is not in: of names, networks, System V objects,
// clocks and users; alone, shared, and belonging to a user namespace below.
//   --root: what only root can have, too.
//   --keep: its files are there at the end, for the next restore.

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

constexpr int kNewTime = 0x80;  // CLONE_NEWTIME
constexpr time_t kAhead = 86400 * 400;
constexpr key_t kKey = 0x5a5a1234;

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  gethostname(name, sizeof name);
  return name;
}

void expect_host(const std::string& expected) {
  if (host_name() != expected)
    target::differs("the host is %s, expected %s", host_name().c_str(), expected.c_str());
}

void name_host(const char* name) {
  setup("sethostname", sethostname(name, strlen(name)));
}

ino_t namespace_of(const char* kind, pid_t pid) {
  struct stat status {};
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/" + kind;
  setup("stat", stat(path.c_str(), &status));
  return status.st_ino;
}

void enter(const char* kind, pid_t pid, int flag) {
  const int fd = setup(
      "open", open(("/proc/" + std::to_string(pid) + "/ns/" + kind).c_str(), O_RDONLY | O_CLOEXEC));
  setup("setns", setns(fd, flag));
  close(fd);
}

void write_text(const char* path, const std::string& text) {
  const int fd = setup(path, open(path, O_WRONLY | O_CLOEXEC));
  setup(path, write(fd, text.data(), text.size()));
  close(fd);
}

std::string read_text(const char* path) {
  char text[4096] = {};
  const int fd = setup(path, open(path, O_RDONLY | O_CLOEXEC));
  setup(path, read(fd, text, sizeof text - 1));
  close(fd);
  return text;
}

void start_loopback() {
  const int fd = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  setup("ioctl", ioctl(fd, SIOCSIFFLAGS, &request));
  close(fd);
}

bool is_loopback_up() {
  const int fd = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  setup("ioctl", ioctl(fd, SIOCGIFFLAGS, &request));
  close(fd);
  return request.ifr_flags & IFF_UP;
}

// ---- Sockets, with the same names in every network ----------------------------------------------

struct Sockets {
  int listener, client, server, abstract;
};

// The first ones take a port that is free, the others the same.
sockaddr_in address{.sin_family = AF_INET, .sin_addr = {__builtin_bswap32(INADDR_LOOPBACK)}};
pid_t first_pid;

sockaddr_un abstract_name() {
  sockaddr_un name{.sun_family = AF_UNIX};
  snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "snapgdb-below-%d", first_pid);
  return name;
}

Sockets make_sockets() {
  Sockets made{};
  auto* wanted = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  made.listener = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  const int on = 1;
  setsockopt(made.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setup("bind", bind(made.listener, wanted, size));
  setup("getsockname", getsockname(made.listener, wanted, &size));
  setup("listen", listen(made.listener, 5));
  made.client = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  setup("connect", connect(made.client, wanted, size));
  made.server = setup("accept", accept(made.listener, nullptr, nullptr));
  setup("send", send(made.client, "on its way", 10, 0));
  made.abstract = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  const sockaddr_un name = abstract_name();
  setup("bind", bind(made.abstract, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  return made;
}

void check_sockets(const Sockets& made, uint32_t word) {
  char bytes[32] = {};
  expect_equal("what was on its way", static_cast<uint64_t>(recv(made.server, bytes, 10, 0)), 10);
  expect_equal("its bytes", strcmp(bytes, "on its way"), 0);
  send(made.server, "answer", 6, 0);
  expect_equal("an answer", static_cast<uint64_t>(recv(made.client, bytes, 6, MSG_WAITALL)), 6);
  // A new socket finds the old one by its name, and nobody else's.
  const sockaddr_un name = abstract_name();
  const int other = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  target::expect_call("sendto", sendto(other, &word, sizeof word, 0,
                                       reinterpret_cast<const sockaddr*>(&name), sizeof name));
  uint32_t seen = 0;
  target::expect_call("recv", recv(made.abstract, &seen, sizeof seen, MSG_DONTWAIT));
  expect_equal("what a socket of that name got", seen, word);
  const int client = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  target::expect_call("connect",
                      connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address));
}

// ---- The processes ------------------------------------------------------------------------------

target::Family* family;

pid_t start(const auto& body) {
  const pid_t child = family->fork_child();
  if (child != 0) return child;
  body();
  _exit(target::verdict());
}

void wait_for_end() {
  family->announce_ready();
  family->wait_for_end_of_family();
}

int names_pipe[2];  // the uts namespaces of those who have one in common

void tell_namespace() {
  const ino_t own = namespace_of("uts", getpid());
  setup("write", write(names_pipe[1], &own, sizeof own));
}

// `held`: a descriptor of theirs.
void expect_one_namespace(int processes, int held) {
  ino_t first = 0, other = 0;
  struct stat status {};
  target::expect_call("fstat", fstat(held, &status));
  setup("read", read(names_pipe[0], &first, sizeof first));
  for (int i = 1; i < processes; ++i) {
    setup("read", read(names_pipe[0], &other, sizeof other));
    expect_equal("the uts namespace of another", other, first);
  }
  expect_equal("the one that is held", status.st_ino, first);
  expect_equal("whether it is the first one's", first == namespace_of("uts", getpid()), false);
}

void named(const std::string& outside) {
  // A child that stays where its parent came from.
  const pid_t child = start([&] {
    wait_for_end();
    expect_host(outside);
  });
  setup("unshare", unshare(CLONE_NEWUTS));
  name_host("below-1");
  const pid_t younger = start([&] {
    wait_for_end();
    expect_host("below-1");
    tell_namespace();
  });
  wait_for_end();
  expect_host("below-1");
  tell_namespace();
  target::expect_success_of(child);
  target::expect_success_of(younger);
}

void connected() {
  setup("unshare", unshare(CLONE_NEWNET));
  start_loopback();
  write_text("/proc/sys/net/ipv4/ip_default_ttl", "77");
  const Sockets sockets = make_sockets();
  wait_for_end();
  expect_equal("its loopback device", is_loopback_up(), true);
  expect_equal("a setting", atoi(read_text("/proc/sys/net/ipv4/ip_default_ttl").c_str()), 77);
  check_sockets(sockets, 2);
}

// The other's names, and nobody else's objects.
void joined(pid_t other) {
  while (namespace_of("uts", other) == namespace_of("uts", getpid())) target::sleep_ms(1);
  enter("uts", other, CLONE_NEWUTS);
  setup("unshare", unshare(CLONE_NEWIPC | CLONE_NEWCGROUP));
  wait_for_end();
  expect_host("below-1");
  tell_namespace();
  expect_equal("whether somebody else's memory is there", shmget(kKey, 1, 0) >= 0, false);
  target::expect_call("shmget", shmget(kKey, 1, IPC_CREAT | 0600));
}

time_t boottime() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec;
}

void ahead() {
  const time_t before = boottime();
  setup("unshare", unshare(kNewTime));
  write_text("/proc/self/timens_offsets", "boottime " + std::to_string(kAhead) + " 0");
  const pid_t child = start([&] {
    const time_t start = boottime();
    expect_equal("days ahead", start >= before + kAhead, true);
    wait_for_end();
    const time_t passed = boottime() - start;
    expect_equal("whether its clock went on", passed >= 0 && passed < 3600, true);
  });
  wait_for_end();
  expect_equal("whether its own clock is behind", boottime() < before + kAhead, true);
  target::expect_success_of(child);
}

int pidfd_of(pid_t pid) {
  return setup("pidfd_open", static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

void expect_alive(const char* who, int pidfd) {
  expect_equal(who, static_cast<uint64_t>(syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0)), 0);
}

// The first process of a pid namespace; `deeper`: with a child that has children in another one.
void first_inside(bool deeper) {
  expect_equal("its number", static_cast<uint64_t>(getpid()), 1);
  pid_t child = -1;
  if (deeper)
    child = start([] {
      const int parent = pidfd_of(1), own = pidfd_of(getpid());
      setup("setpgid", setpgid(0, 0));
      setup("unshare", unshare(CLONE_NEWPID));
      const pid_t first = family->fork_child(false);
      if (first == 0) {
        first_inside(false);
        _exit(target::verdict());
      }
      wait_for_end();
      expect_equal("a child's number", static_cast<uint64_t>(getpid()), 2);
      expect_equal("its parent's number", static_cast<uint64_t>(getppid()), 1);
      expect_equal("its group", static_cast<uint64_t>(getpgid(0)), 2);
      expect_alive("its parent, by descriptor", parent);
      expect_alive("itself, by descriptor", own);
      target::expect_success_of(first);
    });
  if (deeper) {
    setup("unshare", unshare(CLONE_NEWNS));
    setup("mount", mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    setup("mount", mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  }
  int stop[2];
  setup("pipe", pipe(stop));
  pid_t number = 0;
  target::Thread thread("inside", [&] {
    char byte;
    setup("read", read(stop[0], &byte, 1));
    number = target::thread_id();
  });
  const pid_t before = thread.tid();
  wait_for_end();
  setup("write", write(stop[1], "", 1));
  thread.join();
  expect_equal("its number", static_cast<uint64_t>(getpid()), 1);
  expect_equal("its parent's number", static_cast<uint64_t>(getppid()), 0);
  expect_equal("a thread's number", static_cast<uint64_t>(number), static_cast<uint64_t>(before));
  expect_equal("whether that is small", before < 10, true);
  if (!deeper) return;
  expect_equal("its number in /proc", read_text("/proc/self/stat").starts_with("1 ("), true);
  target::expect_success_of(child);
}

void numbered() {
  setup("unshare", unshare(CLONE_NEWPID));
  int over[2];  // with its end, the first one would take along the later one
  setup("pipe", pipe(over));
  const pid_t first = family->fork_child(false);
  if (first == 0) {
    close(over[1]);
    first_inside(true);
    char byte;
    target::expect_call("read", read(over[0], &byte, 1));
    _exit(target::verdict());
  }
  const int held = pidfd_of(first);
  wait_for_end();
  expect_alive("the first process below, by descriptor", held);
  const pid_t later = setup("fork", fork());
  if (later == 0) {
    expect_equal("a later child's parent", static_cast<uint64_t>(getppid()), 0);
    expect_equal("whether its number is small", getpid() > 1 && getpid() < 20, true);
    _exit(target::verdict());
  }
  target::expect_success_of(later);
  target::expect_call("write", write(over[1], "", 1));
  target::expect_success_of(first);
}

// In mounts of its own: a file system that only these have, with what is open in it; and a child.
void mounted(const std::string& place) {
  const std::string outside = place + "/outside", inside = place + "/in/inside";
  setup("mkdir", mkdir((place + "/in").c_str(), 0755));
  const int before = setup("open", open(outside.c_str(), O_RDWR | O_CREAT | O_APPEND, 0600));
  setup("unshare", unshare(CLONE_NEWNS));
  setup("mount", mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  setup("mount", mount("below", (place + "/in").c_str(), "tmpfs", MS_NOSUID, "size=1m"));
  setup("chdir", chdir((place + "/in").c_str()));
  const int file = setup("open", open(inside.c_str(), O_RDWR | O_CREAT, 0640));
  setup("write", write(file, "0123456789", 10));
  setup("lseek", lseek(file, 4, SEEK_SET));
  setup("symlink", symlink("inside", "link"));
  const int directory = setup("open", open(".", O_RDONLY | O_DIRECTORY));
  const auto check = [&](const char* who, int length) {
    char bytes[16] = {}, cwd[256] = {};
    expect_equal(who, static_cast<uint64_t>(read(file, bytes, static_cast<size_t>(length))),
                 static_cast<uint64_t>(length));
    target::expect_call("getcwd", getcwd(cwd, sizeof cwd) ? 0 : -1);
    expect_equal("its working directory", cwd == place + "/in", true);
    struct stat here {
    }, open_one{};
    target::expect_call("stat", stat("link", &here));
    target::expect_call("fstat", fstat(file, &open_one));
    expect_equal("the file that is open", here.st_ino, open_one.st_ino);
    expect_equal("its mode", here.st_mode & 07777, 0640);
    target::expect_call("openat", openat(directory, "link", O_RDONLY));
  };
  int turn[2];
  setup("pipe", pipe(turn));
  const pid_t child = start([&] {
    wait_for_end();
    char byte;
    setup("read", read(turn[0], &byte, 1));
    check("what a child reads", 2);
  });
  wait_for_end();
  check("what it reads", 3);
  const off_t end = lseek(before, 0, SEEK_END);
  target::expect_call("write", write(before, "more", 4));
  expect_equal("how far it was written", static_cast<uint64_t>(lseek(before, 0, SEEK_CUR)),
               static_cast<uint64_t>(end) + 4);
  setup("write", write(turn[1], "", 1));
  target::expect_success_of(child);
  expect_equal("where both have read to", static_cast<uint64_t>(lseek(file, 0, SEEK_CUR)), 9);
}

struct Maps {
  std::string users, groups;
};

// In a user namespace of its own, and others that belong to it; `deeper`: once more below.
void mapped(const Maps& maps, bool deeper) {
  int go[2], done[2];
  setup("pipe", pipe(go));
  setup("pipe", pipe(done));
  const pid_t parent = getpid();
  // Only who is outside may give several users.
  const pid_t giver = setup("fork", fork());
  if (giver == 0) {
    char byte = 0;
    setup("read", read(go[0], &byte, 1));
    const std::string proc = "/proc/" + std::to_string(parent);
    if (maps.users.find('\n') == maps.users.rfind('\n') && geteuid() != 0)
      write_text((proc + "/setgroups").c_str(), "deny");
    write_text((proc + "/uid_map").c_str(), maps.users);
    write_text((proc + "/gid_map").c_str(), maps.groups);
    _exit(0);
  }
  setup("unshare", unshare(CLONE_NEWUSER));
  prctl(PR_SET_DUMPABLE, 1);  // or its map were root's
  setup("write", write(go[1], "", 1));
  target::expect_success_of(giver);
  for (const int fd : {go[0], go[1], done[0], done[1]}) close(fd);
  setup("setresgid", setresgid(0, 0, 0));
  setup("setresuid", setresuid(0, 0, 0));
  setup("unshare", unshare(CLONE_NEWNET | CLONE_NEWUTS));
  name_host("below-2");
  start_loopback();
  const Sockets sockets = make_sockets();
  const std::string users = read_text("/proc/self/uid_map");
  pid_t child = -1;
  if (deeper) {
    child = start([] { mapped({"0 0 1\n", "0 0 1\n"}, false); });
  } else {
    setup("unshare", unshare(CLONE_NEWPID));
    child = family->fork_child(false);
    if (child == 0) {
      first_inside(false);
      _exit(target::verdict());
    }
  }
  wait_for_end();
  expect_equal("its user", getuid(), 0);
  expect_equal("its group", getgid(), 0);
  expect_equal("its map of users", read_text("/proc/self/uid_map") == users, true);
  expect_host("below-2");
  target::expect_call("sethostname", sethostname("below-3", 7));
  check_sockets(sockets, 3);
  expect_equal("whether it may still change users", setresuid(1, 1, 0),
               maps.users.find('\n') == maps.users.rfind('\n') && !deeper ? -1 : 0);
  target::expect_success_of(child);
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_root = target::has_flag(argc, argv, "--root");
  target::prepare_end();
  const std::string host = host_name();
  first_pid = getpid();
  setup("pipe", pipe(names_pipe));
  const char* where = getenv("TMPDIR");
  const std::string place =
      std::string(where ? where : "/tmp") + "/below-" + std::to_string(getpid());
  if (is_root) setup("mkdir", mkdir(place.c_str(), 0755));
  target::Family all;
  family = &all;
  const Sockets sockets = is_root ? make_sockets() : Sockets{};
  std::vector<pid_t> children;
  if (!is_root) {
    const auto one = [](unsigned id) { return "0 " + std::to_string(id) + " 1\n"; };
    children.push_back(start([&] { mapped({one(getuid()), one(getgid())}, false); }));
    all.wait_for_announcements(2);
  } else {
    children.push_back(start([&] { named(host); }));
    const pid_t other = children.back();
    children.push_back(start([&] { joined(other); }));
    children.push_back(start(connected));
    children.push_back(start(ahead));
    children.push_back(start(numbered));
    children.push_back(start([&] { mounted(place); }));
    children.push_back(start([] {
      mapped({"0 1000 1\n1 100000 500\n", "0 1000 1\n1 100000 500\n"}, true);
    }));
    all.wait_for_announcements(16);
  }
  int held = -1;
  if (is_root) {
    const std::string path = "/proc/" + std::to_string(children.front()) + "/ns/uts";
    held = setup("open", open(path.c_str(), O_RDONLY | O_CLOEXEC));
  }
  target::ready();
  target::wait_for_end();
  if (is_root) check_sockets(sockets, 1);
  all.end();
  expect_host(host);
  if (is_root) expect_one_namespace(3, held);
  for (const pid_t child : children) target::expect_success_of(child);
  struct stat status {};
  if (is_root)
    expect_equal("what is at that place outside",
                 stat((place + "/in/inside").c_str(), &status) == 0, false);
  if (is_root && !target::has_flag(argc, argv, "--keep")) std::filesystem::remove_all(place);
  target::expect_no_children();
  return target::verdict();
}
