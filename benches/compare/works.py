"""What is measured: each work loads a proxy for a while and says what a unit of it cost."""

import json

from . import machine, peers, stage, turns
from .turns import Failed, Measured, served

WALK = "benches/compare/walk.lua"

#: At a time, of requests and of handshakes alike: with half as many a light proxy waits for its load.
CLIENTS = 32


class Work:
    """One row of the table. `goal` and `first_step` are ratios to the reference, or absolute where `absolute`."""

    def __init__(self, key, title, unit, goal, first_step, measure, needs_rooms=False, absolute=False, most=None):
        self.key, self.title, self.unit = key, title, unit
        self.goal, self.first_step = goal, first_step
        self.measure, self.needs_rooms, self.absolute = measure, needs_rooms, absolute
        self.most = most  # repetitions, where more would tell nothing

    def repetitions(self, chosen):
        """How often it is measured."""
        if self.most is None:
            return chosen.reps
        return 1 if chosen.quick else min(self.most, chosen.reps)

    def suits(self, peer):
        """Whether the peer does this work at all."""
        # To dial a pod for every connection is another work.
        dials = peer.dials and self.key == "connection"
        return (peer.knows_rooms or not self.needs_rooms) and not dials


def again(measure):
    """What `measure()` gives, in a second attempt if the first fails."""
    try:
        return measure()
    except RuntimeError as failure:
        print(f"{failure}: once more", flush=True)
        return measure()


def wrk(port, path, fields=(), order="turn", first=0, rooms=stage.ROOMS, connections=CLIENTS, seconds=3600):
    """The command for requests over keep-alive connections, unless a field says otherwise. A pause is no timeout."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", WALK, f"http://127.0.0.1:{port}"]
    return [*command, "--", path, order, str(first), str(rooms), *fields]


def asked(port, seconds, path, **more):
    """What came of such requests for some whole seconds."""
    return served(machine.run(wrk(port, path, seconds=seconds, **more)))


#: If the median latency is more, in microseconds, requests queue: a figure of the queue, not of the proxy.
QUEUED = 20_000

STATE, COLD, BODY = "/api/room/room_%d/state", "/api/room/room_cold%d/state", "/api/room/room_%d/64k"


def requests(path, **more):
    """The work of such requests."""
    return lambda run, row: turns.measure(run.seconds, row, lambda peer: turns.start(wrk(peer.port, path, **more)))


def cold(run, row):
    """Each request names a room that this proxy has not seen before; by Redis's own count each was looked up."""

    def begin(peer):
        first = run.cold_used.get(peer.name, 0)
        return turns.start(wrk(peer.port, COLD, first=first, rooms=run.cold_rooms))

    results = turns.measure(run.seconds, row, begin, counter=stage.redis_hits)
    for name, found in results.items():
        used = found.asked if isinstance(found, Failed) else found.details["done"]
        # Those in flight at the end were not answered, yet asked for.
        run.cold_used[name] = run.cold_used.get(name, 0) + used + 1000
        if run.cold_used[name] > run.cold_rooms:
            results[name] = Failed("more rooms were asked for than Redis holds")
        elif isinstance(found, Measured) and found.details["counted"] < 0.95:
            results[name] = Failed(f"only {found.details['counted']:.2f} lookups a request")
    return results


def handshake(run, row):
    def begin(peer):
        return turns.start([stage.LOAD, "handshakes", peer.websocket, str(stage.ECHO_ROOMS), str(CLIENTS), "3600"])

    return turns.measure(run.seconds, row, begin)


#: How many tunnels have a message under way at a time, and how many there are for them to take turns.
SPEAKING, TALKING = 50, 1000


def messages(run, row, tunnels=None, in_flight=SPEAKING):
    """Many tunnels of which a few speak at a time. Only messages are counted, not the handshakes before them."""

    def begin(peer):
        return Talking.messages(peer.websocket, tunnels(peer) if tunnels else run.talking, in_flight, 3600).go()

    return turns.measure(run.seconds, row, begin)


