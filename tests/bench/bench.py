#!/usr/bin/env python3
"""Measures snapgdb against what users would pick instead, side by side in one run.

Prints a table for each scenario. Absolute times on a shared machine mean little, so every row has its
ratio to the first one. Nothing is asserted but correctness: every image must verify, and every target
must find itself unharmed.
"""
import argparse
import contextlib
import glob
import os
import shutil
import signal
import socket as socketlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

KIB = 1024
MIB = 1024 * KIB


class Target:
    """A program of tests/targets that measures, from inside, the longest gap in which it did not run."""

    def __init__(self, directory, name, *arguments):
        self.process = subprocess.Popen([os.path.join(directory, name), *arguments], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if "ready" not in self.process.stdout.readline():
            raise SystemExit(f"bench: {name} does not start")

    @property
    def pid(self):
        return self.process.pid

    def tree(self):
        children = f"/proc/{self.pid}/task/{self.pid}/children"
        with open(children, encoding="ascii") as file:
            return [self.pid, *map(int, file.read().split())]

    def longest_gap(self):
        """Seconds, since the last call."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        fields = self.process.stdout.readline().split()
        return int(fields[fields.index("gap_ns") + 1]) / 1e9

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()
        if self.process.wait() != 0:
            raise SystemExit("bench: the target says that it was harmed")


class Measured:
    """One way to take a picture, and what each round of it took."""

    def __init__(self, name, take, prepare=None, check=None):
        self.name, self.take, self.prepare, self.check = name, take, prepare, check
        self.gaps, self.walls, self.sizes, self.peaks = [], [], [], []

    def run(self, target, directory):
        """take(target, directory) returns the memory that it took."""
        for path in glob.glob(os.path.join(directory, "*")):
            os.unlink(path)
        if self.prepare:
            self.prepare(target)
        target.longest_gap()
        start = time.monotonic()
        self.peaks.append(self.take(target, directory))
        self.walls.append(time.monotonic() - start)
        self.gaps.append(target.longest_gap())
        self.sizes.append(size_of(os.path.join(directory, "*")))
        if self.check:
            self.check(directory)

    def medians(self):
        return map(statistics.median, (self.gaps, self.walls, self.sizes, self.peaks))


def command_output(command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


def peak_memory(command):
    """Runs it; the most memory that it had, in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)}: {said}")
    return usage.ru_maxrss * KIB


def size_of(pattern):
    """Bytes on disk: a hole costs nothing."""
    return sum(os.stat(path).st_blocks * 512 for path in glob.glob(pattern))


def table(title, memory, ways):
    print(f"\n{title}")
    print(f"  {'':34} {'longest gap':>12} {'ratio':>7} {'wall':>9} {'ratio':>7} {'MiB/s':>7} {'size MiB':>9}"
          f" {'peak MiB':>9}")
    first_gap, first_wall, _, _ = ways[0].medians()
    for way in ways:
        gap, wall, size, peak = way.medians()
        print(f"  {way.name:34} {gap * 1e3:9.1f} ms {gap / first_gap:7.3f} {wall:7.2f} s "
              f"{wall / first_wall:7.3f} {memory / MIB / wall:7.0f} {size / MIB:9.1f} {peak / MIB:9.0f}")


def capture(snapgdb, *options):
    def take(target, directory):
        return peak_memory([snapgdb, "capture", str(target.pid), "-o", f"{directory}/x.snapgdb", *options])
    return take


def gcore(target, directory):
    return max(peak_memory(["gcore", "-o", f"{directory}/core", str(pid)]) for pid in target.tree())


def criu(target, directory):
    return peak_memory(["criu", "dump", "-t", str(target.pid), "-D", directory, "--shell-job", "--leave-running"])


def zstd(options):
    """What compressing alone takes: all processors, the same level, the same bytes."""
    elsewhere = tempfile.TemporaryDirectory(dir="/dev/shm")

    def prepare(target):
        capture(options.snapgdb, "--level", "0")(target, elsewhere.name)

    def take(_, directory):
        return peak_memory(["zstd", "-q", "-1", "-T0", f"{elsewhere.name}/x.snapgdb", "-o", f"{directory}/x.zst"])

    return Measured("zstd -1 -T0 of the same bytes", take, prepare=prepare)


