"""How the router's own cost grows: with rooms, pods, tunnels, and threads."""

import json
import os
import statistics
import subprocess

from . import machine, peers, stage, works

PORT = 4200
#: Any room of the ones that are written for this, at random.
ANY_ROOM = "/api/room/room_cold'..math.random(0, {last})..'/state"
#: Each of them in its turn.
NEXT_ROOM = "/api/room/room_cold'..(n % {count})..'/state"
LONG = ["--cache-ttl=1h", "--cache-capacity=2000000"]


def cost(chosen, peer, path=works.STATE, connections=32):
    """The median CPU of a request."""
    load = lambda: works.wrk(peer.port, chosen.seconds, path, connections=connections)
    return statistics.median(works.cost(peer, load) for _ in range(chosen.reps))


def warm(peer, rooms):
    """Asks for every room once."""
    asked = 0
    while asked < rooms:
        try:
            asked += works.wrk(peer.port, 2, NEXT_ROOM.format(count=rooms), start=asked - 1)
        except works.Failed:
            pass  # a Redis that stalls for a moment, on a core that is full of load: those rooms once more


class Started:
    """A router with these settings; `with` ends it."""

    def __init__(self, chosen, core=machine.PROXY_CORE, **settings):
        self.core, self.peer = core, peers.ours(chosen.binary, PORT, more=LONG, **settings)

    def __enter__(self):
        self.peer.start(self.core)
        return self.peer

    def __exit__(self, *_):
        self.peer.stop()


def rooms(chosen):
    for count in (10, 10_000, 1_000_000):
        with Started(chosen) as peer:
            warm(peer, count)
            memory = machine.resident_bytes(peer.pid) / 1e6
            each = cost(chosen, peer, ANY_ROOM.format(last=count - 1))
            yield f"{count:,} rooms in the cache", f"{each:.1f} µs a request, {memory:.0f} MB resident"


def pods(chosen, theatre):
    ports = list(stage.HTTP_PODS.values())
    for count in (3, 100, 1000):
        theatre.fill_redis((f"room_cold{n}", f"backend-{n % count}") for n in range(10_000))
        names = {f"backend-{n}": ports[n % 3] for n in range(count)}
        with Started(chosen, pods=names) as peer:
            warm(peer, 10_000)
            yield f"{count:,} pods", f"{cost(chosen, peer, ANY_ROOM.format(last=9_999)):.1f} µs a request"


def tunnels(chosen, load):
    for count in (1, 1000, 9500):
        with Started(chosen) as peer:
            command = [load, "idle", f"127.0.0.1:{PORT}", str(stage.ECHO_ROOMS), str(count)]
            clients = machine.start(machine.LOAD_CORE, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                if not clients.stdout.readline():
                    raise works.Failed("the tunnels could not be opened")
                yield f"{count:,} idle tunnels", f"{cost(chosen, peer):.1f} µs a request"
            finally:
                clients.communicate()


def worker_seconds(pid):
    """CPU seconds of each worker thread."""
    seconds = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as name, open(f"/proc/{pid}/task/{thread}/schedstat") as account:
            seconds[name.read().strip()] = int(account.read().split()[0]) / 1e9
    return {name: used for name, used in seconds.items() if name.startswith("worker-")}


def threads(chosen):
    """With two cores, the load takes a part of what the second thread could use: the cost of a request says what two
    threads carry where they have a core each (twice as much, at the same cost)."""
    for count in (1, 2):
        for connections in (8, 64):
            with Started(chosen, core="0,1", threads=count) as peer:
                works.wrk(PORT, 1, works.STATE, connections=connections)
                before = worker_seconds(peer.pid)
                each = cost(chosen, peer, connections=connections)
                used = [after - before[name] for name, after in sorted(worker_seconds(peer.pid).items())]
                shares = " : ".join(f"{100 * share / sum(used):.0f} %" for share in used)
                yield f"{count} threads, {connections} connections", f"{each:.1f} µs a request, work shared {shares}"


def main(chosen, load, theatre):
    for rows in (rooms(chosen), pods(chosen, theatre), tunnels(chosen, load), threads(chosen)):
        for what, figure in rows:
            print(f"| {what} | {figure} |", flush=True)
    print(json.dumps({"seconds": chosen.seconds, "repetitions": chosen.reps}))
