"""Gives gdb one command after the other and writes down what it answers, errors included.

Run inside gdb. Environment: SAY_COMMANDS is a file of commands, a line each; SAY_OUT is the file to
write: "== COMMAND", then the answer; MISREAD_REGISTERS matches the names of registers to leave out.
"""

import os
import re

import gdb

MISREAD = re.compile(rf"({os.environ['MISREAD_REGISTERS']})\s")


def answer(command):
    try:
        lines = gdb.execute(command, to_string=True).splitlines(keepends=True)
        return "".join(line for line in lines if not MISREAD.match(line))
    except (gdb.error, gdb.MemoryError) as error:
        return f"error: {error}\n"


def main():
    # gdb finds those of a library beside its path, which one that comes from a target does not have.
    gdb.execute("disable pretty-printer", to_string=True)
    for setting in ("width 0", "height 0", "print elements 0", "print repeats unlimited"):
        gdb.execute(f"set {setting}")
    with open(os.environ["SAY_COMMANDS"], encoding="utf-8") as commands:
        with open(os.environ["SAY_OUT"], "w", encoding="utf-8", errors="backslashreplace") as out:
            for command in commands.read().splitlines():
                print(f"== {command}\n{answer(command)}", end="", file=out)


main()
