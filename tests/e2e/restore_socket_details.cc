// snapgdb restore: sockets of small programs, in what is easily forgotten.

#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// Injecting packets, and connections outside of a sandbox, take root.
bool skip_unless_root() {
  return skip_unless(geteuid() == 0, "sockets outside of a sandbox take root");
}

TEST_CASE("a datagram that waits tells as before where it was sent to, and how") {
  if (skip_unless_root()) return;
  TakenPython receiver(
      "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 0))\n"
      "for option in [8, 12, 13]: s.setsockopt(0, option, 1)\n"  // PKTINFO, RECVTTL, RECVTOS
      "out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); out.bind(('127.0.0.3', 0))\n"
      "out.setsockopt(0, 1, 0x10); out.setsockopt(0, 2, 7)\n"  // IP_TOS, IP_TTL
      "sender = out.getsockname()\n"
      "out.sendto(b'hello', ('127.0.0.9', s.getsockname()[1]))",
      "data, told, flags, address = s.recvmsg(100, 1000)\n"
      "told = {kind: value for level, kind, value in told}\n"
      "assert data == b'hello' and address == sender, (data, address)\n"
      "assert told[8][-4:] == bytes([127, 0, 0, 9]), told\n"
      "assert told[1][0] == 0x10 and told[2][0] == 7, told");
  receiver.take();
  receiver.check_runs_again();
}

TEST_CASE("datagrams wait in the same socket of those that share a port") {
  if (skip_unless_root()) return;
  TakenPython receivers(
      "all = []\n"
      "for i in range(3):\n"
      "  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
      "  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
      "  s.bind(('0.0.0.0', all[0].getsockname()[1] if all else 0)); s.setblocking(False)\n"
      "  all.append(s)\n"
      "for i in range(12):\n"
      "  out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
      "  out.sendto(b'%d' % i, ('127.0.0.1', all[0].getsockname()[1]))\n"
      "def queue(s):\n"
      "  there = []\n"
      "  while True:\n"
      "    try: there.append(int(s.recv(100)))\n"
      "    except BlockingIOError: return there\n"
      "peeked = []\n"
      "for s in all:\n"
      "  s.setsockopt(socket.SOL_SOCKET, 42, 0)\n"  // SO_PEEK_OFF: one after the other
      "  there = []\n"
      "  try:\n"
      "    while True: there.append(int(s.recv(100, socket.MSG_PEEK)))\n"
      "  except BlockingIOError: pass\n"
      "  s.setsockopt(socket.SOL_SOCKET, 42, -1); peeked.append(there)\n"
      "assert sum(map(len, peeked)) == 12, peeked",
      "now = [queue(s) for s in all]\n"
      "assert now == peeked, (now, peeked)\n"
      "new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
      "for i in range(50): new.sendto(b'%d' % i, ('127.0.0.1', all[0].getsockname()[1]))\n"
      "assert sum(len(queue(s)) for s in all) == 50");
  receivers.take();
  receivers.check_runs_again();
}

TEST_CASE("a socket in a message is received with what waits in it") {
  if (skip_unless_root()) return;
  TakenPython sender(
      "a, b = socket.socketpair()\n"
      "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))\n"
      "out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
      "out.sendto(b'datagram', s.getsockname())\n"
      "listener = socket.create_server(('127.0.0.1', 0))\n"
      "client = socket.create_connection(listener.getsockname())\n"
      "server = listener.accept()[0]; client.send(b'stream')\n"
      "while not select.select([server], [], [], 1)[0]: pass\n"
      "socket.send_fds(a, [b'x'], [s.fileno(), server.fileno()]); s.close(); server.close()",
      "_, fds, _, _ = socket.recv_fds(b, 10, 2)\n"
      "s, server = [socket.socket(fileno=fd) for fd in fds]\n"
      "s.setblocking(False); assert s.recv(100) == b'datagram'\n"
      "server.settimeout(60); assert server.recv(100) == b'stream'\n"
      "server.send(b'answer'); client.settimeout(60); assert client.recv(100) == b'answer'");
  sender.take();
  sender.check_runs_again();
}

TEST_CASE("options of TCP that only listening sockets use are what they were") {
  if (skip_unless_root()) return;
  TakenPython listener(
      "s = socket.socket(); s.bind(('127.0.0.1', 0))\n"
      "options = {2: 1000, 10: 4096, 23: 16}\n"  // MAXSEG, WINDOW_CLAMP, FASTOPEN
      "for name, value in options.items(): s.setsockopt(6, name, value)\n"
      "s.listen(5)\n"
      "plain = socket.create_server(('127.0.0.1', 0))\n"
      "defaults = {name: plain.getsockopt(6, name) for name in options}",
      "assert {name: s.getsockopt(6, name) for name in options} == options\n"
      "assert {name: plain.getsockopt(6, name) for name in options} == defaults");
  listener.take();
  listener.check_runs_again();
}

