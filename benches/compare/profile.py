"""Where a unit of the router's work goes: kernel and user time, the dearest functions, system calls, allocations, polls.

The profile is perf's, by the clock, of the router as it is measured elsewhere. Counts are exact, and taken in a load of their
own because counting costs time: system calls at the kernel's tracepoints, allocations by uprobes on the allocator's entry points,
polls of tasks by uprobes where the runtime begins one. A unit that waits for one answer takes two polls: a third would be a task
or a channel on its way.
"""

import collections
import os
import re
import signal
import subprocess

from . import commandline, machine, peers, stage, turns, works

TRACING = "/sys/kernel/tracing"

#: mimalloc's functions that Rust allocates with.
ALLOCATOR = {"malloc": "mi_malloc_aligned", "zalloc": "mi_zalloc_aligned", "realloc": "mi_realloc_aligned"}
#: Polls a task; one function of this name for each kind of task.
POLL = "tokio::runtime::task::raw::poll"
GROUP = "pod_router_bench"

#: Works whose load is nothing but units of it.
KEYS = ("http", "connection", "handshake", "body", "cold", "redirect")
WORKS = [work for work in works.WORKS if work.key in KEYS]
USUAL = ["http", "handshake", "cold", "redirect"]

#: Functions and system calls below these are not shown.
LEAST_PERCENT, LEAST_CALLS = 0.7, 0.005


