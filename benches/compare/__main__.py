"""Measures pod-router and its peers side by side, in interleaved repetitions, and reports."""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time

from . import machine, peers, report, scaling, soak, stage, works

LOAD = "target/release/examples/load"
FLOOR = "target/release/examples/floor"


def arguments():
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__)
    keys = [work.key for work in works.WORKS]
    parser.add_argument("--quick", action="store_true", help="two repetitions of one second: under four minutes")
    parser.add_argument("--only", metavar="WORK,…", help=f"only these works: {', '.join(keys)}")
    parser.add_argument("--peers", metavar="PEER,…", help="only these peers; nginx-lua is always measured")
    parser.add_argument("--reps", type=int, help="interleaved repetitions (5)")
    parser.add_argument("--seconds", type=float, help="time for each load (2)")
    parser.add_argument("--tunnels", type=int, default=5000, help="idle tunnels for the memory of one (5000)")
    parser.add_argument("--scaling", action="store_true", help="instead: how our cost grows with rooms, pods, tunnels, threads")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="instead: mixed traffic for so long; fails if something grows")
    parser.add_argument("--binary", default="target/release/pod-router", help="the router to measure")
    parser.add_argument("--out", metavar="DIR", help="where to write results.json and chart.svg (target/benches)")
    chosen = parser.parse_args()
    chosen.reps = chosen.reps or (2 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (1 if chosen.quick else 2)
    chosen.works = [work for work in works.WORKS if not chosen.only or work.key in chosen.only.split(",")]
    return chosen


class Run:
    """What the works need to know."""

    def __init__(self, chosen):
        self.seconds, self.tunnels, self.load = chosen.seconds, chosen.tunnels, LOAD
        self.cold_used = 0
        room_users = 3 * (chosen.reps + 1)
        asks = any(work.key == "cold" for work in chosen.works)
        self.cold_rooms = 1_000_000 if chosen.scaling or chosen.soak else int(room_users * chosen.seconds * 45_000) if asks else 0


def attempt(work, run, peer):
    """Measures one work on one peer; a peer that fails at it ends the run."""
    try:
        return work.measure(run, peer)
    except works.Failed as failure:
        sys.exit(f"{work.title}, {peer.name}: {failure}")


def measure(run, chosen, proxies):
    """All works on all peers: results[work][peer] is one value a repetition."""
    results = {}
    for work in chosen.works:
        able = [peer for peer in proxies if work.suits(peer)]
        once = work.key == "tunnel"
        if not once:
            for peer in able:  # unmeasured: connections to pods, caches, node's compiler
                attempt(work, run, peer)
        for repetition in range(1 if once else chosen.reps):
            turn = repetition % len(able)
            for peer in able[turn:] + able[:turn]:
                value = attempt(work, run, peer)
                results.setdefault(work.key, {}).setdefault(peer.name, []).append(value)
                print(f"{work.title} #{repetition + 1}: {peer.name} {value:.2f} {work.unit}", flush=True)
    return results


def revision():
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def main():
    chosen = arguments()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Tens of thousands of short connections a second leave as many waiting ports behind.
    for setting in ["net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=10000 65000"]:
        subprocess.run(["sysctl", "-qw", setting], check=True)
    run = Run(chosen)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pod-router-bench-") as directory:
        os.chmod(directory, 0o755)  # nginx's workers are another user
        with stage.Stage(directory, LOAD, run.cold_rooms) as theatre:
            if chosen.scaling:
                return scaling.main(chosen, LOAD, theatre)
            if chosen.soak:
                return soak.main(run, chosen, LOAD, theatre)
            proxies = peers.all_peers(theatre, chosen.binary, FLOOR)
            if chosen.peers:
                wanted = {peers.OURS, peers.REFERENCE, *chosen.peers.split(",")}
                proxies = [peer for peer in proxies if peer.name in wanted]
            started_peers = []
            try:
                for peer in proxies:
                    peer.start()
                    started_peers.append(peer)
                    peers.check(peer, LOAD)
                results = measure(run, chosen, proxies)
            finally:
                for peer in started_peers:
                    peer.stop()
    names = [peer.name for peer in proxies]
    about = {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
        "repetitions": chosen.reps,
        "seconds": chosen.seconds,
    }
    out = chosen.out or "target/benches"
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/results.json", "w") as file:
        file.write(report.as_json(results, chosen.works, about))
    with open(f"{out}/chart.svg", "w") as file:
        file.write(report.chart(results, chosen.works, names))
    print(f"\n{report.table(results, chosen.works, names)}\n\n{about}; {time.monotonic() - started:.0f} s; {out}/results.json")


if __name__ == "__main__":
    sys.exit(main())