TEST_CASE("a socket filter that the kernel does not show is named, not forgotten") {
  TakenPython filtered(
      "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
      // BPF_PROG_LOAD of a socket filter: r0 = 0; exit
      "code = ctypes.create_string_buffer(bytes([0xb7,0,0,0,0,0,0,0, 0x95,0,0,0,0,0,0,0]))\n"
      "license = ctypes.create_string_buffer(b'GPL')\n"
      "attributes = struct.pack('IIQQIIQ', 1, 2, ctypes.addressof(code),\n"
      "                         ctypes.addressof(license), 0, 0, 0) + bytes(80)\n"
      "program = libc.syscall(321, 5, attributes, len(attributes))\n"
      "print('program', program, flush=True)\n"
      "if program >= 0: s.setsockopt(socket.SOL_SOCKET, 50, program); os.close(program)",
      "");
  if (skip_unless(!contains(filtered.running.out(), "program -1"), "bpf(2) is refused here"))
    return;
  const Result captured = snapgdb(
      {"capture", std::to_string(filtered.running.pid()), "-o", filtered.image, "--all-memory"});
  check_says(captured, {"which the kernel does not show"});
  filtered.running.kill();
  const Result refused = run_again(filtered.image);
  check_says(refused, {"its filter is a program of bpf(2)"});
  CHECK(refused.status == 1);
}

TEST_CASE("a client that does not wait is connected again, with nothing to say of it") {
  if (skip_unless_root()) return;
  TakenPython client(
      "listener = socket.create_server(('127.0.0.1', 0))\n"
      "client = socket.create_connection(listener.getsockname()); client.setblocking(False)",
      "server = listener.accept()[0]; server.send(b'x')\n"
      "assert select.select([client], [], [], 60)[0] and client.recv(9) == b'x'");
  client.take();
  for (const Words& how : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(client.image, how);
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "is not connected"));
  }
}

TEST_CASE("how long TCP waits is what it was, where the kernel lets one choose") {
  if (skip_unless_root()) return;
  TakenPython socket(
      "s = socket.socket(); s.bind(('127.0.0.1', 0))\n"
      "def told(name):\n"
      "  try: return s.getsockopt(6, name)\n"
      "  except OSError: return None\n"
      "wanted = {44: 5000, 45: 52000, 46: 32000}\n"  // RTO_MAX_MS, RTO_MIN_US, DELACK_MAX_US
      "for name, value in wanted.items():\n"
      "  if told(name) is not None: s.setsockopt(6, name, value)\n"
      "before = list(map(told, wanted))",
      "assert list(map(told, wanted)) == before, (list(map(told, wanted)), before)");
  socket.take();
  socket.check_runs_again();
}

TEST_CASE("an ended connection of small packets has nothing to say of their size") {
  if (skip_unless_root()) return;
  TakenPython client(
      "listener = socket.socket(); listener.setsockopt(6, 2, 88)\n"  // TCP_MAXSEG
      "listener.bind(('127.0.0.1', 0)); listener.listen(5)\n"
      "client = socket.create_connection(listener.getsockname())\n"
      "listener.accept()[0].close(); assert client.recv(1) == b''; client.shutdown(2)\n"
      "while client.getsockopt(6, 11, 1) != b'\\x07': time.sleep(0.01)",  // TCP_INFO: closed
      "assert client.recv(1) == b''");
  client.take();
  const Result end = run_again(client.image, {"--isolated"});  // the port is in TIME-WAIT
  INFO(end);
  CHECK(end.ok());
  CHECK_FALSE(contains(end.err, "TCP_MAXSEG"));
}

TEST_CASE("it is said that sockets of a pid namespace below tell another maker") {
  if (skip_unless_root()) return;
  TakenPython program(
      "told, telling = os.pipe(); asked, asking = os.pipe()\n"
      "assert libc.unshare(0x20000000) == 0\n"  // of pids
      "child = os.fork()\n"
      "if child == 0:\n"
      "  os.close(asking); pair = socket.socketpair(); os.write(telling, b'x')\n"
      "  os.read(asked, 1); os._exit(0)\n"
      "os.read(told, 1)",
      "os.close(asking); assert os.waitpid(child, 0)[1] == 0");
  program.take();
  const Result end = run_again(program.image);
  CHECK(end.ok());
  check_says(end, {"sockets tell another number than process", "in a pid namespace below"});
}

}  // namespace
}  // namespace snapgdb::e2e
