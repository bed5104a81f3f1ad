"""What is measured: each work loads a proxy for a while and says what a unit of it cost."""

import json
import subprocess

from . import machine, peers, stage

WALK = "benches/compare/walk.lua"


class Failed(RuntimeError):
    """The load was not served as it should be, so its cost means nothing. `asked`: how many were asked for all the same."""

    asked = 0


class Measured(float):
    """The value of one repetition; `details` are further figures of the same load, by name. `disturbed`: the machine did
    something else as well."""

    disturbed = False

    def __new__(cls, value, **details):
        measured = super().__new__(cls, value)
        measured.details = details
        return measured


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
        dials = peer.dials and self.key in ("connection", "handshake")
        asked = peer.only is None or self.key in peer.only
        return asked and (peer.knows_rooms or not self.needs_rooms) and not dials


def served(text):
    """The load's own account, its last line. Nothing may have failed."""
    outcome = json.loads(text.splitlines()[-1])
    if outcome.get("failed") or not outcome["done"]:
        failed = Failed(f"failed or not served: {outcome}")
        failed.asked = outcome["done"] + outcome.get("failed", 0)
        raise failed
    return outcome


def again(measure):
    """What `measure()` gives, in a second attempt if the first fails."""
    try:
        return measure()
    except Failed as failure:
        print(f"{failure}: once more", flush=True)
        return measure()


def cost(peer, load):
    """CPU microseconds per unit, of what `load()` says was done; `busy` is how much of its core the proxy used."""
    before = machine.cpu_seconds(peer.pid)
    outcome = load()
    spent = machine.cpu_seconds(peer.pid) - before
    done, seconds = outcome["done"], outcome["seconds"]
    return Measured(spent * 1e6 / done, done=done, rate=done / seconds, busy=min(1.0, spent / seconds))


def wrk(port, seconds, path, fields=(), order="turn", first=0, rooms=stage.ROOMS, connections=32):
    """Requests over keep-alive connections, unless a field says otherwise. wrk knows whole seconds only."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", WALK, f"http://127.0.0.1:{port}"]
    return served(machine.run([*command, "--", path, order, str(first), str(rooms), *fields]))


#: If the median latency is more, in microseconds, requests queue: a figure of the queue, not of the proxy.
STEADY = 20_000

STATE, COLD, BODY = "/api/room/room_%d/state", "/api/room/room_cold%d/state", "/api/room/room_%d/64k"


def http(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, STATE))


def connection(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, STATE, ["Connection: close"]))


def body(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, BODY))


def redirect(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, "/experiment/room_%d", ["Accept: text/html"]))


def cold(run, peer):
    """Each request names a room that this proxy has not seen before; by Redis's own count each was looked up."""
    first, found, asked = run.cold_used.get(peer.name, 0), stage.redis_hits(), 0
    try:
        measured = cost(peer, lambda: wrk(peer.port, run.seconds, COLD, first=first, rooms=run.cold_rooms))
        done = asked = measured.details["done"]
    except Failed as failure:
        asked = failure.asked
        raise
    finally:
        run.cold_used[peer.name] = first + asked + 1000  # those in flight at the end were not answered, yet asked for
    if run.cold_used[peer.name] > run.cold_rooms:
        raise Failed("more rooms were asked for than Redis holds")
    measured.details["lookups"] = (stage.redis_hits() - found) / done
    if measured.details["lookups"] < 0.95:
        raise Failed(f"only {measured.details['lookups']:.2f} lookups a request")
    return measured


def handshake(run, peer):
    command = [stage.LOAD, "handshakes", peer.websocket, str(stage.ECHO_ROOMS), "16", str(run.seconds)]
    return cost(peer, lambda: served(machine.run(command)))


def messages(run, peer, tunnels=1000, in_flight=50):
    """Many tunnels of which a few speak at a time. Only messages are counted, not the handshakes before them."""
    command = [stage.LOAD, "messages", peer.websocket, str(stage.ECHO_ROOMS), str(tunnels), str(in_flight)]
    with Talking([*command, str(run.seconds)]) as clients:
        return cost(peer, lambda: served(clients.go()))


def tunnel_memory(run, peer):
    """Anonymous memory for each idle tunnel. The proxy is started anew, so that nothing it kept is reused."""
    peer.stop()
    peer.start()
    wrk(peer.port, 1, STATE)
    before = machine.memory(peer.pid, "RssAnon")
    with Talking([stage.LOAD, "idle", peer.websocket, str(stage.ECHO_ROOMS), str(run.tunnels)]):
        return Measured((machine.memory(peer.pid, "RssAnon") - before) / run.tunnels, at_rest=before)


def latency_at(run, port):
    """Percentiles in microseconds, of requests at a steady rate."""
    command = [stage.LOAD, "latency", f"127.0.0.1:{port}", "/api/room/room_1/state", "1500", str(run.seconds)]
    found = served(machine.run(command))
    if found["p50"] > STEADY:
        raise Failed(f"the rate was not kept: half of the requests took longer than {found['p50'] / 1000:,.0f} ms")
    return found


def latency(run, peer):
    """What the proxy adds to the median of a direct connection, measured just before."""
    direct = latency_at(run, stage.HTTP_PODS["backend-1"])
    through = latency_at(run, peer.port)
    return Measured(through["p50"] - direct["p50"], p99=through["p99"] - direct["p99"], direct=direct["p50"])


class Talking:
    """Clients with open tunnels, from the moment all are open; `with` ends them."""

    def __init__(self, command):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = machine.start(machine.LOAD_CORE, command, **pipes)

    def __enter__(self):
        if not self.process.stdout.readline():
            raise Failed(f"the tunnels could not be opened: {self.process.communicate()[1].strip()}")
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def go(self):
        """Lets them talk, and gives what they say of it in the end."""
        try:
            return self.process.communicate("go\n", timeout=120)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the messages were not done after 120 s") from None


WORKS = [
    Work("http", "HTTP keep-alive request", "µs CPU", 0.60, 0.75, http),
    Work("connection", "new client connection", "µs CPU", 0.80, 0.95, connection),
    Work("handshake", "WebSocket handshake", "µs CPU", 0.80, 1.0, handshake),
    Work("message", "relayed WebSocket message", "µs CPU", 0.80, 0.95, messages),
    Work("body", "64 KiB response body", "µs CPU", 0.40, 0.55, body),
    Work("cold", "cold room (a Redis lookup each)", "µs CPU", 0.55, 0.85, cold, needs_rooms=True),
    Work("redirect", "302", "µs CPU", 0.45, 0.65, redirect, needs_rooms=True),
    Work("tunnel", "idle tunnel, user memory", "bytes", 1536, 2560, tunnel_memory, absolute=True, most=3),
    Work("latency", "latency added at 1,500 req/s, p50", "µs", 100, 125, latency, absolute=True),
]
