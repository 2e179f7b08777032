"""Who takes a program's picture and makes it run again: snapgdb, and CRIU as what it is measured by."""
import glob
import os
import subprocess

PATIENCE = 60  # seconds for one dump or restore


class Failed(Exception):
    """`stage` did not do what it should; the text says why."""

    def __init__(self, stage, why):
        super().__init__(f"{stage}: {why}")
        self.stage = stage


def _run(stage, command, accepted, log):
    with open(log, "w") as errors:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors,
                                  stdin=subprocess.DEVNULL, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(stage, f"not done after {PATIENCE} s") from None
    if done.returncode not in accepted:
        raise Failed(stage, _last_words(log) or f"status {done.returncode}")
    return done.stdout.decode()


def _last_words(log):
    lines = [line.strip() for line in open(log, errors="replace") if line.strip()]
    said = [line for line in lines if "Error" in line] or lines
    return " | ".join(said[-4:])


class Snapgdb:
    """What CRIU is told by options, snapgdb mostly knows by itself; `incomplete` is what it said is missing."""

    name = "snapgdb"
    MISSING = 3  # exit status: done, and something was named on stderr

    def __init__(self, binary, directory, extra):
        self._binary, self._directory, self._extra = binary, directory, extra
        self._image = os.path.join(directory, "image.snapgdb")

    def dump(self, run):
        options = [option for option in run.program.options("dump")
                   if option == "--tcp-established"]
        _run("capture", [self._binary, "capture", str(run.pid), "--kill", "--all-memory",
                         "-o", self._image, *options], (0, self.MISSING), self._log("capture"))

    def restore(self, run):
        """The number of the first process, as seen from here."""
        wanted = run.program.options("restore")
        options = [option for option in ("--tcp-close", "--tcp-established") if option in wanted]
        out = _run("restore", [self._binary, "restore", "--detach", *options[:1], *self._extra,
                               self._image], (0, self.MISSING), self._log("restore"))
        return int(out.split()[-1])

    def logs(self):
        return [self._log("capture"), self._log("restore")]

    def _log(self, stage):
        return os.path.join(self._directory, stage + ".log")


class Criu:
    name = "criu"

    def __init__(self, binary, directory, _extra):
        self._binary, self._directory = binary, directory
        self._pidfile = os.path.join(directory, "root.pid")

    def dump(self, run):
        external = ["--external", "mnt[/dev]:ZDTM_DEV"] if run.root else []
        self._act("dump", run, ["--tree", str(run.pid), "--timeout", "10", *external])

    def restore(self, run):
        external = ["--external", "mnt[ZDTM_DEV]:" + run.devices] if run.root else []
        self._act("restore", run, ["--restore-detached", "--pidfile", self._pidfile, *external])
        return int(open(self._pidfile).read())

    def logs(self):
        return glob.glob(os.path.join(self._directory, "*.log"))

    def _act(self, stage, run, options):
        log = os.path.join(self._directory, stage + ".log")
        root = ["--root", run.root] if run.root else []
        libraries = ["--libdir", os.path.abspath(os.path.dirname(run.program.path)) + "/lib"] \
            if run.program.flag("crlib") else []
        try:
            _run(stage, [self._binary, stage, "--no-default-config", "--images-dir",
                         self._directory, "--log-file", log, "--verbosity=4", *root, *libraries,
                         *options, *run.program.options(stage)], (0,), log + ".stderr")
        except Failed as failure:
            if not os.path.exists(log):
                raise
            raise Failed(stage, _last_words(log)) from failure


ENGINES = {engine.name: engine for engine in (Snapgdb, Criu)}
