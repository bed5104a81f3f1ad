"""What else the machine did while something was measured, so that a disturbed figure is not taken for a quiet one.

Three things disturb: CPU time that the hypervisor gave to others (steal), CPU time of processes that are none of the
comparison's, and a core that is slower than before, for what its sibling or the host does. CPU time is what is compared, so the
first two are not counted for a proxy, but they evict its caches and delay its load; the third is counted.
"""

import os
import time

from . import machine

#: Above these a figure is marked: steal and others together, as a share of all cores' time; how much slower the core was.
LIMIT, SLOWER = 0.05, 0.2


class Watch:
    """Watches during `with`; then `steal` and `others` are shares of all cores' time, and `slower` says by how much the
    proxies' core was slower than at its quickest so far, 0.1 being a tenth."""

    quickest = float("inf")

    def __enter__(self):
        self.steal = self.others = self.slower = 0.0
        self.pace = pace()
        self.before = reading()
        return self

    def __exit__(self, *_):
        self.steal, self.others = shares(self.before, reading())
        paces = (self.pace, pace())
        Watch.quickest = min(Watch.quickest, *paces)
        self.slower = sum(paces) / 2 / Watch.quickest - 1

    def figures(self):
        return {"steal": self.steal, "others": self.others, "slower": self.slower}


def pace():
    """CPU seconds of a fixed piece of arithmetic on the proxies' core, at the best of three."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {machine.PROXY_CORE})
    took = []
    for _ in range(3):
        began = time.thread_time()
        sum(number * number for number in range(50_000))
        took.append(time.thread_time() - began)
    os.sched_setaffinity(0, allowed)
    return min(took)


def reading():
    """Seconds: all cores' time so far, of it stolen, of it busy, and of that our own."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    user, nice, system, idle, wait, interrupts, softirqs, steal = (count / os.sysconf("SC_CLK_TCK") for count in ticks)
    busy = user + nice + system + interrupts + softirqs
    return busy + idle + wait + steal, steal, busy, own_seconds()


def own_seconds():
    """CPU time of what this program has started: it sees nothing else, being in a process namespace of its own."""
    ended = os.times()
    total = ended.children_user + ended.children_system
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            total += time.clock_gettime(machine.cpu_clock(int(process)))
        except OSError:
            pass  # it has just ended
    return total


def shares(before, after):
    """Steal and others as shares of the time between two readings."""
    whole, steal, busy, own = (later - earlier for earlier, later in zip(before, after))
    if whole <= 0:
        return 0.0, 0.0
    return steal / whole, max(0.0, (busy - own) / whole)


def is_disturbed(steal, others, slower):
    return steal + others > LIMIT or slower > SLOWER
