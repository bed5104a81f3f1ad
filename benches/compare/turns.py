"""Loads on several proxies by turns of a tenth of a second: what slows the machine for a moment slows all of them alike.

Each proxy has a load generator of its own, and all but one are stopped (SIGSTOP). Load after load would compare minutes: on a
machine whose host has other guests, a core's speed differs by half from one second to the next.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time

from . import machine

#: Seconds of a turn: many for each load, and long beside what it takes to warm the caches again.
TURN = 0.1
#: Within that, until all threads of the load are awake: before, one of them might take a signal that is for another.
AWAKE = 0.01
#: After it, until the proxy has done what it was asked for: not in another's turn.
SETTLED = 0.003


class Failed(RuntimeError):
    """The load was not served as it should be, so its cost means nothing. `asked`: how many were asked for all the same."""

    asked = 0


class Measured(float):
    """The value of one repetition; `details` are further figures of the same load, by name. `disturbed`: the machine did
    something else as well. `failed_first`: why a first attempt was none, if there was one."""

    disturbed = False
    failed_first = None

    def __new__(cls, value, **details):
        measured = super().__new__(cls, value)
        measured.details = details
        return measured


def served(text):
    """The load's own account, its last line. Nothing may have failed."""
    outcome = json.loads((text.splitlines() or ["no account"])[-1])
    if outcome.get("failed") or not outcome["done"]:
        failed = Failed(f"failed or not served: {outcome}")
        failed.asked = outcome["done"] + outcome.get("failed", 0)
        raise failed
    return outcome


class Load:
    """A running load generator, stopped but in its turns. It has to end at SIGINT, with an account of what was done."""

    def __init__(self, peer, process, counter=None):
        self.peer, self.process, self.counter = peer, process, counter
        self.seconds, self.counted = 0.0, 0
        self.before = machine.cpu_seconds(peer.pid)
        process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def turn(self):
        """It runs, for a time that is noted."""
        count = self.counter or (lambda: 0)
        counted, began = count(), time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        time.sleep(AWAKE)
        yield
        self.process.send_signal(signal.SIGSTOP)
        self.seconds += time.monotonic() - began
        time.sleep(SETTLED)
        self.counted += count() - counted

    def interrupt(self):
        """What it says in the end. wrk's first thread has to hear it, and that is not always the one that does."""
        for _ in range(100):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.communicate(timeout=0.3)
        raise Failed("the load did not end")

    def end(self):
        """CPU microseconds per unit, or why there is no such figure: all that the proxy has spent since the load began, also
        between its turns. `busy` is how much of its core it used."""
        try:
            with self.turn():
                said, complaint = self.interrupt()
            spent = machine.cpu_seconds(self.peer.pid) - self.before
            done = served(said)["done"]
        except Failed as failure:
            return failure
        except (ValueError, LookupError):
            return Failed(f"no account of what was done: {complaint.strip() or said.strip()}")
        busy = min(1.0, spent / self.seconds)
        details = {"counted": self.counted / done} if self.counter else {}
        return Measured(spent * 1e6 / done, done=done, rate=done / self.seconds, busy=busy, **details)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def start(command):
    """A load generator on the core of the load."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return machine.start(machine.LOAD_CORE, command, **pipes)


def measure(seconds, peers, begin, counter=None):
    """What a unit costs each of `peers`, by name, under the loads that `begin(peer)` starts: `seconds` for each, by turns.
    `counter()` grows by what the details have as `counted`, a unit."""
    results = {}
    with contextlib.ExitStack() as stack:
        loads = []
        for peer in peers:
            try:
                loads.append(stack.enter_context(Load(peer, begin(peer), counter)))
            except (Failed, OSError) as failure:
                results[peer.name] = Failed(f"{failure}")
        rounds = max(1, round(seconds / TURN)) if len(loads) > 1 else 1
        for _ in range(rounds):
            # Nobody always comes after the same one, and finds the processor's caches as that has left them.
            for load in random.sample(loads, len(loads)):
                with load.turn():
                    time.sleep(max(0, seconds / rounds - AWAKE))
        for load in loads:
            results[load.peer.name] = load.end()
    return results


def whole(results):
    """The results, if none is a failure."""
    for result in results.values():
        if isinstance(result, Failed):
            raise result
    return results


def only(results):
    """The one result, if it is none."""
    (result,) = whole(results).values()
    return result
