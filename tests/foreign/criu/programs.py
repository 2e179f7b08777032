"""CRIU's test programs as their .desc files describe them; nothing of CRIU's is in this repository."""
import dataclasses
import os
import subprocess
import sys

FLAVOURS = ("h", "ns", "uns")  # the caller's namespaces; new ones; new ones and a user namespace
DEFAULT_TIMEOUT = 30  # seconds, for a start or an end


def _without_repeats(words):
    return list(dict.fromkeys(words))


@dataclasses.dataclass
class Program:
    """One program below test/zdtm; `name` is like static/pipe00."""

    name: str
    description: dict

    def words(self, key):
        value = self.description.get(key, "")
        return value.split() if isinstance(value, str) else list(value)

    @property
    def path(self):  # from the directory test
        return "zdtm/" + self.name

    @property
    def flavours(self):
        wanted = self.words("flavor") or FLAVOURS
        return [flavour for flavour in FLAVOURS if flavour in wanted]

    @property
    def timeout(self):
        return int(self.description.get("timeout") or DEFAULT_TIMEOUT)

    def flag(self, name):
        return name in self.words("flags")

    def options(self, stage):
        """Options of CRIU for `stage`: dump or restore."""
        return self.words("opts") + self.words({"dump": "dopts", "restore": "ropts"}[stage])

    def reason_to_skip(self, test_directory, has_feature):
        """Why the program does not run here; None: it does."""
        if self.description.get("arch") and os.uname().machine not in self.words("arch"):
            return "for " + self.description["arch"]
        if self.flag("noauto"):
            return "not to be run by itself (noauto)"
        for feature in self.words("feature"):
            if not has_feature(feature):
                return "no " + feature
        for alternatives in self.words("deps"):
            if not any(os.path.exists(path) for path in alternatives.split("|")):
                return "needs " + alternatives
        check = os.path.join(test_directory, self.path + ".checkskip")
        if os.access(check, os.X_OK) and subprocess.run(
                [check], cwd=test_directory, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL).returncode:
            return "its own check says so"
        return None


def _description_of(path):
    # A .desc file is an expression of Python; some ask for os.
    text = open(path).read().strip() if os.path.exists(path) else ""
    return eval(text, {"os": os}) if text else {}  # pylint: disable=eval-used


def all_programs(test_directory):
    """Those that are built; who is not, is said on stderr."""
    found = []
    for group in ("static", "transition"):
        directory = os.path.join(test_directory, "zdtm", group)
        sources = sorted(_without_repeats(
            file.rsplit(".", 1)[0] for file in os.listdir(directory)
            if file.endswith((".desc", ".c")) or os.access(os.path.join(directory, file), os.X_OK)))
        for name in sources:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK) and not path.endswith(".so"):
                found.append(Program(f"{group}/{name}", _description_of(path + ".desc")))
            elif os.path.exists(path + ".desc"):
                print(f"{group}/{name}: is not built here", file=sys.stderr)
    return found
