"""Runs one program in one flavour. Started as the first process of new namespaces (see run.py), in which
everything that is left over ends with it: processes, mounts, networks. Writes its verdict to job["answer"], as JSON."""
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

from engines import ENGINES, Failed
from programs import Program

# Who a program is that does not ask to be root, in numbers that its checks do not know of.
ORDINARY_USER = {"ZDTM_UID": "18943", "ZDTM_GID": "58467", "ZDTM_GROUPS": "27495 48244"}


# ---- The world that a program is started in -----------------------------------------------------


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def make_world():
    mount("--make-rslave", "/")
    for place in ("/dev/pts", "/proc"):  # umount(8) itself reads /proc
        while os.path.ismount(place):
            subprocess.run(["umount", "-l", place], check=True)
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "/dev/pts")
    if not os.path.islink("/dev/ptmx"):
        mount("--bind", "/dev/pts/ptmx", "/dev/ptmx")
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"],
                   stderr=subprocess.DEVNULL, check=False)  # a kernel may be without
    subprocess.run(["ip", "link", "set", "up", "dev", "lo"], check=True)


def device(path, number):
    os.mknod(path, stat.S_IFCHR | 0o666, number)
    os.chmod(path, 0o666)


class Root:
    """A root directory for programs in namespaces of their own: the test directory itself, with the
    libraries and programs that they need copied into it."""

    def __init__(self, scratch, program):
        self.path, self.devices = scratch + "/root/root", scratch + "/dev"
        os.makedirs(self.path)
        os.mkdir(self.devices)
        mount("-t", "tmpfs", "devices", self.devices)
        os.chmod(self.devices, 0o777)
        mount("--make-private", "--bind", ".", self.path)
        self._directories()
        self._devices()
        self._with_libraries(program.path)
        for alternatives in program.words("deps"):
            self._with_libraries(next(f for f in alternatives.split("|") if os.path.exists(f)), True)
        for directory in (scratch, scratch + "/root"):
            os.chmod(directory, 0o755)

    def hide(self):  # from users that may not enter: restoring must not depend on it
        os.chmod(os.path.dirname(self.path), 0o700)

    def _directories(self):
        for name in "bin sbin etc lib lib64 dev tmp usr proc run".split():
            path = f"{self.path}/{name}"
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o777)
        for name in ("bin", "sbin", "lib", "lib64"):
            if not os.path.lexists(f"{self.path}/usr/{name}"):
                os.symlink("../" + name, f"{self.path}/usr/{name}")

    def _devices(self):
        for name in ("pts", "net"):
            os.mkdir(f"{self.devices}/{name}", 0o755)
        for name, number in (("tty", (5, 0)), ("null", (1, 3)), ("autofs", (10, 235))):
            device(f"{self.devices}/{name}", os.makedev(*number))
        for name in ("net/tun", "rtc"):
            if os.path.exists("/dev/" + name):
                device(f"{self.devices}/{name}", os.stat("/dev/" + name).st_rdev)

    def _with_libraries(self, path, copy_itself=False):
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        found = re.findall(r"^\t(?:\S+ => )?(/\S+) \(", listed, re.M)
        for file in found + ([path] if copy_itself else []):
            target = self.path + file
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(file, target)


# ---- A program ----------------------------------------------------------------------------------


