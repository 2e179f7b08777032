"""Writes down everything a debugger can say of the inferiors it has, as sorted comparable lines.

Run inside gdb. Environment: DUMP_MANIFEST is a file of lines as tests/targets/witness prints them
before "ready" (global NAME, tls NAME, range PID NAME ADDRESS SIZE HOW); DUMP_OUT is the file to
write. Every line is "WHERE: WHAT", where the first word of WHERE is PID or PID.TID; so two dumps
agree if their lines do.
"""

import hashlib
import os
import re

import gdb

MARK = "marked"  # local variables are shown of functions with this word in their names
FRAME_LIMIT = 200
SYSTEM_REGISTERS = ["fs_base", "gs_base", "orig_rax"]  # not among those gdb lists as general


def attempt(function):
    """The result, or the reason why there is none: a debugger's errors are part of what it says."""
    try:
        return function()
    except (gdb.error, gdb.MemoryError, RuntimeError) as error:
        return f"<{str(error).splitlines()[0]}>"


class Manifest:
    def __init__(self, path):
        self.globals, self.tls, self.ranges = [], [], []
        for line in open(path, encoding="utf-8"):
            words = line.split()
            if words[:1] == ["global"]:
                self.globals.append(words[1])
            elif words[:1] == ["tls"]:
                self.tls.append(words[1])
            elif words[:1] == ["range"]:
                pid, name, address, size = words[1:5]
                self.ranges.append((int(pid), name, int(address, 16), int(size)))


def locals_of(frame):
    block = frame.block()
    while block:
        for symbol in block:
            if symbol.is_variable or symbol.is_argument:
                yield symbol.name, attempt(lambda: str(symbol.value(frame)))
        if block.function:
            return
        block = block.superblock


def frame_lines(frame):
    place = frame.find_sal()
    file = place.symtab.filename if place.symtab else "?"
    yield "", f"{frame.name()} at {file}:{place.line} pc {frame.pc():#x} type {frame.type()}"
    if MARK in (frame.name() or ""):
        for name, value in locals_of(frame):
            yield f" {name}", value


def thread_lines(thread, manifest):
    thread.switch()
    yield "name", thread.name
    frame, level = gdb.newest_frame(), 0
    for name in [register.name for register in frame.architecture().registers()] + SYSTEM_REGISTERS:
        if re.fullmatch(os.environ["MISREAD_REGISTERS"], name):
            continue
        yield f"register {name}", attempt(lambda: hexadecimal(frame.read_register(name)))
    while frame and level < FRAME_LIMIT:
        for where, what in frame_lines(frame):
            yield f"frame {level}{where}", what
        frame, level = frame.older(), level + 1
    gdb.newest_frame().select()
    for name in manifest.tls:
        yield f"tls {name}", attempt(lambda: str(gdb.parse_and_eval(name)))


def hexadecimal(value):
    kind = value.type.strip_typedefs().code
    if kind == gdb.TYPE_CODE_FLT:
        return str(value)
    if kind == gdb.TYPE_CODE_UNION:  # a vector register: its 64-bit integers show every bit
        value = next(value[field] for field in value.type.fields() if field.name.endswith("_int64"))
    return value.format_string(format="x", repeat_threshold=0)


def digest(inferior, address, size):
    hashed = hashlib.sha256()
    for at in range(address, address + size, 1 << 16):
        hashed.update(inferior.read_memory(at, min(1 << 16, address + size - at)))
    return hashed.hexdigest()


def memory_lines(inferior, manifest):
    for pid, name, address, size in manifest.ranges:
        if pid != inferior.pid:
            continue
        # Page by page, since what cannot be read must not hide what can.
        for at in range(address, address + size, 4096):
            length = min(4096, address + size - at)
            try:
                what = digest(inferior, at, length)
            except gdb.MemoryError:
                what = "unavailable"
            yield f"memory {name} {at:#x}", what


def library_lines():
    for line in gdb.execute("info sharedlibrary", to_string=True).splitlines():
        words = line.split()
        if words and words[0].startswith("0x"):
            # The image knows a library by the path that the kernel resolved, the program by the one
            # its dynamic linker found.
            path = os.path.realpath(words[-1].removeprefix("target:"))
            yield f"library {path}", " ".join(words[:3])


def vector_lines():
    for line in gdb.execute("info auxv", to_string=True).splitlines():
        words = line.split()
        yield f"auxv {words[1]}", " ".join(words[2:])


def inferior_lines(inferior, manifest):
    inferior.threads()[0].switch()
    for name in manifest.globals:
        yield f"global {name}", attempt(lambda: str(gdb.parse_and_eval(name)))
    yield from memory_lines(inferior, manifest)
    yield from attempt(lambda: list(library_lines()))
    yield from attempt(lambda: list(vector_lines()))
    for thread in sorted(inferior.threads(), key=lambda thread: thread.ptid[1]):
        for where, what in thread_lines(thread, manifest):
            yield f"thread {thread.ptid[1]} {where}", what


def main():
    gdb.execute("set print elements 0")
    gdb.execute("set print repeats unlimited")
    manifest = Manifest(os.environ["DUMP_MANIFEST"])
    with open(os.environ["DUMP_OUT"], "w", encoding="utf-8", errors="backslashreplace") as out:
        for inferior in gdb.inferiors():
            if inferior.pid == 0:
                continue
            gdb.execute(f"inferior {inferior.num}", to_string=True)
            for where, what in inferior_lines(inferior, manifest):
                print(f"{inferior.pid} {where}: {what}".replace("\n", "\\n"), file=out)


main()