def each(measure):
    """A work that is measured at one proxy after the other."""

    def found(run, peer):
        try:
            return measure(run, peer)
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            return Failed(f"{error}" or type(error).__name__)

    return lambda run, row: {peer.name: found(run, peer) for peer in row}


def tunnel_memory(run, peer):
    """Anonymous memory for each idle tunnel. The proxy is started anew, so that nothing it kept is reused."""
    peer.stop()
    peer.start()
    asked(peer.port, 1, STATE)
    before = machine.memory(peer.pid, "RssAnon")
    with Talking([stage.LOAD, "idle", peer.websocket, str(stage.ECHO_ROOMS), str(run.tunnels)]):
        return Measured((machine.memory(peer.pid, "RssAnon") - before) / run.tunnels, at_rest=before)


def steady(seconds, ports, rate=1500):
    """Percentiles in microseconds, of requests at a steady rate, by turns to each of the ports."""
    command = [stage.LOAD, "latency", STATE % 1, str(rate), str(seconds), *(f"127.0.0.1:{port}" for port in ports)]
    return json.loads(machine.run(command, timeout=120 + 2 * seconds * len(ports)))


def steady_alone(seconds, port, rate):
    """The same of one port, where nothing may fail."""
    (found,) = steady(seconds, [port], rate)
    return served(json.dumps(found))


def latency(run, row):
    """What each proxy adds to the median of a direct connection, which has its turns as well."""
    direct, *through = steady(run.seconds, [stage.HTTP_PODS["backend-1"], *(peer.port for peer in row)])
    return {peer.name: added(direct, found) for peer, found in zip(row, through)}


def added(direct, through):
    for found in (direct, through):
        if found["failed"] or not found["done"]:
            return Failed(f"failed or not served: {found}")
    if through["p50"] > QUEUED:
        return Failed(f"the rate was not kept: half of the requests took longer than {through['p50'] / 1000:,.0f} ms")
    return Measured(through["p50"] - direct["p50"], p99=through["p99"] - direct["p99"], direct=direct["p50"])


class Talking:
    """Clients with open tunnels, from the moment all are open; `with` ends them."""

    @classmethod
    def messages(cls, to, tunnels, in_flight, seconds):
        """Who will send messages to an address for so long, through so many tunnels, so many of them at a time."""
        numbers = (stage.ECHO_ROOMS, tunnels, in_flight, seconds)
        return cls([stage.LOAD, "messages", to, *map(str, numbers)])

    def __init__(self, command):
        self.process = turns.start(command)
        if not self.process.stdout.readline():
            raise Failed(f"the tunnels could not be opened: {self.process.communicate()[1].strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def go(self):
        """Lets them talk."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.process

    def talk(self):
        """Lets them talk to their end, and gives their account."""
        return self.go().communicate(timeout=120)[0]


REDIRECT = requests("/experiment/room_%d", fields=["Accept: text/html"])

WORKS = [
    Work("http", "HTTP keep-alive request", "µs CPU", 0.60, 0.75, requests(STATE)),
    Work("connection", "new client connection", "µs CPU", 0.80, 0.95, requests(STATE, fields=["Connection: close"])),
    Work("handshake", "WebSocket handshake", "µs CPU", 0.80, 1.0, handshake),
    Work("message", "relayed WebSocket message", "µs CPU", 0.80, 0.95, messages),
    Work("body", "64 KiB response body", "µs CPU", 0.40, 0.55, requests(BODY)),
    Work("cold", "cold room (a Redis lookup each)", "µs CPU", 0.55, 0.85, cold, needs_rooms=True),
    Work("redirect", "302", "µs CPU", 0.45, 0.65, REDIRECT, needs_rooms=True),
    Work("tunnel", "idle tunnel, user memory", "bytes", 1536, 2560, each(tunnel_memory), absolute=True, most=3),
    Work("latency", "latency added at 1,500 req/s, p50", "µs", 100, 125, latency, absolute=True),
]