class Run:
    def __init__(self, program, flavour, scratch):
        self.program, self.pid = program, 0
        self._spaces = Root(scratch, program) if flavour != "h" else None
        self.root = self._spaces and self._spaces.path
        self.devices = self._spaces and self._spaces.devices
        self._environment = self._environment_of(flavour)

    def make(self, action, **options):
        """The Makefile beside the programs knows their arguments."""
        directory, name = os.path.split(self.program.path)
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            make = subprocess.Popen(
                ["make", "--no-print-directory", "-C", directory, f"{name}.{action}"],
                stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options)
            if action == "pid":
                self.hook("post-start")  # what some wait for
            try:
                status = make.wait(self.program.timeout)
            except subprocess.TimeoutExpired:
                raise Failed(action, f"not done after {self.program.timeout} s") from None
            if status:
                said.seek(0)
                raise Failed(action, " | ".join(said.read().split("\n")[-5:]) + self._output())

    # In the distribution's Python, for which packages.txt has the modules.
    def hook(self, stage):
        path = self.program.path + ".hook"
        search = "/usr/bin:" + os.environ["PATH"]
        if os.access(path, os.X_OK) and subprocess.run(
                [path, "--" + stage], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=dict(os.environ, PATH=search, ZDTM_TEST_PID=str(self.pid))).returncode:
            raise Failed("hook", stage)

    def start(self):
        for file in (".out", ".out.inprogress", ".pid", ".pid.inprogress"):
            if os.path.exists(self.program.path + file):
                os.unlink(self.program.path + file)
        directory = os.path.dirname(self.program.path)
        os.chmod(directory, os.stat(directory).st_mode | 0o222)
        self.make("pid", env=self._environment, cwd=self.root)
        self.pid = int(open(self.program.path + ".pid").readline())
        if self._spaces:
            self._spaces.hide()
        if self.program.name.startswith("transition/"):
            time.sleep(0.3)  # it changes all the time: be somewhere in the middle

    def wait_for_end(self, stage):
        end = time.monotonic() + self.program.timeout
        while os.path.exists(f"/proc/{self.pid}"):
            if time.monotonic() > end:
                raise Failed(stage, f"process {self.pid} is still there after "
                                    f"{self.program.timeout} s" + self._output())
            time.sleep(0.01)

    def finish(self):
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            raise Failed("end", "it ended by itself" + self._output()) from None
        self.wait_for_end("end")
        verdict = self._read(".out").strip().split("\n")[-1]
        if "PASS" not in verdict.split():
            raise Failed("check", self._output())

    def _environment_of(self, flavour):
        names = {"TMPDIR": "/tmp", "PATH": os.environ["PATH"], "ZDTM_THREAD_BOMB": "5"}
        if not self.program.flag("suid"):
            names |= ORDINARY_USER
        if self.program.flag("pre-dump-notify"):
            names |= {"ZDTM_NOTIFY_FDIN": "100", "ZDTM_NOTIFY_FDOUT": "101"}
        if flavour == "h":
            return names
        names |= {"ZDTM_NEWNS": "1", "ZDTM_ROOT": self.root, "ZDTM_DEV": self.devices,
                  "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        if self.program.description.get("bind"):
            names["ZDTM_BIND"] = self.program.description["bind"]
        if flavour == "uns":
            names["ZDTM_USERNS"] = "1"
        return names

    def _read(self, suffix):
        path = self.program.path + suffix
        return open(path, errors="replace").read() if os.path.exists(path) else ""

    def _output(self):
        said = (self._read(".out") + self._read(".out.inprogress")).strip().split("\n")
        return " | ".join([""] + [line for line in said if line][-6:])


def judge(run, engine):
    """ "pass", or "refused as expected": of a program that CRIU is meant to refuse."""
    refusal_expected = run.program.flag("crfail")
    run.make("cleanout")
    run.start()
    try:
        run.hook("pre-dump")
        try:
            engine.dump(run)
        except Failed:
            if not refusal_expected:
                raise
            run.finish()
            return "refused as expected"
        run.wait_for_end("kill")
        os.unlink(run.program.path + ".pid")
        run.hook("pre-restore")
        try:
            run.pid = engine.restore(run)
        except Failed:
            if not refusal_expected:
                raise
            return "refused as expected"
        with open(run.program.path + ".pid", "w") as file:
            file.write(str(run.pid))
        run.hook("post-restore")
        run.finish()
        return "pass"
    finally:
        run.hook("clean")


def verdict_of(job):
    scratch = job["scratch"]
    mount("-t", "tmpfs", "scratch", scratch)
    os.mkdir(scratch + "/images")
    program = Program(job["program"], job["description"])
    engine = ENGINES[job["engine"]](job["binary"], scratch + "/images", job["extra"])
    try:
        return {"verdict": judge(Run(program, job["flavour"], scratch), engine), "why": ""}
    except Failed as failure:
        verdict = "skip" if failure.stage == "pid" else "fail"  # it does not start here
        return {"verdict": verdict, "stage": failure.stage, "why": str(failure)}
    finally:
        if job["keep"]:
            shutil.copytree(scratch + "/images", job["keep"], dirs_exist_ok=True)


def reap_all_until(child):
    """The first process is who orphans come to."""
    while True:
        try:
            pid, status = os.wait()
        except OSError as error:
            if error.errno != errno.ECHILD:
                raise
            return 1
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def main():
    job = json.loads(sys.argv[1])
    child = os.fork()
    if child:
        sys.exit(reap_all_until(child))
    make_world()
    os.chdir(job["directory"])
    answer = verdict_of(job)
    with open(job["answer"], "w") as file:
        json.dump(answer, file)


main()
