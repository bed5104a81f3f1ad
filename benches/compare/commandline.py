"""What the commands have in common: options that are checked before anything is built or started, results that say of what
they are, and ends without a traceback."""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys

from . import stage, turns

#: Where the README looks for the last full run.
RESULTS = "benches/results"


class Parser(argparse.ArgumentParser):
    """The options that every command has; after a look at them, benches/prepare.sh may stop here."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)
        self.add_argument("--binary", metavar="PATH", type=router, help=f"the router to measure, in place of one that is built ({stage.ROUTER})")
        self.add_argument("--check-options", action="store_true", help=argparse.SUPPRESS)

    def chosen(self):
        chosen = self.parse_args()
        if chosen.check_options:
            sys.exit(0)
        chosen.binary = chosen.binary or stage.ROUTER
        return chosen


def from_caller(path):
    """A path as whoever has started the script meant it, which went to the repository's root since."""
    return os.path.join(os.environ.get("BENCH_FROM", ""), path)


def router(path):
    """The argument type of a pod-router: a program that says it is one."""
    path = from_caller(path)
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise argparse.ArgumentTypeError(f"cannot be run: {error}") from None
    if not said.startswith("pod-router "):
        raise argparse.ArgumentTypeError(f"{path} --version does not answer as a pod-router")
    return path


def number(least, kind, most=1e6):
    """The argument type of a number within bounds."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text}: from {least:,} to {most:,.0f}")
        return value

    return parse


def names(known):
    """The argument type of a comma-separated list of `known` names."""

    def parse(text):
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return text.split(",")

    return parse


def directory(path):
    """The argument type of a directory for results: there, or to be made, before anything is measured for it."""
    path = from_caller(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written to")
    return path


def run(main):
    """Runs a command. However it ends, what it has started ends with it, and a line says why."""

    def end(*_):
        """Once: what follows, as a terminal's and then the script's own, does not disturb the clearing up."""
        set_all(signal.SIG_IGN)
        raise KeyboardInterrupt

    def set_all(handler):
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, handler)

    # Python leaves SIGINT alone where its parent ignores it, as a shell does in the background.
    set_all(end)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


class Rows(dict):
    """Results by name, of what is measured besides the comparison. `with` writes them however it ends, an incomplete run's
    to nobody's README."""

    def __init__(self, chosen, name):
        super().__init__()
        self.chosen, self.name = chosen, name

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        chosen, out = self.chosen, self.chosen.out if kind else self.chosen.complete_out
        about = origin(chosen.binary) | {"repetitions": chosen.reps, "seconds": chosen.seconds, "complete": kind is None}
        os.makedirs(out, exist_ok=True)
        with open(f"{out}/{self.name}", "w") as file:
            file.write(json.dumps({**about, "rows": self}, indent=1) + "\n")
        print(f"written to {out}/{self.name}")


def git(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()


def origin(binary):
    """Of what, where and when results are: of which revision nobody knows where another `binary` was measured than is built
    here. What is written about results changes nothing of what is measured."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/results", ":!README.md", ":!benches/README.md")
    other = "" if binary == stage.ROUTER else f" (the benchmark; the router is {binary})"
    return {
        "date": datetime.date.today().isoformat(),
        "revision": (git("describe", "--always") or "unknown") + ("-dirty" if changed else "") + other,
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
    }
