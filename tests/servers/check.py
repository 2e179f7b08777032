"""Clients that check every answer: check.py redis PORT | pipeline PORT-OR-SOCKET | http PORT |
transaction HOST | line PORT | bus SOCKET | tmux SOCKET.

They ask until there is a file `stop`, and have a file `begun.PID` soon; they say how many answers they had, and fail at the first error
or wrong one. None but that of tmux ever connects a second time.
"""
import hashlib
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time


def goes_on(rounds):
    """Whether to ask once more. From the second round on there is a file that says so."""
    if rounds:
        open(f"begun.{os.getpid()}", "w").close()
    return not rounds or not os.path.exists("stop")


def expect(got, expected, what):
    if got != expected:
        raise AssertionError(f"{what}: {got!r:.200} instead of {expected!r:.200}")


# ---- redis: what was written is read, and counters count ----------------------------------------

class Redis:
    def __init__(self, where):
        if where.isdigit():
            self.socket = socket.create_connection(("127.0.0.1", int(where)), timeout=60)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(where)
        self.replies = self.socket.makefile("rb")

    def send(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) +
                            b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def __call__(self, *words):
        self.send(*words)
        return self.reply()

    def reply(self):
        line = self.replies.readline()
        kind, rest = line[:1], line[1:].rstrip().decode()
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise AssertionError(f"redis said {line!r}")


