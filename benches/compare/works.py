"""What is measured: each work loads a proxy for a while and says what a unit of it cost."""

import json
import re
import subprocess
import tempfile

from . import machine, peers, stage

#: wrk's script: each line is one request after the other, over all rooms.
WALK = "local n = {start}\nrequest = function() n = n + 1 return wrk.format('GET', '{path}', {{{headers}}}) end\n"


class Failed(RuntimeError):
    """The load was not served as it should be, so its cost means nothing."""


class Work:
    """One row of the table. `goal` and `first_step` are ratios to the reference, or absolute where `absolute`."""

    def __init__(self, key, title, unit, goal, first_step, measure, needs_rooms=False, absolute=False):
        self.key, self.title, self.unit = key, title, unit
        self.goal, self.first_step = goal, first_step
        self.measure, self.needs_rooms, self.absolute = measure, needs_rooms, absolute

    def suits(self, peer):
        """Whether the peer does this work at all."""
        # The floor dials a pod for every connection, which is another work.
        dials = peer.name == peers.FLOOR and self.key in ("connection", "handshake")
        return (peer.knows_rooms or not self.needs_rooms) and not dials


def cost(peer, load):
    """CPU microseconds per unit, of what `load()` says was done."""
    before = machine.cpu_seconds(peer.pid)
    done = load()
    return (machine.cpu_seconds(peer.pid) - before) * 1e6 / done


def wrk(port, seconds, path, headers="", start=0, connections=32):
    """Requests answered by wrk's account."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WALK.format(start=start, path=path, headers=headers))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name]
        text = machine.run([*command, f"http://127.0.0.1:{port}"])
    errors = re.search(r"(Non-2xx or 3xx responses|Socket errors): .*", text)
    if errors:
        raise Failed(errors.group())
    return int(re.search(r"(\d+) requests in", text).group(1))


STATE = "/api/room/room_'..(n % 30)..'/state"
BODY = "/api/room/room_'..(n % 30)..'/64k"
PAGE = "/experiment/room_'..(n % 30)..'"
COLD = "/api/room/room_cold'..n..'/state"


def http(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, STATE))


def connection(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, STATE, headers="['Connection']='close'"))


def body(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, BODY))


def page(run, peer):
    return cost(peer, lambda: wrk(peer.port, run.seconds, PAGE, headers="['Accept']='text/html'"))


def cold(run, peer):
    """Each request names a room that this proxy has not seen before."""
    start = run.cold_used
    done = cost_of = None

    def load():
        nonlocal done
        done = wrk(peer.port, run.seconds, COLD, start=start)
        return done

    cost_of = cost(peer, load)
    run.cold_used = start + done + 1000
    if run.cold_used > run.cold_rooms:
        raise Failed("more rooms were asked for than Redis holds")
    return cost_of


def websocket(mode, clients):
    def measure(run, peer):
        def load():
            command = [run.load, mode, f"127.0.0.1:{peer.websocket_port}", str(stage.ECHO_ROOMS), str(clients), str(run.seconds)]
            outcome = json.loads(machine.run(command))
            if outcome["failed"]:
                raise Failed(f"{outcome['failed']} of {clients} WebSocket clients failed")
            return outcome["done"]

        return cost(peer, load)

    return measure


def tunnel_memory(run, peer):
    """Anonymous memory for each idle tunnel. The proxy is started anew, so that nothing it kept is reused."""
    tunnels = run.tunnels
    peer.stop()
    peer.start()
    wrk(peer.port, 1, STATE)
    before = machine.anonymous_bytes(peer.pid)
    command = [run.load, "idle", f"127.0.0.1:{peer.websocket_port}", str(stage.ECHO_ROOMS), str(tunnels)]
    clients = machine.start(machine.LOAD_CORE, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if not clients.stdout.readline():
            raise Failed("the tunnels could not be opened")
        return (machine.anonymous_bytes(peer.pid) - before) / tunnels
    finally:
        clients.communicate()


def latency_at(port, seconds, rate=1500, clients=10):
    """The latencies in microseconds, sorted, of requests sent at a fixed rate."""
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "--h1", f"--rps={rate / clients}", f"-c{clients}", f"-D{max(2, round(seconds))}"]
        command += ["--warm-up-time=1", f"--log-file={log.name}", f"http://127.0.0.1:{port}/api/room/room_1/state"]
        machine.run(command)
        lines = [line.split() for line in log.read().decode().splitlines()]
    if any(status != "200" for _, status, _ in lines):
        raise Failed("not every request was answered 200")
    return sorted(int(duration) for _, _, duration in lines)


def latency(run, peer):
    """What the proxy adds to the median of a direct connection, measured just before."""
    direct = latency_at(stage.HTTP_PODS["backend-1"], run.seconds)
    through = latency_at(peer.port, run.seconds)
    return through[len(through) // 2] - direct[len(direct) // 2]


WORKS = [
    Work("http", "HTTP keep-alive request", "µs CPU", 0.60, 0.75, http),
    Work("connection", "new client connection", "µs CPU", 0.80, 0.95, connection),
    Work("handshake", "WebSocket handshake", "µs CPU", 0.80, 1.0, websocket("handshakes", 16)),
    Work("message", "relayed WebSocket message", "µs CPU", 0.80, 0.95, websocket("messages", 50)),
    Work("body", "64 KiB response body", "µs CPU", 0.40, 0.55, body),
    Work("cold", "cold room (a Redis lookup each)", "µs CPU", 0.55, 0.85, cold, needs_rooms=True),
    Work("redirect", "302", "µs CPU", 0.45, 0.65, page, needs_rooms=True),
    Work("tunnel", "idle tunnel, user memory", "bytes", 1536, 2560, tunnel_memory, absolute=True),
    Work("latency", "latency added at 1,500 req/s, p50", "µs", 100, 125, latency, absolute=True),
]
