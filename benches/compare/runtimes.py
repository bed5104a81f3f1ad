"""A runtime a core against one runtime for all threads: the same work on both, which is why pod-router is built the one way.

Both proxies run throughout, and are measured by turns. With two threads the proxy has both cores,
and shares one of them with load and pods.
"""

import contextlib
import json
import os
import statistics

from . import commandline, machine, peers, scaling, turns, works

PORTS = {"cores": 4210, "shared": 4220}

#: What is done: requests of so many clients, new connections, steady rates.
FORWARD = ["8 connections", "64 connections", "a connection each", "latency"]
RELAY = ["8 connections", "64 connections", "messages", "latency"]


def proxy(runtime, work, threads):
    """The floor on a runtime: `work` is "relay", or "http", which carries no WebSocket."""
    return peers.floor(runtime, PORTS[runtime], [runtime, str(threads), work])


def switches(pid):
    """How often the process's threads went to sleep of themselves."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return total


def measure(run, pair, what):
    """Figures of one repetition, by proxy and name."""
    if what == "latency":
        found = works.steady(run.seconds, [peer.port for peer in pair])
        return {peer.name: {"p50": it["p50"], "p99": it["p99"]} for peer, it in zip(pair, found) if turns.served(json.dumps(it))}
    used = {peer.name: (scaling.worker_seconds(peer.pid), switches(peer.pid)) for peer in pair}
    if what == "messages":
        costs = works.messages(run, pair)
    else:
        fields = ["Connection: close"] if what == "a connection each" else []
        connections = 8 if what == "8 connections" else 64
        costs = works.requests(works.STATE, fields=fields, connections=connections)(run, pair)
    costs, found = turns.whole(costs), {}
    for peer in pair:
        cost, (before, slept) = costs[peer.name], used[peer.name]
        spent = [after - before.get(name, 0) for name, after in scaling.worker_seconds(peer.pid).items()]
        sleeps = (switches(peer.pid) - slept) / cost.details["done"]
        found[peer.name] = {"µs CPU": cost, "sleeps": sleeps, "busiest %": 100 * max(spent) / sum(spent)}
    return found


def row(run, reps, pair, what):
    """Medians of each proxy's figures, and of the ratio of the first figure within a repetition, with its range."""
    found = [works.again(lambda: measure(run, pair, what)) for _ in range(reps)]
    names = found[0]["cores"]
    medians = {who: {name: statistics.median(one[who][name] for one in found) for name in names} for who in PORTS}
    first = next(iter(names))
    ratios = [one["shared"][first] / one["cores"][first] for one in found]
    return medians | {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}


def main(chosen, run):
    print("| | a runtime a core | one runtime | ratio |\n|---|---|---|---|")
    with commandline.Rows(chosen, "runtimes.json") as found:
        for threads, core in [(1, str(machine.PROXY_CORE)), (2, f"{machine.PROXY_CORE},{machine.LOAD_CORE}")]:
            for work, kinds in [("http", FORWARD), ("relay", RELAY)]:
                with contextlib.ExitStack() as stack:
                    pair = scaling.started(stack, (proxy(runtime, work, threads) for runtime in PORTS), core)
                    for what in kinds:
                        title = f"{work}, {threads} thread{'s' * (threads > 1)}, {what}"
                        found[title] = row(run, chosen.reps, pair, what)
                        print(line(title, found[title]), flush=True)


def line(title, result):
    """A row of the table."""
    low, high = result["spread"]
    ratio = f"{result['ratio']:.2f}× ({low:.2f}–{high:.2f})"
    return f"| {title} | {text(result['cores'])} | {text(result['shared'])} | {ratio} |"


def text(figures):
    return ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
