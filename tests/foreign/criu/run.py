#!/usr/bin/env python3
"""Runs CRIU's own test programs against snapgdb (or CRIU itself), and counts.

A program counts as passed in a flavour if it was captured, killed, restored, ended by SIGTERM, and then says
PASS. Results are kept from run to run in RESULTS, so that parts can be run again."""
import argparse
import collections
import contextlib
import fcntl
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from programs import FLAVOURS, all_programs

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 150  # seconds for one program in one flavour
GOOD = ("pass", "refused as expected")
# Not zero, so that who reads clocks of the wrong namespace is found out.
SPACES = ["--mount", "--pid", "--net", "--ipc", "--time", "--monotonic", "9504000", "--boottime",
          "3456000", "--fork", "--kill-child"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tests", nargs="*", help="Regular expressions of names (static/pipe0.) [all]")
    parser.add_argument("--criu-source", required=True, help="CRIU's source, with its tests built")
    parser.add_argument("--snapgdb", required=True)
    parser.add_argument("--engine", choices=["snapgdb", "criu"], default="snapgdb")
    parser.add_argument("--flavour", action="append", choices=FLAVOURS, help="[all of a program's]")
    parser.add_argument("--results", required=True, help="JSON; is added to")
    parser.add_argument("--keep", help="Directory for images and logs")
    parser.add_argument("--failed", action="store_true", help="Only what failed the last time")
    parser.add_argument("--new", action="store_true", help="Only what is not in the results")
    parser.add_argument("--summary", action="store_true", help="Run nothing")
    parser.add_argument("--with", dest="extra", action="append", default=[],
                        help="A further option for snapgdb restore")
    options = parser.parse_args()
    options.criu_source = os.path.abspath(options.criu_source)
    return options


def feature_check(source):
    binary = os.path.join(source, "criu/criu")

    @functools.lru_cache(None)
    def has(feature):
        return not os.path.exists(binary) or subprocess.run(
            [binary, "check", "--no-default-config", "--feature", feature],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    return has


@contextlib.contextmanager
def alone(test_directory):
    """Programs leave their output beside themselves: one at a time."""
    with open(os.path.join(test_directory, ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def one(options, program, flavour):
    test_directory = os.path.join(options.criu_source, "test")
    with alone(test_directory), tempfile.NamedTemporaryFile("r", prefix="snapgdb-criu-answer-") as answer, \
            tempfile.TemporaryDirectory(prefix="snapgdb-criu-") as scratch:
        job = {"program": program.name, "description": program.description, "flavour": flavour,
               "engine": options.engine, "extra": options.extra, "answer": answer.name, "scratch": scratch,
               "directory": test_directory,
               "binary": os.path.abspath(options.snapgdb) if options.engine == "snapgdb"
                         else os.path.join(options.criu_source, "criu/criu"),
               "keep": options.keep and os.path.abspath(
                   os.path.join(options.keep, program.name, flavour))}
        command = ["unshare", *SPACES, sys.executable, os.path.join(HERE, "inside.py"),
                   json.dumps(job)]
        try:
            done = subprocess.run(command, timeout=PATIENCE, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except subprocess.TimeoutExpired:
            return {"verdict": "fail", "stage": "all", "why": f"not done after {PATIENCE} s"}
        text = answer.read()
        return json.loads(text) if text else {
            "verdict": "fail", "stage": "runner",
            "why": " | ".join(done.stdout.decode(errors="replace").strip().split("\n")[-5:])}


def wanted(options, results):
    """(program, flavour) in order."""
    has_feature = feature_check(options.criu_source)
    for program in all_programs(os.path.join(options.criu_source, "test")):
        if options.tests and not any(re.search(t, program.name) for t in options.tests):
            continue
        reason = program.reason_to_skip(os.path.join(options.criu_source, "test"), has_feature)
        for flavour in program.flavours:
            last = results.get(program.name, {}).get(flavour)
            if options.flavour and flavour not in options.flavour:
                continue
            if (options.new and last) or (
                    options.failed and (not last or last["verdict"] != "fail")):
                continue
            yield program, flavour, reason


@contextlib.contextmanager
def huge_pages(count):
    """As many in the machine's pool, for the time being."""
    setting = "/proc/sys/vm/nr_hugepages"
    before = open(setting).read()
    with open(setting, "w") as file:
        file.write(str(max(count, int(before))))
    try:
        yield
    finally:
        with open(setting, "w") as file:
            file.write(before)


def save(results, path):
    with open(path + ".new", "w") as file:
        json.dump(results, file, indent=1, sort_keys=True)
    os.rename(path + ".new", path)


def summary(results):
    ran = {name: {f: r for f, r in flavours.items() if r["verdict"] != "skip"}
           for name, flavours in results.items()}
    ran = {name: flavours for name, flavours in ran.items() if flavours}

    def passes(flavours, how):
        return how(r["verdict"] in GOOD for r in flavours.values())

    counts = collections.Counter((f, r["verdict"]) for fs in ran.values() for f, r in fs.items())
    print(f"\n{len(ran)} programs ran, {len(results) - len(ran)} were passed over")
    print(f"pass in at least one flavour: {sum(passes(f, any) for f in ran.values())}")
    print(f"pass in all of their flavours: {sum(passes(f, all) for f in ran.values())}")
    for flavour in FLAVOURS:
        print(f"  {flavour}: " + ", ".join(
            f"{counts[flavour, verdict]} {verdict}" for verdict in (*GOOD, "fail")))


def run_all(options, results):
    """How many failed."""
    failed = 0
    for program, flavour, reason in wanted(options, results):
        begun = time.monotonic()
        answer = {"verdict": "skip", "why": reason} if reason else one(options, program, flavour)
        results.setdefault(program.name, {})[flavour] = answer
        failed += answer["verdict"] == "fail"
        print(f"{answer['verdict']:5} {program.name} {flavour} {time.monotonic() - begun:.1f} s "
              f"{answer['why']}", flush=True)
        save(results, options.results)
    return failed


def main():
    options = arguments()
    results = json.load(open(options.results)) if os.path.exists(options.results) else {}
    failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    if not options.summary:
        with huge_pages(20):
            failed = run_all(options, results)
    summary(results)
    sys.exit(1 if failed else 0)


main()