def check_redis(port):
    redis, rounds = Redis(port), 0
    redis("DEL", "own counter", "own list")  # of a check before this one
    while goes_on(rounds):
        rounds += 1
        value = f"{rounds} " * (20000 if rounds % 100 == 0 else 20)
        expect(redis("SET", f"own:{rounds % 500}", value), "OK", "SET")
        expect(redis("INCR", "own counter"), rounds, "INCR")
        expect(redis("GET", f"own:{rounds % 500}"), value, "GET")
        expect(redis("RPUSH", "own list", rounds), rounds, "RPUSH")
        expect(redis("MULTI"), "OK", "MULTI")
        expect(redis("LINDEX", "own list", rounds // 2), "QUEUED", "LINDEX")
        expect(redis("EXEC"), [str(rounds // 2 + 1)], "EXEC")
    return rounds


# ---- the same, many requests ahead of their answers; who subscribes, and who waits for a list ----

PIPELINED = 300


def check_pipeline(where):
    name = f"pipe:{os.getpid()}"
    asking, subscribed, waiting, rounds = Redis(where), Redis(where), Redis(where), 0
    expect(subscribed("SUBSCRIBE", name), ["subscribe", name, 1], "SUBSCRIBE")
    while goes_on(rounds):
        rounds += 1
        waiting.send("BLPOP", name + ":waited", 0)
        values = [f"{rounds}.{i} " * (5000 if i % 50 == 0 else 5) for i in range(PIPELINED)]
        sender = threading.Thread(target=lambda: [
            asking.send(*words) for i, value in enumerate(values)
            for words in (("SET", f"{name}:{i}", value), ("GET", f"{name}:{i}"))])
        sender.start()
        for value in values:
            expect(asking.reply(), "OK", "SET")
            expect(asking.reply(), value, "GET")
        sender.join()
        expect(asking("PUBLISH", name, rounds), 1, "PUBLISH")
        expect(subscribed.reply(), ["message", name, str(rounds)], "message")
        asking("RPUSH", name + ":waited", rounds)
        expect(waiting.reply(), [name + ":waited", str(rounds)], "BLPOP")
    return rounds


# ---- PostgreSQL: a transaction, with a cursor and a lock, that hardly ever is not open ----------

class Psql:
    def __init__(self, host):
        self.process = subprocess.Popen(
            ["psql", "-AtqX", "-v", "ON_ERROR_STOP=1", "-h", host], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, statement):
        self.process.stdin.write(statement + ";\n\\echo ended\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "ended\n":
                return lines
            lines.append(line.rstrip())
        raise AssertionError(f"psql ended at {statement!r}")


def check_transaction(host):
    table = f"own_{os.getpid()}"
    inside, outside, rounds, committed = Psql(host), Psql(host), 0, 0
    server = inside("select pg_backend_pid()")
    inside(f"create table {table} (number int primary key)")
    inside("create temporary table known (text text)")
    inside("insert into known values ('kept')")
    inside("prepare twice as select 2 * $1::int")
    while goes_on(rounds):
        inside("begin isolation level repeatable read")
        inside("declare numbers cursor for select generate_series(1, 20)")
        expect(inside(f"select pg_try_advisory_xact_lock({os.getpid()})"), ["t"], "lock")
        for number in range(1, 21):
            rounds += 1
            inside(f"insert into {table} values ({rounds})")
            expect(inside("fetch numbers"), [str(number)], "fetch")
            expect(inside(f"select count(*) from {table}"), [str(rounds)], "count inside")
            expect(inside(f"execute twice({rounds})"), [str(rounds * 2)], "execute")
            expect(outside(f"select count(*) from {table}"), [str(committed)], "count outside")
            expect(outside(f"select pg_try_advisory_lock({os.getpid()})"), ["f"], "held lock")
        inside("commit")
        committed = rounds
        expect(inside("select text from known"), ["kept"], "temporary table")
        expect(inside("select pg_backend_pid()"), server, "process")
    return rounds


# ---- http: the digest is right, and the server does not forget how often it has answered ---------

def digest(text):
    for _ in range(50):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


def ask_for_digests(port, first, rounds):
    server, before = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
    server.connect()
    server.auto_open = 0
    while goes_on(min(rounds)) or not rounds[first]:
        rounds[first] += 1
        number = str(first + 10 * rounds[first])
        server.request("GET", "/" + number)
        response = server.getresponse()
        expect(response.status, 200, "status")
        got, count = response.read().decode().split()
        expect(got, digest(number), "digest of " + number)
        expect(int(count) > before, True, f"{count} answers after {before}")
        before = int(count)


def check_http(port):
    rounds = [0, 0, 0]
    threads = [threading.Thread(target=ask_for_digests, args=(int(port), i, rounds))
               for i in range(len(rounds))]
    threading.excepthook = lambda error: (sys.excepthook(*error[:3]), os._exit(1))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rounds)


# ---- files over http: each as it lies here ------------------------------------------------------

def check_file(port):
    server, rounds = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60), 0
    server.connect()
    server.auto_open = 0
    with open("file", "rb") as file:
        content = file.read()
    while goes_on(rounds):
        rounds += 1
        server.request("GET", "/file")
        expect(server.getresponse().read() == content, True, "the file is as it was")
    return rounds


# ---- lines, each of which comes back with its number on that connection -------------------------

def check_line(port):
    connections = [socket.create_connection(("127.0.0.1", int(port)), timeout=60)
                   for _ in range(4)]
    lines, rounds = [connection.makefile("rb") for connection in connections], 0
    while goes_on(rounds):
        rounds += 1
        for i, connection in enumerate(connections):
            connection.sendall(b"line %d of %d\n" % (rounds, i))
        for i, line in enumerate(lines):
            expect(line.readline(), b"%d: LINE %d OF %d\n" % (rounds, rounds, i), "line")
    return rounds


# ---- dbus: who listens to a bus hears what another says, and the bus knows both ------------------

class Bus:
    SIGNATURES = {1: "o", 2: "s", 3: "s", 6: "s", 8: "g"}  # header fields that are sent

    def __init__(self, path):
        self.socket, self.serial = socket.socket(socket.AF_UNIX), 0
        self.socket.connect(path)
        self.socket.settimeout(60)
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        self.read = self.socket.makefile("rb")
        expect(self.read.readline()[:2], b"OK", "AUTH")
        self.socket.sendall(b"BEGIN\r\n")
        self.name = self.call("Hello")

    @staticmethod
    def string(text, size="I"):
        return struct.pack("<" + size, len(text)) + text.encode() + b"\0"

    def send(self, kind, fields, words):
        fields[8] = "s" * len(words)
        header = b""
        for code, text in fields.items():
            header += b"\0" * (-len(header) % 8) + bytes([code])
            signature = self.SIGNATURES[code]
            header += self.string(signature, "B")
            header += b"\0" * ((-len(header) % 4) if signature != "g" else 0)
            header += self.string(text, "B" if signature == "g" else "I")
        body = b""
        for word in words:
            body += b"\0" * (-len(body) % 4) + self.string(word)
        self.serial += 1
        message = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), self.serial, len(header))
        message += header
        self.socket.sendall(message + b"\0" * (-len(message) % 8) + body)

    def receive(self):
        """The kind of a message, and what it begins with: a string, or all of it, a number."""
        start = self.read.read(16)
        kind, size, fields = start[1], *struct.unpack("<I4xI", start[4:])
        self.read.read(fields + -fields % 8)
        body = self.read.read(size)
        first, = struct.unpack("<I", body[:4]) if body else (0,)
        return kind, first if size == 4 else body[4:4 + first].decode()

    def call(self, member, *words):
        self.send(1, {1: "/org/freedesktop/DBus", 2: "org.freedesktop.DBus", 3: member,
                      6: "org.freedesktop.DBus"}, words)
        while True:
            kind, answer = self.receive()
            if kind == 3:
                raise AssertionError(f"{member}: {answer}")
            if kind == 2:
                return answer


def check_bus(path):
    one, other, rounds = Bus(path), Bus(path), 0
    other.call("AddMatch", "type='signal',interface='own.Interface'")
    identity = one.call("GetId")
    while goes_on(rounds):
        rounds += 1
        text = f"{rounds} " * (20000 if rounds % 20 == 0 else 3)
        one.send(4, {1: "/own", 2: "own.Interface", 3: "Said"}, [text])
        kind, heard = other.receive()
        while kind == 4 and heard == other.name:  # that it got its name
            kind, heard = other.receive()
        expect(heard, text, "signal")
        expect(one.call("GetId"), identity, "GetId")
        expect(other.call("GetNameOwner", one.name), one.name, "GetNameOwner")
        expect(one.call("GetConnectionUnixUser", other.name), os.getuid(), "user")
        expect(one.call("GetConnectionUnixProcessID", other.name), os.getpid(), "process")
    return rounds


# ---- tmux: shells count without a gap, and do what is typed --------------------------------------

COUNT = "n=0; while :; do n=$((n+1)); echo count $n; sleep 0.01; done"


def check_tmux(server):
    def tmux(*words):
        return subprocess.run(["tmux", "-S", server, *words], check=True, timeout=60,
                              stdout=subprocess.PIPE, text=True).stdout

    # What was typed before the shell began stands before its first prompt, the answer behind it.
    def wait_for(answer):
        for _ in range(6000):
            if any(line.split()[-1:] == [answer]
                   for line in tmux("capture-pane", "-p", "-t", "typed").splitlines()):
                return
            time.sleep(0.01)
        raise AssertionError(f"{answer!r} never came: " + tmux("capture-pane", "-p", "-t", "typed"))

    tmux("new-session", "-d", "-s", "typed", "-x", "80", "-y", "24", "sh")
    panes, rounds = ["counting:0", "counting:1"], 0
    tmux("new-session", "-d", "-s", "counting", COUNT)
    tmux("new-window", "-d", "-t", "counting", COUNT)
    last = dict.fromkeys(panes, 0)
    while goes_on(rounds) or rounds < 2:
        rounds += 1
        tmux("send-keys", "-t", "typed", f"echo $(({rounds} * 3 + 1))", "Enter")
        wait_for(str(rounds * 3 + 1))
        for pane in panes:
            shown = re.findall(r"^count (\d+)$", tmux("capture-pane", "-pS", "-", "-t", pane), re.M)
            numbers = [int(number) for number in shown] or [1]
            expect(numbers, list(range(numbers[0], numbers[0] + len(numbers))), pane)
            expect(numbers[-1] >= last[pane], True, f"{pane} shows {numbers[-1]} after {last[pane]}")
            last[pane] = numbers[-1]
    for session in "counting", "typed":
        tmux("kill-session", "-t", session)
    return rounds


kind, where = sys.argv[1:]
rounds = {"redis": check_redis, "pipeline": check_pipeline, "transaction": check_transaction,
          "http": check_http, "file": check_file, "line": check_line, "bus": check_bus,
          "tmux": check_tmux}[kind](where)
print(rounds, "rounds, every answer right")
