#!/usr/bin/env python3
"""gdb's own test suite, test by test, with gdbserver as the remote target and with snapgdb.

Each .exp file runs by itself, on the boards of both, and only what has no result yet runs at all: a
run that was broken off goes on where it was. What counts is which of the tests that pass with
gdbserver do not pass with a snapshot.
"""

import argparse
import collections
import os
import pathlib
import re
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BOARDS = {"gdbserver": "native-gdbserver", "snapgdb": "snapgdb"}
SERVERS = {"gdbserver": "/usr/bin/gdbserver", "snapgdb": str(HERE / "gdbserver")}
# Namespaces of its own: ports that others listen at are not in the way, and nothing that a test
# leaves running outlives it. The shell is the first process and waits for orphans.
ALONE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", "-c", 'ip link set lo up; "$@"; true', "sh"]
RESULT = re.compile(r"(PASS|FAIL|XPASS|XFAIL|KPASS|KFAIL|UNTESTED|UNRESOLVED|UNSUPPORTED|ERROR|"
                    r"WARNING|DUPLICATE|PATH): (.*)")
# "(timeout)" and the like at a test's end are about how it failed, not which test it is.
REMARK = re.compile(r" \((timeout|eof|GDB internal error|the program (exited|is no longer running)|"
                    r"got interactive prompt)\)$")

SHOWN = 10  # lost tests of one file

SITE = """
set host_triplet x86_64-pc-linux-gnu
set build_triplet x86_64-pc-linux-gnu
set target_triplet x86_64-pc-linux-gnu
set target_alias x86_64-pc-linux-gnu
set srcdir {suite}
set tool gdb
set enable_libctf no
set GDB {gdb}
# Seconds for one answer. A busy machine takes longer than the ten that gdb's own suite allows.
set gdb_test_timeout 40
set snapgdb_boards {here}/boards
source $srcdir/lib/append_gdb_boards_dir.exp
trace add variable boards_dir write add_snapgdb_boards
proc add_snapgdb_boards {{args}} {{
    if {{[lsearch -exact $::boards_dir $::snapgdb_boards] < 0}} {{
        lappend ::boards_dir $::snapgdb_boards
    }}
}}
"""


class Suite:
    def __init__(self, args):
        self.suite = pathlib.Path(args.source).resolve() / "gdb" / "testsuite"
        self.out = pathlib.Path(args.out).resolve()
        self.args = args

    def tests(self, wanted):
        """The .exp files that patterns name: a directory, a path, a glob."""
        if "@sample" in wanted:
            wanted = [line for line in (HERE / "sample.txt").read_text().splitlines()
                      if line and not line.startswith("#")]
        found = []
        for pattern in wanted:
            path = self.suite / pattern
            here = sorted(path.rglob("*.exp")) if path.is_dir() else sorted(self.suite.glob(pattern))
            if not here:
                sys.exit(f"there is no test {pattern} in {self.suite}")
            found += [str(each.relative_to(self.suite)) for each in here]
        return list(dict.fromkeys(found))

    def place(self, server, test):
        return self.out / server / test.removesuffix(".exp")

    def run(self, server, test):
        """Lines of test's summary; from the last run, if there was one."""
        place = self.place(server, test)
        summary = place / "gdb.sum"
        if not (place / "done").exists() or (self.args.again and server in self.args.again):
            place.mkdir(parents=True, exist_ok=True)
            (place / "site.exp").write_text(
                SITE.format(suite=self.suite, gdb=self.args.gdb, here=HERE))
            environment = os.environ | {"SNAPGDB": str(pathlib.Path(self.args.snapgdb).resolve()),
                                        "LC_ALL": "C", "TERM": "dumb"}
            with open(place / "output", "w") as output:
                process = subprocess.Popen(
                    ALONE + ["runtest", "--target_board", BOARDS[server],
                             "GDBSERVER=" + SERVERS[server], test],
                    cwd=place, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    env=environment, start_new_session=True)
                try:
                    process.wait(self.args.timeout)
                except subprocess.TimeoutExpired:
                    output.write("\nERROR: the whole test took too long\n")
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            subprocess.run(["rm", "-rf", str(place / "outputs"), str(place / "cache"), str(place / "temp")], check=False)
            (place / "done").touch()
        return summary.read_text(errors="replace").splitlines() if summary.exists() else []


def results(lines):
    """(kind, name) → how often."""
    counted = collections.Counter()
    for line in lines:
        if match := RESULT.fullmatch(line):
            counted[match[1], REMARK.sub("", match[2])] += 1
    return counted


def passes(counted):
    return collections.Counter({name: n for (kind, name), n in counted.items() if kind == "PASS"})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="gdb's source, unpacked")
    parser.add_argument("--snapgdb", required=True, help="the program")
    parser.add_argument("--gdb", default="/usr/bin/gdb")
    parser.add_argument("--out", required=True, help="where logs and results go")
    parser.add_argument("--timeout", type=int, default=240, help="seconds for one .exp file")
    parser.add_argument("--again", action="append", choices=BOARDS, help="run it also if it has run")
    parser.add_argument("--only", choices=BOARDS, help="run nothing but this one")
    parser.add_argument("tests", nargs="+", help="gdb.base/break.exp, gdb.threads, gdb.base/a*.exp; @sample: those of sample.txt")
    suite = Suite(args := parser.parse_args())

    totals = collections.defaultdict(lambda: [0, 0, 0])
    for test in suite.tests(args.tests):
        if args.only:
            suite.run(args.only, test)
            continue
        reference, ours = (passes(results(suite.run(server, test))) for server in BOARDS)
        lost = reference - ours
        total = totals[test.split("/")[0]]
        for i, counted in enumerate((reference, ours, lost)):
            total[i] += counted.total()
        print(f"{test}: gdbserver {reference.total()}, snapgdb {ours.total()}", flush=True)
        for name in list(lost)[:SHOWN]:
            print(f"  lost: {name.split(': ', 1)[-1]}", flush=True)
        if len(lost) > SHOWN:
            print(f"  and {len(lost) - SHOWN} more", flush=True)
    for directory, (reference, ours, lost) in totals.items():
        print(f"{directory}: gdbserver passes {reference}, snapgdb {ours}; of gdbserver's {lost} are lost")


if __name__ == "__main__":
    main()
