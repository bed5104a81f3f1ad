"""Measures pod-router and its peers side by side, in interleaved repetitions, and reports."""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time

from . import chart, machine, peers, profile, report, runtimes, scaling, stage, works

#: Where the README looks for the last full run.
RESULTS = "benches/results"

#: What a quick run warms up with: each way to a pod, and the lookup.
QUICK_WARM_UP = ["http", "handshake", "cold"]


def arguments():
    keys = [work.key for work in works.WORKS]
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description=__doc__,
        epilog="Each proxy has core 0 to itself; load, pods and Redis share core 1. CPU is user and system time of the "
        "proxy's whole process tree. Ratios are taken within a repetition, to nginx-lua, which does the same job; the "
        "table has medians, and the range of the ratios. Absolute figures differ from minute to minute by a third: only "
        "ratios of one run are findings.",
    )
    option = parser.add_argument
    option("--quick", action="store_true", help="three repetitions of one second: under four minutes")
    option("--only", metavar="WORK,…", type=names(keys), default=keys, help=f"of {', '.join(keys)}")
    everyone = peers.NAMES + peers.EXTRA
    option("--peers", metavar="PEER,…", type=names(everyone), help=f"ours, nginx-lua and these: of {', '.join(everyone)}")
    option("--reps", metavar="N", type=int, help="interleaved repetitions (5)")
    option("--seconds", metavar="S", type=float, help="time for each load (2)")
    option("--tunnels", metavar="N", type=int, default=5000, help="idle tunnels for the memory of one (5000)")
    option("--scaling", action="store_true", help="instead: how our cost grows with rooms, pods, tunnels, threads")
    option("--runtimes", action="store_true", help="instead: a runtime a core against one for all threads")
    option("--profile", action="store_true", help="instead: functions, system calls, allocations (http,cold or --only)")
    option("--binary", metavar="PATH", default="target/release/pod-router", help="measure this one, build none")
    option("--out", metavar="DIR", help=f"where the results go ({RESULTS}, but {stage.SCRATCH} unless all was measured)")
    chosen = parser.parse_args()
    wanted = {peers.OURS, peers.REFERENCE, *(chosen.peers or peers.NAMES)}
    chosen.peers = [name for name in everyone if name in wanted]
    full = not chosen.quick and chosen.only == keys and chosen.peers == peers.NAMES
    chosen.out = chosen.out or (RESULTS if full else stage.SCRATCH)
    chosen.reps = chosen.reps or (3 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (1 if chosen.quick else 2)
    chosen.works = [work for work in works.WORKS if work.key in chosen.only]
    return chosen


def names(known):
    """The argument type of a comma-separated list of `known` names."""

    def parse(text):
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return text.split(",")

    return parse


class Run:
    """What the works need to know."""

    def __init__(self, chosen):
        self.seconds, self.tunnels = chosen.seconds, chosen.tunnels
        self.cold_used = {}  # by peer, how many of the cold rooms it has seen
        self.cold_rooms = 0
        if chosen.scaling:
            self.cold_rooms = scaling.MOST_ROOMS
        elif "cold" in chosen.only and not chosen.runtimes:  # none serves more than so many a second
            self.cold_rooms = int((chosen.reps + 1) * max(1, chosen.seconds) * 80_000)


def attempt(work, run, peer):
    """Measures one work on one peer; a peer that fails at it ends the run."""
    try:
        return work.measure(run, peer)
    except (works.Failed, RuntimeError) as failure:
        sys.exit(f"{work.title}, {peer.name}: {failure}")


def warm(run, chosen, proxies):
    """Unmeasured: connections to pods, caches, Node's compiler."""
    seconds, run.seconds = run.seconds, 1
    load = [work for work in chosen.works if work.most is None and work.key != "latency"]
    if chosen.quick:
        load = [work for work in load if work.key in QUICK_WARM_UP] or load
    for work in load:
        for peer in filter(work.suits, proxies):
            attempt(work, run, peer)
    run.seconds = seconds


def measure(run, chosen, proxies):
    """All works on all peers: results[work][peer] is one value a repetition."""
    results = {work.key: {} for work in chosen.works}
    print(f"warming up {len(proxies)} proxies", flush=True)
    warm(run, chosen, proxies)
    started = time.monotonic()
    for repetition in range(chosen.reps):
        for work in chosen.works:
            if repetition >= work.repetitions(chosen):
                continue
            row = [peer for peer in proxies if work.suits(peer)]
            turn = repetition % len(row)
            for peer in row[turn:] + row[:turn]:
                results[work.key].setdefault(peer.name, []).append(attempt(work, run, peer))
            last = ", ".join(f"{peer.name} {results[work.key][peer.name][-1]:.1f}" for peer in row)
            at = f"{time.monotonic() - started:4.0f} s, repetition {repetition + 1} of {chosen.reps}"
            print(f"{at}: {work.title}, {work.unit}: {last}", flush=True)
    return results


def compare(run, chosen, theatre):
    proxies = [peer for peer in peers.all_peers(theatre, chosen.binary) if peer.name in chosen.peers]
    try:
        for peer in proxies:
            peer.start()
            peers.check(peer)
            print(f"{peer.name} routes rightly", flush=True)
        return measure(run, chosen, proxies)
    finally:
        machine.stop([peer.process for peer in proxies if peer.process])


def revision():
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def main():
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    run = Run(chosen)
    started = time.monotonic()
    with stage.Stage(run.cold_rooms) as theatre:
        if chosen.scaling:
            return scaling.main(chosen, theatre, run)
        if chosen.runtimes:
            return runtimes.main(chosen, run)
        if chosen.profile:
            return profile.main(chosen, run, theatre)
        results = compare(run, chosen, theatre)
    about = {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "versions": report.versions(chosen.peers),
        "repetitions": chosen.reps,
        "seconds": chosen.seconds,
    }
    os.makedirs(chosen.out, exist_ok=True)
    with open(f"{chosen.out}/results.json", "w") as file:
        file.write(report.as_json(results, chosen.works, about))
    with open(f"{chosen.out}/chart.svg", "w") as file:
        file.write(chart.draw(results, chosen.works, chosen.peers))
    print(f"\n{report.table(results, chosen.works, chosen.peers)}\n\n{report.footnotes(results)}")
    print(f"{about}; {time.monotonic() - started:.0f} s; written to {chosen.out}")


if __name__ == "__main__":
    main()