def verify(snapgdb):
    return lambda directory: command_output([snapgdb, "verify", f"{directory}/x.snapgdb"])


def compare(options, title, memory, *command):
    """Round by round, so that a mood of the machine falls on all of them; and each with a program of
    its own: gcore leaves it with pages that it never touched."""
    ways = [
        Measured("gcore (gdb)", gcore),
        Measured("snapgdb capture --level 0", capture(options.snapgdb, "--level", "0"),
                 check=verify(options.snapgdb)),
        Measured("snapgdb capture", capture(options.snapgdb), check=verify(options.snapgdb)),
        zstd(options),
    ]
    if shutil.which("criu"):
        ways.append(Measured("criu dump --leave-running", criu))
    for _ in range(options.rounds):
        for way in ways:
            target = Target(options.targets, *command)
            way.run(target, options.work)
            target.end()
    table(title, memory, ways)


def large(options):
    mib = options.mib
    for rate, doing in (("0", "asleep"), ("20000", "dirtied at 20000 pages a second"), ("max", "dirtied without a pause")):
        compare(options, f"one process, {mib} MiB of random pages, {doing}", mib * MIB,
                "busy", "--mib", str(mib), "--rate", rate)
    compare(options, f"one process, {mib} MiB of words of 16 random bits, asleep", mib * MIB,
            "busy", "--mib", str(mib), "--rate", "0", "--random-bits", "16")


def many(options):
    command = ["crowd", "--processes", "50", "--threads", "4"]
    target = Target(options.targets, *command)
    memory = 0
    for pid in target.tree():
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            memory += int(file.read().split()[1]) * 4 * KIB
    target.end()
    compare(options, "50 processes of 4 threads", memory, *command)


# ---- Restoring ----------------------------------------------------------------------------------


class Again:
    """A tree that was restored: until it ends, which it does with its standard input."""

    def __init__(self, command):
        ours, theirs = os.pipe()
        start = time.monotonic()
        with subprocess.Popen(command, stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            os.close(ours)
            self.pid = int(process.stdout.readline() or 0)
            self.wall = time.monotonic() - start
            self.input = theirs
            if self.pid == 0:
                raise SystemExit(f"bench: {' '.join(command)}: {process.stderr.read().decode()}")
            self.end()

    def end(self):
        os.close(self.input)
        while os.path.exists(f"/proc/{self.pid}"):
            time.sleep(0.01)


def restored_unharmed(command):
    """The program's own verdict on itself."""
    result = subprocess.run(command, input="", capture_output=True, text=True, timeout=600, check=False)
    if result.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)}: {result.stderr}")


def snapgdb_restores(options, target, results, ways):
    image = f"{options.work}/x.snapgdb"
    command_output([options.snapgdb, "capture", str(target.pid), "-o", image, "--kill", "--all-memory"])
    target.process.wait()
    for way in ways:
        command = [options.snapgdb, "restore", image, *way]
        walls = [Again([*command, "--detach"]).wall for _ in range(options.rounds)]
        restored_unharmed(command)
        results.append((" ".join(["snapgdb restore", *way]), statistics.median(walls)))
    os.unlink(image)