class Perf:
    """perf attached to a process, counting within `with` only."""

    def __init__(self, directory, peer, arguments):
        control, answer = f"{directory}/perf-control", f"{directory}/perf-answer"
        for path in [control, answer]:
            if not os.path.exists(path):
                os.mkfifo(path)
        command = ["perf", *arguments, "-p", str(peer.pid), "-D", "-1", "--control", f"fifo:{control},{answer}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = machine.start(machine.LOAD_CORE, command, **quiet)
        self.control, self.answer = control, answer

    def tell(self, what):
        with open(self.control, "w") as control, open(self.answer) as answer:
            control.write(f"{what}\n")
            control.flush()
            if not answer.readline().startswith("ack"):
                raise RuntimeError(f"perf did not {what}")

    def __enter__(self):
        self.tell("enable")

    def __exit__(self, *_):
        self.tell("disable")
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def perf(*arguments):
    return machine.run(["perf", *arguments])


def offsets(headers, symbols, function):
    """Where in a file the functions of this name begin, by `readelf -lW` and `nm -C`; those that are alike may be one."""
    fields = [line.split() for line in headers.splitlines()]
    segments = [[int(field, 16) for field in line[1:5]] for line in fields if line[:1] == ["LOAD"]]
    named = [line.split(" ", 2) for line in symbols.splitlines()]
    found = {int(symbol[0], 16) for symbol in named if symbol[2:] == [function]}
    return sorted(
        address - at + offset for address in found for offset, at, _, size in segments if at <= address < at + size
    )


class Probes:
    """Events at the allocator's functions in `binary`, and at its polls; `with` removes them. They are the kernel's, so a run that
    was killed has left them: they are removed before as well, and no two runs are under way at once."""

    def __init__(self, binary):
        self.binary = os.path.abspath(binary)

    def __enter__(self):
        if not os.path.exists(f"{TRACING}/uprobe_events"):
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)
        self.remove()
        try:
            self.add()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        self.remove()

    def add(self):
        for name, function in ALLOCATOR.items():
            perf("probe", "-q", "-x", self.binary, "--add", f"{GROUP}:{name}={function}")
        # Not perf's to find: a generic function's many instances have one name. The kernel counts them all as one event.
        polls = offsets(machine.run(["readelf", "-lW", self.binary]), machine.run(["nm", "-C", self.binary]), POLL)
        if not polls:
            raise RuntimeError(f"{self.binary} has no {POLL}: is it stripped?")
        for offset in polls:
            self.tell(f"p:{GROUP}/poll {self.binary}:{offset:#x}")

    def remove(self):
        with open(f"{TRACING}/uprobe_events") as events:
            left = set(re.findall(f":({GROUP}/\\w+)", events.read()))
        for event in left:
            self.tell(f"-:{event}")

    @staticmethod
    def tell(line):
        # Python's own way to append looks for the end first, and this file has none.
        events = os.open(f"{TRACING}/uprobe_events", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(events, f"{line}\n".encode())
        finally:
            os.close(events)


def rows_of(data):
    """A recording's functions, each with its share in percent, its name, and whether it is the kernel's."""
    report = ["report", "-i", data, "--no-children", "-g", "none", "--stdio", "-q", "-t", ";", "--fields", "overhead,symbol"]
    for line in perf(*report).splitlines():
        share, found, symbol = line.partition(";")
        if found:
            where, name = symbol.strip().split(" ", 1)
            yield float(share.strip().rstrip("%")), re.sub(r"::h[0-9a-f]{16}$", "", name.strip()), where == "[k]"


def owner(name):
    """The crate a function is of; what it has inlined counts as its own."""
    if name.startswith(("mi_", "_mi_")):
        return "mimalloc"
    crate = re.match(r"[<&]*(?:mut |dyn )?(\w+)::", name)
    return crate.group(1) if crate else "libc"


def profile(tell, run, theatre, work, peer):
    """Tells a table of functions, and keeps the recording for `perf report`."""
    data = os.path.abspath(f"{stage.SCRATCH}/{work.key}.perf.data")
    with Perf(theatre.directory, peer, ["record", "-q", "-g", "-F", "4000", "-o", data]):
        cost = turns.only(work.measure(run, [peer]))
    rows = list(rows_of(data))
    owners = collections.Counter()
    for share, name, kernel in rows:
        owners["the kernel" if kernel else owner(name)] += share
    shares = ", ".join(f"{name} {share:.0f} %" for name, share in owners.most_common() if share >= LEAST_PERCENT)
    tell(f"\n{work.title}: {cost:.1f} µs CPU: {shares}\n\n| % | function |\n|---|---|")
    for share, name, kernel in rows:
        if share >= LEAST_PERCENT and not kernel:
            tell(f"| {share:.1f} | `{name}` |")
    print(f"\nWith the kernel's and with callers: perf report -i {data}")


def count(tell, run, theatre, work, peer):
    """Tells what a unit calls."""
    out = f"{theatre.directory}/counts"
    events = f"{GROUP}:*,syscalls:sys_enter_*"
    with Perf(theatre.directory, peer, ["stat", "-x", ";", "-o", out, "-e", events]):
        done = turns.only(work.measure(run, [peer])).details["done"]
    with open(out) as file:
        fields = [line.split(";") for line in file if line.count(";") > 3]
    each = {name: int(number) / done for number, _, name, *_ in fields if number.isdigit()}
    calls = {name.split("sys_enter_")[1]: number for name, number in each.items() if "sys_enter_" in name}
    allocations = {name.split(":")[1]: number for name, number in each.items() if name.startswith(GROUP)}
    polls = {"of tasks": allocations.pop("poll")}
    for title, counted in [("allocations", allocations), ("polls", polls), ("system calls", calls)]:
        shown = sorted((item for item in counted.items() if item[1] >= LEAST_CALLS), key=lambda item: -item[1])
        tell(f"{title}: {sum(counted.values()):.2f} ({', '.join(f'{name} {number:.2f}' for name, number in shown)})")


def main(chosen, run, theatre):
    os.makedirs(stage.SCRATCH, exist_ok=True)
    wanted = chosen.only if chosen.only != [work.key for work in works.WORKS] else USUAL
    told = []

    def tell(line):
        told.append(line)
        print(line, flush=True)

    with peers.ours(chosen.binary, 4200).running() as peer, Probes(chosen.binary):
        peers.check(peer)
        tell(", ".join(commandline.origin(chosen.binary).values()))
        for work in (work for work in WORKS if work.key in wanted):
            work.measure(run, [peer])  # unmeasured: connections to pods, caches
            for look in (profile, count):
                works.again(lambda: look(tell, run, theatre, work, peer))
    os.makedirs(chosen.complete_out, exist_ok=True)
    with open(f"{chosen.complete_out}/profile.txt", "w") as file:
        file.write("\n".join(told) + "\n")
    print(f"written to {chosen.complete_out}/profile.txt")
