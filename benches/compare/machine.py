"""Processes: where they run, what they have cost, how they end.

The proxy that is measured has one core, everything else the other.
"""

import os
import subprocess
import time

PROXY_CORE = 0
LOAD_CORE = 1


def start(core, command, **options):
    """Starts `command` on a core (or on several: "0,1")."""
    return subprocess.Popen(["taskset", "-c", str(core), *command], **options)


def run(command, core=LOAD_CORE, timeout=120):
    """Runs `command` on a core to its end and gives its standard output."""
    try:
        done = subprocess.run(["taskset", "-c", str(core), *command], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command[:3])}: not done after {timeout} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def tree(pid):
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as children:
                found.extend(int(child) for child in children.read().split())
        except OSError:
            pass
    return found


def cpu_seconds(pid):
    """CPU time of the process tree so far, user and system, of threads that have ended as well.

    It is the process's CPU clock, in nanoseconds: the ticks of /proc/PID/stat are sampled, and
    wrong at low rates.
    """
    return sum(time.clock_gettime(cpu_clock(process)) for process in tree(pid))


def cpu_clock(pid):
    """The clock of clock_getcpuclockid(3)."""
    return (~pid << 3) | 2


def memory(pid, field):
    """Bytes of a field of /proc/PID/status over the process tree: RssAnon is memory that no file stands behind."""
    total = 0
    for process in tree(pid):
        with open(f"/proc/{process}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))
    return total * 1024


def wait_for(condition, what, seconds=20):
    """Waits until `condition()` holds; an operating system's error means not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


def stop(processes):
    """Ends what this program started, and nothing else. What never started is None."""
    processes = [process for process in processes if process]
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
