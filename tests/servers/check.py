"""Clients that check every answer: check.py redis PORT | http PORT | tmux SOCKET.

They ask until there is a file `stop`, say how many answers they had, and fail at the first error
or wrong one.
"""
import hashlib
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time


def asked_to_stop():
    return os.path.exists("stop")


def expect(got, expected, what):
    if got != expected:
        raise AssertionError(f"{what}: {got!r:.200} instead of {expected!r:.200}")


# ---- redis: what was written is read, and counters count ----------------------------------------

class Redis:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.replies = self.socket.makefile("rb")

    def __call__(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) +
                            b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
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
    redis, rounds = Redis(int(port)), 0
    redis("DEL", "own counter", "own list")  # of a check before this one
    while not asked_to_stop() or not rounds:
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


# ---- http: the digest is right, and the server does not forget how often it has answered ---------

def digest(text):
    for _ in range(50):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


def ask_for_digests(port, first, rounds):
    server, before = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
    while not asked_to_stop() or not rounds[first]:
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
    while not asked_to_stop() or rounds < 2:
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
rounds = {"redis": check_redis, "http": check_http, "tmux": check_tmux}[kind](where)
print(rounds, "rounds, every answer right")
