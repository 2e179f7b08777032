// Unix sockets with all that can wait in them and that the kernel keeps of them, in a parent and a
// child: pairs, servers with clients accepted and waiting, datagrams from named senders,
// descriptors in flight, ends that are gone.
//
// --no-credentials  without what needs root: other users' messages

#include "unix_sockets.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace {

using namespace unix_sockets;
using target::differs;
using target::expect_equal;
using target::setup;

// ---- Pairs --------------------------------------------------------------------------------------

void hold_streams(Checks& checks) {
  const auto [a, b] = make_pair(SOCK_STREAM | SOCK_NONBLOCK);
  const std::string large = pattern(100'001, 1);
  send_all(a, large);
  send_all(b, "back");
  const struct ucred maker = peer_of(a);
  checks.add([=, a = a, b = b] {
    expect_equal("FIONREAD", queued(b), large.size());
    expect_received("stream", b, large);
    expect_received("stream, back", a, "back");
    expect_empty("stream", a);
    expect_empty("stream, back", b);
    expect_equal("peer's pid", peer_of(a).pid, maker.pid);
    expect_equal("peer's user", peer_of(b).uid, maker.uid);
    send_all(a, "new");
    expect_received("stream, new", b, "new");
    expect_equal("O_NONBLOCK", fcntl(a, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  });
}

void hold_halves(Checks& checks) {
  for (const int how : {SHUT_RD, SHUT_WR, SHUT_RDWR}) {
    const auto [a, b] = make_pair(SOCK_STREAM);
    send_all(a, "to b");
    send_all(b, "to a");
    setup("shutdown", shutdown(a, how));
    checks.add([=, a = a, b = b] {
      const bool sends = how == SHUT_RD, receives = how == SHUT_WR;
      expect_received("half, b", b, "to b");
      expect_received("half, a", a, "to a");
      expect_equal("half: a may send", send(a, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1, sends);
      expect_equal("half: b may send", send(b, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1, receives);
      if (!sends) expect_end("half, b", b);
      if (!receives) expect_end("half, a", a);
    });
  }
}

void hold_lost_peers(Checks& checks) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const auto [a, b] = make_pair(type);
    send_all(b, "last words");
    close(b);
    const auto [c, d] = make_pair(type);
    send_all(c, "never read");
    close(d);
    checks.add([=, a = a, c = c] {
      expect_received("lost peer", a, "last words");
      expect_end("lost peer", a);
      expect_equal("send to it", send(a, "x", 1, MSG_NOSIGNAL), -1);
      char byte;
      expect_equal("reset", recv(c, &byte, 1, 0), -1);
      expect_equal("its errno", errno, ECONNRESET);
      expect_end("after it", c);
    });
  }
  const auto [a, b] = make_pair(SOCK_DGRAM);
  send_all(b, "last words");
  close(b);
  checks.add([a = a] {
    expect_received("lost datagram peer", a, "last words");
    expect_equal("send to it", send(a, "x", 1, MSG_NOSIGNAL), -1);
    expect_equal("its errno", errno, ECONNREFUSED);
  });
}

void hold_packets(Checks& checks) {
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    const auto [a, b] = make_pair(type);
    const std::string large = pattern(70'000, 2);
    for (const std::string& packet : {std::string("first"), std::string(), large, std::string()})
      setup("send", send(a, packet.data(), packet.size(), 0));
    checks.add([=, b = b] {
      expect_received("packet", b, "first");
      expect_received("empty packet", b, "");
      expect_received("large packet", b, large);
      expect_received("last packet, empty", b, "");
      expect_empty("packets", b);
    });
  }
}

void hold_urgent(Checks& checks) {
  for (const bool is_inline : {false, true}) {
    const auto [a, b] = make_pair(SOCK_STREAM);
    set_option(b, SO_OOBINLINE, is_inline);
    send_all(a, "before");
    if (send(a, "!", 1, MSG_OOB) != 1) return;  // the kernel may lack it (Linux 5.15)
    send_all(a, "after");
    const auto [c, d] = make_pair(SOCK_STREAM);
    set_option(d, SO_OOBINLINE, is_inline);
    setup("send", send(c, "?", 1, MSG_OOB));
    send_all(c, "rest");
    checks.add([=, b = b, d = d] {
      char byte = 0;
      int at_mark = 0;
      expect_received("before the urgent byte", b, "before");
      setup("SIOCATMARK", ioctl(b, SIOCATMARK, &at_mark));
      expect_equal("at the mark", at_mark, 1);
      if (is_inline) {
        expect_received("the urgent byte and what follows", b, "!after");
        return expect_received("one at the beginning", d, "?rest");
      }
      expect_equal("an urgent byte", recv(b, &byte, 1, MSG_OOB), 1);
      expect_equal("its value", byte, '!');
      expect_received("after it", b, "after");
      expect_equal("one at the beginning", recv(d, &byte, 1, MSG_OOB), 1);
      expect_equal("its value", byte, '?');
      expect_received("what follows", d, "rest");
    });
  }
}

void hold_options(Checks& checks) {
  const auto [a, b] = make_pair(SOCK_STREAM);
  const auto [c, d] = make_pair(SOCK_DGRAM);
  const timeval timeout{12, 340'000};
  setup("SO_RCVTIMEO", setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
  set_option(a, SO_PASSCRED, 1);
  set_option(b, SO_SNDBUF, 30'000);
  set_option(a, SO_RCVLOWAT, 7);
  set_option(a, SO_KEEPALIVE, 1);
  set_option(a, SO_PEEK_OFF, 3);
  set_option(c, SO_TIMESTAMP, 1);
  const linger patience{1, 55};
  setup("SO_LINGER", setsockopt(d, SOL_SOCKET, SO_LINGER, &patience, sizeof patience));
  sock_filter everything[] = {{BPF_RET | BPF_K, 0, 0, 0xffffffff}};
  const sock_fprog filter{1, everything};
  setup("SO_ATTACH_FILTER", setsockopt(d, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter));
  set_option(d, SO_LOCK_FILTER, 1);
  const bool is_root = geteuid() == 0;
  constexpr int kLarge = 3'000'000;
  const bool is_large = setsockopt(c, SOL_SOCKET, SO_RCVBUFFORCE, &kLarge, sizeof kLarge) == 0;
  if (!is_large && errno != EPERM) target::cannot("SO_RCVBUFFORCE");  // only root outside may
  if (is_root) set_option(c, SO_MARK, 77);
  setup("fchmod", fchmod(a, 0640));
  const int size = get_option(b, SO_SNDBUF), other_size = get_option(c, SO_SNDBUF);
  send_all(b, "0123456789");
  checks.add([=, a = a, b = b, c = c, d = d] {
    timeval seen{};
    socklen_t length = sizeof seen;
    setup("SO_RCVTIMEO", getsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &seen, &length));
    expect_equal("seconds", seen.tv_sec, timeout.tv_sec);
    expect_equal("microseconds", seen.tv_usec, timeout.tv_usec);
    expect_equal("SO_PASSCRED", get_option(a, SO_PASSCRED), 1);
    expect_equal("SO_SNDBUF", get_option(b, SO_SNDBUF), size);
    expect_equal("SO_SNDBUF as it was", get_option(c, SO_SNDBUF), other_size);
    expect_equal("SO_RCVLOWAT", get_option(a, SO_RCVLOWAT), 7);
    expect_equal("SO_KEEPALIVE", get_option(a, SO_KEEPALIVE), 1);
    expect_equal("SO_PEEK_OFF", get_option(a, SO_PEEK_OFF), 3);
    expect_equal("SO_TIMESTAMP", get_option(c, SO_TIMESTAMP), 1);
    expect_equal("SO_TIMESTAMP of the other", get_option(d, SO_TIMESTAMP), 0);
    linger lingering{};
    length = sizeof lingering;
    setup("SO_LINGER", getsockopt(d, SOL_SOCKET, SO_LINGER, &lingering, &length));
    expect_equal("SO_LINGER", lingering.l_linger, 55);
    length = 0;
    setup("SO_GET_FILTER", getsockopt(d, SOL_SOCKET, SO_GET_FILTER, nullptr, &length));
    expect_equal("instructions of a filter", length, 1);
    expect_equal("SO_LOCK_FILTER", get_option(d, SO_LOCK_FILTER), 1);
    if (is_large) expect_equal("SO_RCVBUF", get_option(c, SO_RCVBUF), 6'000'000);
    if (is_root) expect_equal("SO_MARK", get_option(c, SO_MARK), 77);
    struct stat status {};
    setup("fstat", fstat(a, &status));
    expect_equal("rights", status.st_mode & 07777, 0640);
    char bytes[4] = {};
    expect_equal("peek", recv(a, bytes, 4, MSG_PEEK), 4);
    if (memcmp(bytes, "3456", 4) != 0) differs("a peek sees something else");
  });
}

// ---- Descriptors in flight ----------------------------------------------------------------------

void hold_flights(Checks& checks) {
  const auto [a, b] = make_pair(SOCK_STREAM);
  const int kept = setup("eventfd", eventfd(7, EFD_NONBLOCK));
  int ends[2];
  setup("pipe2", pipe2(ends, O_NONBLOCK));
  write(ends[1], "in the pipe", 11);
  const auto [c, d] = make_pair(SOCK_DGRAM);
  const auto [e, f] = make_pair(SOCK_SEQPACKET);
  // A pipe in f, which is on its way in d, which is on its way in b; what they are sent by is gone.
  send_files(e, "deepest", {ends[0], ends[1]});
  send_files(c, "deeper", {f});
  send_all(a, "plain");
  send_files(a, "deep", {d, kept});
  send_all(a, "behind");
  send_files(a, "itself", {a, kept});
  for (const int fd : {ends[0], ends[1], c, d, e, f}) close(fd);
  checks.add([=, a = a, b = b] {
    expect_received("before descriptors", b, "plain", 5);
    const std::vector<int> first = receive_files("deep", b, "deep", 2);
    const std::vector<int> second = receive_files("deeper", first[0], "deeper", 1);
    const std::vector<int> third = receive_files("deepest", second[0], "deepest", 2);
    char text[20] = {};
    expect_equal("the pipe", read(third[0], text, sizeof text), 11);
    expect_equal("its end", write(third[1], "x", 1), 1);
    const std::vector<int> last = receive_files("behind", b, "behinditself", 2);
    uint64_t count = 0;
    setup("read", read(last[1], &count, sizeof count));
    expect_equal("count of an eventfd", count, 7);
    expect_equal("it is empty now", read(first[1], &count, sizeof count), -1);
    expect_equal("also for us", read(kept, &count, sizeof count), -1);
    send_all(last[0], "by what had been sent");
    expect_received("its own sender", b, "by what had been sent");
    close(a);
  });
}

// ---- Names --------------------------------------------------------------------------------------

void hold_server(Checks& checks, int type, const std::string& name, bool removed) {
  const int server = setup("socket", socket(AF_UNIX, type, 0));
  bind_to(server, name);
  if (is_path(name)) setup("chmod", chmod(name.c_str(), 0620));
  setup("listen", listen(server, 5));
  const int client = setup("socket", socket(AF_UNIX, type, 0));
  bind_to(client, name + ".client");
  connect_to(client, name);
  const int accepted = setup("accept", accept(server, nullptr, nullptr));
  const int anonymous = setup("socket", socket(AF_UNIX, type, 0));
  connect_to(anonymous, name);
  const int served = setup("accept", accept(server, nullptr, nullptr));
  const int waiting = setup("socket", socket(AF_UNIX, type, 0));
  connect_to(waiting, name);
  const int gone = setup("socket", socket(AF_UNIX, type, 0));
  connect_to(gone, name);
  close(gone);
  const int last = setup("socket", socket(AF_UNIX, type, 0));
  bind_to(last, name + ".last");
  connect_to(last, name);
  // Accepted, and then its server and its client are gone.
  const int brief = setup("socket", socket(AF_UNIX, type, 0));
  bind_to(brief, name + ".brief");
  setup("listen", listen(brief, 0));
  const int orphan = setup("socket", socket(AF_UNIX, type, 0));
  connect_to(orphan, name + ".brief");
  const int left = setup("accept", accept(brief, nullptr, nullptr));
  close(brief);
  if (is_path(name)) unlink((name + ".brief").c_str());
  send_all(client, "from the client");
  send_all(accepted, "from the server");
  send_all(left, "from who is left");
  close(left);
  if (removed) unlink(name.c_str());
  const struct ucred self = peer_of(client);
  checks.add([=] {
    expect_name("server", name_of(server), name);
    expect_name("client", name_of(client), name + ".client");
    expect_name("accepted", name_of(accepted), name);
    expect_name("client's peer", peer_name_of(client), name);
    expect_name("accepted one's peer", peer_name_of(accepted), name + ".client");
    expect_name("served", name_of(served), name);
    expect_name("anonymous", name_of(anonymous), "");
    expect_name("who is gone", peer_name_of(orphan), name + ".brief");
    expect_received("client", accepted, "from the client");
    expect_received("accepted", client, "from the server");
    expect_received("orphan", orphan, "from who is left");
    expect_end("orphan", orphan);
    expect_equal("server's pid", peer_of(client).pid, self.pid);
    expect_equal("client's pid", peer_of(accepted).pid, self.pid);
    expect_equal("its user", peer_of(accepted).uid, self.uid);
    const int first = setup("accept", accept(server, nullptr, nullptr));
    send_all(waiting, "at last");
    expect_received("the waiting one", first, "at last");
    expect_equal("its pid", peer_of(first).pid, self.pid);
    const int second = setup("accept", accept(server, nullptr, nullptr));
    expect_end("one that was gone", second);
    const int third = setup("accept", accept(server, nullptr, nullptr));
    expect_name("the last one", peer_name_of(third), name + ".last");
    expect_equal("nobody else waits", has_input(server), 0);
    struct stat status {};
    if (is_path(name)) {
      expect_equal("the file is there", stat(name.c_str(), &status) == 0, !removed);
      if (!removed) expect_equal("its rights", status.st_mode & 07777, 0620);
    }
    if (removed) return;
    const int late = setup("socket", socket(AF_UNIX, type, 0));
    connect_to(late, name);
    setup("accept", accept(server, nullptr, nullptr));
    for (const char* ending : {"", ".client", ".last"}) unlink((name + ending).c_str());
  });
}

void hold_datagram_server(Checks& checks, const std::string& name) {
  const int server = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  bind_to(server, name);
  std::vector<int> clients;
  for (int i = 0; i < 4; ++i) {
    const int client = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
    if (i > 0) bind_to(client, name + ".client" + std::to_string(i));
    if (i % 2) connect_to(client, name);
    send_to(client, name, "from client " + std::to_string(i));
    clients.push_back(client);
  }
  close(clients[3]);  // its name is told all the same
  if (is_path(name)) unlink((name + ".client3").c_str());
  send_to(server, name + ".client1", "answer");
  // Itself, and one way along a chain.
  const int itself = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  bind_to(itself, name + ".itself");
  connect_to(itself, name + ".itself");
  send_all(itself, "to myself");
  const int chain = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  bind_to(chain, name + ".chain");
  const int before = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  connect_to(before, name + ".chain");
  send_all(before, "along");
  connect_to(chain, name);
  send_all(chain, "farther");
  checks.add([=] {
    for (int i = 0; i < 4; ++i)
      expect_datagram("server", server, "from client " + std::to_string(i),
                      i ? name + ".client" + std::to_string(i) : "");
    expect_datagram("server", server, "farther", name + ".chain");
    expect_empty("server", server);
    expect_datagram("client", clients[1], "answer", name);
    expect_datagram("itself", itself, "to myself", name + ".itself");
    expect_datagram("chain", chain, "along", "");
    expect_equal("send to one connected elsewhere", send(before, "x", 1, 0), -1);
    send_all(clients[1], "once more");
    expect_datagram("server", server, "once more", name + ".client1");
    for (const char* ending : {"", ".client1", ".client2", ".itself", ".chain"})
      unlink((name + ending).c_str());
  });
}

void hold_strays(Checks& checks) {
  const int unbound = setup("socket", socket(AF_UNIX, SOCK_SEQPACKET, 0));
  const int automatic = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  const sa_family_t family = AF_UNIX;
  setup("bind", bind(automatic, reinterpret_cast<const sockaddr*>(&family), sizeof family));
  const std::string chosen = name_of(automatic);
  // Bound by a name of a directory that is not ours any more, and to a path that another took.
  setup("chdir", chdir(checks.path("").c_str()));
  const int relative = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  bind_to(relative, "./relative");
  setup("listen", listen(relative, 3));
  setup("chdir", chdir("/"));
  const std::string taken = checks.path("taken");
  const int former = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  bind_to(former, taken);
  unlink(taken.c_str());
  const int latter = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
  bind_to(latter, taken);
  const std::string path = checks.path("relative");
  const bool is_root = geteuid() == 0;
  checks.add([=] {
    expect_name("unbound", name_of(unbound), "");
    expect_equal("its type", get_option(unbound, SO_TYPE), SOCK_SEQPACKET);
    expect_name("chosen by the kernel", name_of(automatic), chosen);
    expect_name("relative", name_of(relative), "./relative");
    if (is_root) {
      connect_to(setup("socket", socket(AF_UNIX, SOCK_STREAM, 0)), path);
      setup("accept", accept(relative, nullptr, nullptr));
    }
    const int sender = setup("socket", socket(AF_UNIX, SOCK_DGRAM, 0));
    send_to(sender, taken, "for the latter");
    expect_received("the latter", latter, "for the latter");
    expect_empty("the former", former);
    expect_name("the former", name_of(former), taken);
    unlink(taken.c_str()), unlink(path.c_str());
  });
}

// ---- Credentials --------------------------------------------------------------------------------

void hold_credentials(Checks& checks, bool root) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    const auto [a, b] = make_pair(type);
    set_option(b, SO_PASSCRED, 1);
    send_all(a, "as we are");
    if (root) send_as(a, "as another", {getpid(), 12, 34});
    checks.add([=, b = b] {
      expect_credentials(b, "as we are", {getpid(), geteuid(), getegid()});
      if (root) expect_credentials(b, "as another", {getpid(), 12, 34});
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  target::Family family;
  Checks checks;
  hold_streams(checks);
  hold_halves(checks);
  hold_lost_peers(checks);
  hold_packets(checks);
  hold_urgent(checks);
  hold_options(checks);
  hold_flights(checks);
  const std::string abstract = std::string(1, '\0') + "snapgdb " + std::to_string(getpid());
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const std::string kind = std::to_string(type);
    hold_server(checks, type, checks.path(("server" + kind).c_str()), false);
    hold_server(checks, type, checks.path(("removed" + kind).c_str()), true);
    hold_server(checks, type, abstract + kind, false);
  }
  hold_datagram_server(checks, checks.path("datagrams"));
  hold_datagram_server(checks, abstract + "datagrams");
  hold_strays(checks);
  hold_credentials(checks, geteuid() == 0 && !target::has_flag(argc, argv, "--no-credentials"));

  // A child that has one end only, and made a pair of its own whose other end is with us.
  const auto [ours, theirs] = make_pair(SOCK_STREAM);
  const pid_t child = family.fork_child();
  if (child == 0) {
    close(ours);
    const auto [a, b] = make_pair(SOCK_STREAM);
    send_files(theirs, "pair", {a});
    family.announce_ready();
    family.wait_for_end_of_family();
    expect_received("child", theirs, "to the child");
    send_all(b, "from the child");
    _exit(target::verdict());
  }
  close(theirs);
  family.wait_for_announcements(1);
  send_all(ours, "to the child");
  target::ready();
  target::wait_for_end();

  checks.run();
  const int end = receive_files("child's pair", ours, "pair", 1).at(0);
  expect_equal("maker of the child's pair", peer_of(end).pid, child);
  family.end();
  target::expect_success_of(child);
  expect_received("child's pair", end, "from the child");
  return target::verdict();
}
