"""Measures pod-router and its peers side by side, in interleaved repetitions, and reports."""

import os
import time

from . import chart, commandline, disturbance, machine, peers, profile, report, runtimes, scaling, stage, turns, works

#: What a quick run warms up with: each way to a pod, and the lookup.
QUICK_WARM_UP = ["http", "handshake", "cold"]

#: Without these there is no comparison.
NEEDED = (peers.OURS, peers.REFERENCE)

#: Seconds after which a quick run starts no other load, so that it ends in four minutes on a busy machine as well.
QUICK = 215


def arguments():
    keys = [work.key for work in works.WORKS]
    parser = commandline.Parser(
        prog="benches/run",
        description=__doc__,
        epilog="Each proxy has core 0 to itself; load, pods and Redis share core 1. CPU is user and system time of the "
        "proxy's whole process tree. In a repetition the proxies take turns of a tenth of a second under their load, so that "
        "what slows the machine slows all alike. Ratios are taken within a repetition, to nginx-lua, which does the same "
        "job; the table has medians, and the range of the ratios. Absolute figures differ from minute to minute by half: "
        "only ratios of one run are findings. A load that fails is tried once more, and then marked; what was measured is "
        "written however the run ends.",
    )
    option, number = parser.add_argument, commandline.number
    option("--quick", action="store_true", help="three repetitions of one second: under four minutes")
    option("--only", metavar="WORK,…", type=commandline.names(keys), default=keys, help=f"of {', '.join(keys)}")
    everyone = peers.NAMES + peers.EXTRA
    some = commandline.names(everyone)
    option("--peers", metavar="PEER,…", type=some, help=f"ours, nginx-lua and these: of {', '.join(everyone)}")
    option("--reps", metavar="N", type=number(1, int), help="interleaved repetitions (5)")
    option("--seconds", metavar="S", type=number(0.1, float), help="time for each load (2)")
    tunnels = number(1, int, 9500)
    option("--tunnels", metavar="N", type=tunnels, default=5000, help="idle tunnels for the memory of one (5000)")
    talking = {"type": tunnels, "default": works.TALKING, "metavar": "N"}
    option("--talking", **talking, help=f"tunnels that messages go over, {works.SPEAKING} at a time ({works.TALKING:,})")
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--scaling", action="store_true", help="instead: how our cost grows with rooms, pods, tunnels, threads")
    instead("--runtimes", action="store_true", help="instead: a runtime a core against one for all threads")
    instead("--profile", action="store_true", help=f"instead: functions, system calls, allocations ({','.join(profile.USUAL)} or --only)")
    results = commandline.RESULTS
    option("--out", metavar="DIR", type=commandline.directory, help=f"where the results go ({results}, but {stage.SCRATCH} unless all was measured)")
    chosen = parser.chosen()
    wanted = {peers.OURS, peers.REFERENCE, *(chosen.peers or peers.NAMES)}
    chosen.peers = [name for name in everyone if name in wanted]
    chosen.reps = chosen.reps or (3 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (1 if chosen.quick else 2)
    chosen.works = [work for work in works.WORKS if work.key in chosen.only]
    if chosen.only != keys and (chosen.scaling or chosen.runtimes):
        parser.error("--only goes with the comparison and with --profile")
    if chosen.profile and chosen.only != keys and not set(chosen.only) <= set(profile.KEYS):
        parser.error(f"--profile: there are {', '.join(profile.KEYS)}")
    usual = chosen.only == keys and chosen.peers == peers.NAMES and chosen.talking == works.TALKING
    everything = usual and chosen.reps >= 5 and chosen.seconds >= 2
    default = results if everything else stage.SCRATCH
    chosen.complete_out, chosen.out = chosen.out or default, chosen.out or stage.SCRATCH
    return chosen


class Run:
    """What the works need to know."""

    def __init__(self, chosen):
        self.seconds, self.tunnels, self.talking = chosen.seconds, chosen.tunnels, chosen.talking
        self.cold_used = {}  # by peer, how many of the cold rooms it has seen
        self.started = time.monotonic()
        self.cold_rooms = 0
        if chosen.scaling:
            self.cold_rooms = scaling.MOST_ROOMS
        elif "cold" in chosen.only and not chosen.runtimes:
            # None serves more a second. One more repetition to warm up, and one for what is tried again.
            self.cold_rooms = int((chosen.reps + 2) * max(1, chosen.seconds) * 80_000)


def attempt(work, run, row):
    """Measures one work on all peers of a row, by turns; all again if one fails, which is noted with what failed. By name: the
    value, or why it failed both times."""
    failed_first = {}
    for again in (False, True):
        with disturbance.Watch() as watch:
            try:
                for peer in row:
                    if peer.process.poll() is not None:
                        peer.start()
                found = work.measure(run, row)
            except (RuntimeError, OSError, ValueError, LookupError) as error:
                found = {peer.name: turns.Failed(f"{error}" or type(error).__name__) for peer in row}
        failed = {name: value for name, value in found.items() if isinstance(value, turns.Failed)}
        for name, failure in failed.items():
            print(f"{work.title}, {name}: {failure}: {'marked as failed' if again else 'all once more'}", flush=True)
        if not failed:
            break
        failed_first = failed_first or failed
    for name, value in found.items():
        if isinstance(value, turns.Measured):
            value.failed_first = f"{failed_first[name]}" if name in failed_first else None
            value.details |= watch.figures()
            value.disturbed = disturbance.is_disturbed(**watch.figures())
    return found


def warm(run, chosen, proxies):
    """Unmeasured: connections to pods, caches, Node's compiler."""
    seconds, run.seconds = run.seconds, 1
    load = [work for work in chosen.works if work.most is None and work.key != "latency"]
    if chosen.quick:
        load = [work for work in load if work.key in QUICK_WARM_UP] or load
    for work in load:
        attempt(work, run, [peer for peer in proxies if work.suits(peer)])
    run.seconds = seconds


def measure(run, chosen, theatre, proxies, results):
    """All works on all peers: results[work][peer] gets one value a repetition. Whether all was measured that has to be."""
    print(f"warming up {len(proxies)} proxies", flush=True)
    warm(run, chosen, proxies)
    started, complete = time.monotonic(), True
    for repetition in range(chosen.reps):
        for work in chosen.works:
            if repetition >= work.repetitions(chosen):
                continue
            if chosen.quick and time.monotonic() > run.started + QUICK:
                print(f"{QUICK} s are over: what is left of repetition {repetition + 1} is left out", flush=True)
                return False
            row = [peer for peer in proxies if work.suits(peer)]
            cells, found = results.setdefault(work.key, {}), attempt(work, run, row)
            theatre.check()
            for peer in row:
                cells.setdefault(peer.name, []).append(found[peer.name])
                complete &= peer.name not in NEEDED or not isinstance(found[peer.name], turns.Failed)
            at = f"{time.monotonic() - started:4.0f} s, repetition {repetition + 1} of {chosen.reps}"
            print(f"{at}: {work.title}, {work.unit}: {progress(found)}", flush=True)
    return complete


def progress(found):
    """A row's values, and what disturbed it."""
    measured = [value for value in found.values() if isinstance(value, turns.Measured)]
    shares = [f"{name} {measured[0].details[name]:.0%}" for name in ("steal", "others", "slower")] if measured else []
    disturbed = f" (disturbed: {', '.join(shares)})" if any(value.disturbed for value in measured) else ""
    each = (f"{name} {value:.1f}" if value in measured else f"{name} failed" for name, value in found.items())
    return ", ".join(each) + disturbed


def admit(peer):
    """Starts a peer, and proves that it routes rightly, in two attempts. Whether it does; ours and the reference have to."""
    for again in (False, True):
        try:
            peer.start()
            peers.check(peer)
            print(f"{peer.name} routes rightly", flush=True)
            return True
        except (RuntimeError, OSError) as error:
            machine.stop([peer.process])
            if again and peer.name in NEEDED:
                raise RuntimeError(f"{peer.name}: {error}") from None
            print(f"{peer.name}: {error}: {'it is left out' if again else 'once more'}", flush=True)
    return False


def compare(run, chosen, theatre, results):
    proxies = [peer for peer in peers.all_peers(theatre, chosen.binary) if peer.name in chosen.peers]
    try:
        admitted = [peer for peer in proxies if admit(peer)]
        return measure(run, chosen, theatre, admitted, results) and admitted == proxies
    finally:
        machine.stop([peer.process for peer in proxies])


def write(chosen, results, about):
    print(f"\n{report.table(results, chosen.works, chosen.peers)}\n\n{report.footnotes(results)}\n\n{report.origin(about)}")
    out = chosen.complete_out if about["complete"] else chosen.out
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/results.json", "w") as file:
        file.write(report.as_json(results, chosen.works, about))
    with open(f"{out}/chart.svg", "w") as file:
        file.write(chart.draw(results, chosen.works, chosen.peers))
    print(f"written to {out}")


def side_by_side(chosen, run):
    """The comparison; whatever ends it, what was measured until then is written."""
    results, complete, watch, before = {}, False, disturbance.Watch(), os.getloadavg()[0]
    print(f"load average {before:.1f}", flush=True)
    try:
        with stage.Stage(run.cold_rooms) as theatre, watch:
            complete = compare(run, chosen, theatre, results)
    finally:
        if any(results.values()):
            measured = {"repetitions": chosen.reps, "seconds": chosen.seconds, "complete": complete}
            machine_was = {"loadAverage": [before, os.getloadavg()[0]], **watch.figures()}
            versions = {"versions": report.versions(chosen.peers)}
            write(chosen, results, commandline.origin(chosen.binary) | versions | measured | machine_was)
    print(f"{time.monotonic() - run.started:.0f} s")
    if not complete and not chosen.quick:
        raise RuntimeError("not all was measured: see above")


def main():
    chosen = arguments()
    run = Run(chosen)
    if not (chosen.scaling or chosen.runtimes or chosen.profile):
        return side_by_side(chosen, run)
    with stage.Stage(run.cold_rooms) as theatre:
        if chosen.scaling:
            scaling.main(chosen, theatre, run)
        elif chosen.runtimes:
            runtimes.main(chosen, run)
        else:
            profile.main(chosen, run, theatre)


if __name__ == "__main__":
    commandline.run(main)
