"""A runtime a core against one runtime for all threads: the same work on both, which is why pod-router is built the one way.

Both proxies run throughout; a repetition measures one right after the other. With two threads the proxy has both cores,
and shares one of them with load and pods.
"""

import os
import statistics

from . import commandline, machine, peers, scaling, works

PORTS = {"cores": 4210, "shared": 4220}

#: What is done: requests of so many clients, new connections, steady rates.
FORWARD = ["8 connections", "64 connections", "a connection each", "latency"]
RELAY = ["8 connections", "64 connections", "messages", "latency"]


def proxy(runtime, work, threads):
    """The floor on a runtime: `work` is "relay", or "http", which carries no WebSocket."""
    return peers.floor(f"{work}, {runtime}", PORTS[runtime], [runtime, str(threads), work])


def switches(pid):
    """How often the process's threads went to sleep of themselves."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return total


def measure(run, peer, what):
    """Figures of one repetition, by name."""
    if what == "latency":
        found = works.latency_at(run, peer.port)
        return {"p50": found["p50"], "p99": found["p99"]}
    used, slept = scaling.worker_seconds(peer.pid), switches(peer.pid)
    if what == "messages":
        cost = works.messages(run, peer)
    else:
        fields = ["Connection: close"] if what == "a connection each" else []
        connections = 8 if what == "8 connections" else 64
        cost = works.cost(peer, lambda: works.wrk(peer.port, run.seconds, works.STATE, fields, connections=connections))
    used = [after - used.get(name, 0) for name, after in scaling.worker_seconds(peer.pid).items()]
    share = 100 * max(used) / sum(used)
    return {"µs CPU": cost, "sleeps": (switches(peer.pid) - slept) / cost.details["done"], "busiest %": share}


def row(run, reps, pair, what):
    """Medians of each proxy's figures, and of the ratio of the first figure within a repetition, with its range."""
    found = {name: [] for name in pair}
    for repetition in range(reps):
        names = list(pair) if repetition % 2 else list(pair)[::-1]
        for name in names:
            found[name].append(works.again(lambda name=name: measure(run, pair[name], what)))
    medians = {name: {key: statistics.median(one[key] for one in all) for key in all[0]} for name, all in found.items()}
    first = next(iter(medians["cores"]))
    ratios = [shared[first] / cores[first] for shared, cores in zip(found["shared"], found["cores"])]
    return medians | {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}


def main(chosen, run):
    print("| | a runtime a core | one runtime | ratio |\n|---|---|---|---|")
    with commandline.Rows(chosen, "runtimes.json") as found:
        for threads, core in [(1, str(machine.PROXY_CORE)), (2, f"{machine.PROXY_CORE},{machine.LOAD_CORE}")]:
            for work, kinds in [("http", FORWARD), ("relay", RELAY)]:
                pair = {runtime: proxy(runtime, work, threads) for runtime in PORTS}
                with scaling.Started(pair["cores"], core), scaling.Started(pair["shared"], core):
                    for what in kinds:
                        title = f"{work}, {threads} thread{'s' * (threads > 1)}, {what}"
                        found[title] = result = row(run, chosen.reps, pair, what)
                        low, high = result["spread"]
                        ratio = f"{result['ratio']:.2f}× ({low:.2f}–{high:.2f})"
                        print(f"| {title} | {text(result['cores'])} | {text(result['shared'])} | {ratio} |", flush=True)


def text(figures):
    return ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
