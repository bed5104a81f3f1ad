"""How the router's own cost grows: with rooms, pods, tunnels, and threads.

Each row is the median CPU of a unit over the repetitions, of a router that was started for it. Every room is in the cache
before it is measured.
"""

import os
import statistics

from . import commandline, machine, peers, stage, works

PORT = 4200
MOST_ROOMS = 1_000_000
LONG = ["--cache-ttl=1h", "--cache-capacity=2000000"]


class Started:
    """A proxy on its core, or on several; `with` ends it."""

    def __init__(self, peer, core=machine.PROXY_CORE):
        self.peer, self.core = peer, core

    def __enter__(self):
        self.peer.start(self.core)
        return self.peer

    def __exit__(self, *_):
        self.peer.stop()


def router(chosen, **settings):
    return peers.ours(chosen.binary, PORT, more=LONG, **settings)


def request(chosen, peer, rooms, path=works.COLD, connections=32):
    """CPU of a request, over so many rooms at random."""
    load = {"order": "random", "rooms": rooms, "connections": connections}

    def once():
        return works.cost(peer, lambda: works.wrk(PORT, chosen.seconds, path, **load))

    return statistics.median(works.again(once) for _ in range(chosen.reps))


def warm(rooms, path=works.COLD):
    """Asks for every room once, and for no other."""
    asked = 0
    while asked < rooms:
        try:
            asked += works.wrk(PORT, 1, path, first=asked, rooms=rooms - asked)["done"]
        except works.Failed:
            pass  # Redis stalls for a moment on a core that is full of load: those rooms once more


def rest(chosen):
    with Started(peers.ours(chosen.binary, PORT)) as peer:
        peers.check(peer)
        figures = {"resident MB": machine.memory(peer.pid, "VmRSS"), "of it anonymous": machine.memory(peer.pid, "RssAnon")}
        yield "at rest", {name: size / 1e6 for name, size in figures.items()}


def rooms(chosen):
    for count in (10, 10_000, MOST_ROOMS):
        with Started(router(chosen)) as peer:
            warm(count)
            memory = machine.memory(peer.pid, "VmRSS") / 1e6
            yield f"{count:,} rooms in the cache", {"request": request(chosen, peer, count), "resident MB": memory}


def pods(chosen, theatre):
    """The pods are many by name; by address they are three, so that their own cost does not change."""
    ports = list(stage.HTTP_PODS.values())
    for count in (3, 100, 1000):
        theatre.fill_redis((f"room_of{count}_{n}", f"backend-{n % count}") for n in range(10_000))
        path = f"/api/room/room_of{count}_%d/state"
        with Started(router(chosen, pods={f"backend-{n}": ports[n % 3] for n in range(count)})) as peer:
            warm(10_000, path)
            yield f"{count:,} pods", {"request": request(chosen, peer, 10_000, path)}


def tunnels(chosen, run):
    """One message at a time, which goes over all of them in turn; and requests beside tunnels that are silent. The floor
    shows what of a message's growth is the kernel's."""

    def message(peer, count):
        def once():
            return works.messages(run, peer, count, in_flight=1)

        return statistics.median(works.again(once) for _ in range(chosen.reps))

    for count in (1, 1000, 9500):
        with Started(peers.floor()) as peer:
            floor = message(peer, count)
        with Started(router(chosen)) as peer:
            messages = {"message": message(peer, count), "the floor's message": floor}
            with works.Talking([stage.LOAD, "idle", peer.websocket, str(stage.ECHO_ROOMS), str(count)]):
                warm(10)
                yield f"{count:,} tunnels", messages | {"request": request(chosen, peer, 10)}


def worker_seconds(pid):
    """CPU seconds of each worker thread."""
    seconds = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as name, open(f"/proc/{pid}/task/{thread}/schedstat") as account:
            seconds[name.read().strip()] = int(account.read().split()[0]) / 1e9
    return {name: used for name, used in seconds.items() if name.startswith("worker-")}


def threads(chosen):
    """With two cores, the load takes a part of what the second thread could use: the cost of a request says what two
    threads carry where they have a core each (twice as much, at the same cost). The share is of the busiest thread."""
    for count in (1, 2):
        for connections in (8, 64):
            with Started(router(chosen, threads=count), core="0,1") as peer:
                warm(10)
                before = worker_seconds(peer.pid)
                each = request(chosen, peer, 10, connections=connections)
                used = [after - before[name] for name, after in worker_seconds(peer.pid).items()]
                share = 100 * max(used) / sum(used)
                yield f"{count} threads, {connections} connections", {"request": each, "busiest %": share}


def main(chosen, theatre, run):
    print("| | µs CPU |\n|---|---|")
    with commandline.Rows(chosen, "scaling.json") as found:
        for rows in (rest(chosen), rooms(chosen), pods(chosen, theatre), tunnels(chosen, run), threads(chosen)):
            for what, figures in rows:
                found[what] = figures
                shown = ", ".join(f"{name} {figure:.1f}" for name, figure in figures.items())
                print(f"| {what} | {shown} |", flush=True)