def criu_restores(options, start, results):
    """CRIU knows no standard input from outside: a FIFO, which it opens again by its name."""
    fifo, images, output = (f"{options.work}/{name}" for name in ("input", "criu", "output"))
    os.mkfifo(fifo)
    os.mkdir(images)
    holder = os.open(fifo, os.O_RDWR)
    target = start(stdin=os.open(fifo, os.O_RDONLY), stdout=os.open(output, os.O_WRONLY | os.O_CREAT))
    while os.stat(output).st_size == 0:
        time.sleep(0.01)
    command_output(["criu", "dump", "-t", str(target.pid), "-D", images, "--shell-job"])
    target.wait()
    walls = []
    for _ in range(options.rounds):
        begin = time.monotonic()
        command_output(["criu", "restore", "-D", images, "--shell-job", "-d"])
        walls.append(time.monotonic() - begin)
        os.kill(target.pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{target.pid}"):
            time.sleep(0.01)
    os.close(holder)
    results.append(("criu restore", statistics.median(walls)))


def compare_restores(options, title, name, *arguments):
    results = []
    if shutil.which("criu"):
        criu_restores(options, lambda **streams: subprocess.Popen(
            [os.path.join(options.targets, name), *arguments], start_new_session=True, **streams), results)
    snapgdb_restores(options, Target(options.targets, name, *arguments), results, [[], ["--lazy"]])
    print(f"\n{title}: until it runs again")
    for name_, wall in results:
        print(f"  {name_:34} {wall * 1e3:9.0f} ms {wall / results[0][1]:7.3f}")


def restore(options):
    compare_restores(options, f"one process, {options.mib} MiB of random pages", "busy", "--mib", str(options.mib))
    compare_restores(options, "50 processes of 4 threads", "crowd", "--processes", "50", "--threads", "4")


# ---- Looking with gdb -----------------------------------------------------------------------------

# Timed by gdb itself.
BACKTRACES = ["-ex", "python import time; begin = time.monotonic()", "-ex", "thread apply all bt",
              "-ex", "python print('stacks took', time.monotonic() - begin)"]
NO_DOWNLOADS = {**os.environ, "DEBUGINFOD_URLS": ""}


def gdb_run(command, more=()):
    return subprocess.run([*command, *more], check=True, capture_output=True, text=True, errors="replace",
                          timeout=600, env=NO_DOWNLOADS)


def prompt_seconds(way):
    with way() as command:
        start = time.monotonic()
        gdb_run(command)
        return time.monotonic() - start


def stacks_seconds(way):
    with way() as command:
        said = gdb_run(command, BACKTRACES).stdout
    if "#1 " not in said:
        raise SystemExit(f"bench: {' '.join(command)} shows no stacks")
    return float(said.rpartition("stacks took ")[2].split()[0])


def round_trips(way):
    """To the first prompt, but for those that fetch files."""
    with way() as command:
        said = gdb_run([command[0], "-ex", "set debug remote 1", *command[1:]])
    sent = [line for line in (said.stdout + said.stderr).splitlines() if "Sending packet: $" in line]
    return sum("vFile:" not in line and "$D" not in line for line in sent)


@contextlib.contextmanager
def listening(command, address, *gdb):
    """gdb's command line to a server that has been started and will be ended."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        while "istening on" not in server.stderr.readline():
            if server.poll() is not None:
                raise SystemExit(f"bench: {' '.join(command)} does not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield ["gdb", *gdb, "-nx", "-batch", "-ex", f"target remote {address}"]
        server.terminate()


def ways_to_look(options, target, image, core):
    """Name, whether packets can be counted, and how to start gdb."""
    plain = ["gdb", "-nx", "-batch"]
    program = os.path.join(options.targets, "crowd")
    socket = f"{options.work}/socket"
    pipe = f"target remote | {options.snapgdb} {image}"

    def fixed(*command):
        return lambda: contextlib.nullcontext([*plain, *command])

    def gdbserver():
        port = free_port()
        return listening(["gdbserver", "--once", "--attach", f"localhost:{port}", str(target.pid)],
                         f"localhost:{port}")

    yield "core file", False, fixed(program, core)
    yield "gdb -p", False, fixed("-p", str(target.pid))
    yield "gdbserver --attach", True, gdbserver
    yield "target remote | snapgdb IMG", True, fixed("-ex", pipe)
    yield "the same, set sysroot /", True, fixed("-ex", "set sysroot /", "-ex", pipe)
    yield "snapgdb serve --listen unix:", True, lambda: listening(
        [options.snapgdb, "serve", image, "--listen", f"unix:{socket}"], socket)
    yield "snapgdb debug", False, lambda: contextlib.nullcontext(
        [options.snapgdb, "debug", image, "--", "-nx", "-batch"])


def free_port():
    with socketlib.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def look_at(options, threads):
    target = Target(options.targets, "crowd", "--processes", "1", "--threads", str(threads))
    os.kill(target.pid, signal.SIGSTOP)
    image, cores = f"{options.work}/x.snapgdb", f"{options.work}/cores/"
    command_output([options.snapgdb, "capture", str(target.pid), "-o", image])
    command_output([options.snapgdb, "core", image, "-o", cores])
    core = glob.glob(f"{cores}*")[0]
    print(f"\n{threads} threads: gdb to its first prompt, and `thread apply all bt` after it")
    print(f"  {'':34} {'prompt':>9} {'ratio':>7} {'packets':>8} {'stacks':>9} {'ratio':>7}")
    first = None
    for name, remote, way in ways_to_look(options, target, image, core):
        row = [statistics.median(measured(way) for _ in range(options.rounds))
               for measured in (prompt_seconds, stacks_seconds)]
        first = first or row
        packets = round_trips(way) if remote else "-"
        print(f"  {name:34} {row[0] * 1e3:6.0f} ms {row[0] / first[0]:7.2f} {packets:>8} {row[1] * 1e3:6.0f} ms "
              f"{row[1] / first[1]:7.2f}", flush=True)
    shutil.rmtree(cores)
    os.unlink(image)
    os.kill(target.pid, signal.SIGCONT)
    target.end()


RUN = """
import time
def run(what):
    gdb.execute("thread 2", to_string=True)  # the first one waits for input
    start = time.monotonic()
    gdb.execute("stepi", to_string=True)
    print(f"{what} took", time.monotonic() - start, "s")
run("first")
try:
    gdb.execute("monitor restart", to_string=True)
    gdb.execute("maintenance flush register-cache", to_string=True)
    run("again")
except gdb.error: pass
"""


def run_it(options):
    """From a command that runs something to the first that is heard of it: an instruction later."""
    target = Target(options.targets, "busy", "--mib", str(options.mib))
    image, script = f"{options.work}/x.snapgdb", f"{options.work}/run.py"
    command_output([options.snapgdb, "capture", str(target.pid), "-o", image])
    with open(script, "w", encoding="ascii") as file:
        file.write(RUN)
    print(f"\n{options.mib} MiB: from stepi to its end, and again after `monitor restart`")
    for name, _, way in ways_to_look(options, target, image, "/dev/null"):
        if name in ("core file", "snapgdb debug"):
            continue
        taken = {"first": [], "again": []}
        for _ in range(options.rounds):
            with way() as command:
                said = gdb_run(command, ["-ex", f"source {script}"]).stdout
            for what, times in taken.items():
                if f"{what} took " in said:
                    times.append(float(said.rpartition(f"{what} took ")[2].split()[0]))
        if not taken["first"]:
            raise SystemExit(f"bench: {name} runs nothing")
        shown = [f"{statistics.median(times) * 1e3:6.1f} ms" if times else f"{'-':>9}" for times in taken.values()]
        print(f"  {name:34} {'  '.join(shown)}", flush=True)
    os.unlink(image)
    target.end()


def gdb(options):
    for threads in (10, 1000):
        look_at(options, threads)
    run_it(options)


SCENARIOS = {"large": large, "many": many, "restore": restore, "gdb": gdb}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO",
                        help=f"what to measure, of {', '.join(SCENARIOS)} [all]")
    parser.add_argument("--snapgdb", required=True)
    parser.add_argument("--targets", required=True)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    unknown = set(options.scenario) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    # tmpfs, so that no disk is measured.
    options.work = tempfile.mkdtemp(prefix="snapgdb-bench.", dir="/dev/shm")
    try:
        for name in options.scenario or SCENARIOS:
            SCENARIOS[name](options)
    finally:
        shutil.rmtree(options.work)


if __name__ == "__main__":
    sys.exit(main())
