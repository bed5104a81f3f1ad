"""The proxies side by side: how each is started, and proof that it routes rightly before it is measured."""

import contextlib
import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile

from . import machine, stage

#: The one that all ratios refer to.
REFERENCE = "nginx-lua"
OURS = "pod-router"
#: Copies bytes, routes nothing: what of a figure is the kernel's.
FLOOR = "floor"
#: The reference as an expert would have it; the goals are set against the usual ones.
TUNED = "nginx-tuned"
NAMES = [OURS, REFERENCE, TUNED, "nginx-hash", "haproxy-hash", "node", FLOOR]
#: Only if asked for: the floor on tokio, with a runtime a core and with one for all threads, see runtimes.py.
EXTRA = ["floor-cores", "floor-shared"]

HANDSHAKE = (
    "GET /socket.io/?EIO=4&transport=websocket&roomId={room} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Peer:
    """One proxy. `knows_rooms`: it asks the directory, as against hashing the room or, the floor, nothing at all. `dials`:
    it has one pod, and a connection to it for each of a client's."""

    def __init__(self, name, port, command, knows_rooms=True, dials=False, websocket_port=None, admin_port=None):
        self.name, self.port, self.command = name, port, command
        self.knows_rooms, self.dials = knows_rooms, dials
        self.websocket_port, self.admin_port = websocket_port or port, admin_port
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    @property
    def websocket(self):
        """The address that WebSocket clients connect to."""
        return f"127.0.0.1:{self.websocket_port}"

    def start(self, core=machine.PROXY_CORE):
        environment = os.environ | {"RUST_LOG": "warn", "NODE_ENV": "production"}
        with tempfile.TemporaryFile("w+") as errors:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": errors}
            self.process = machine.start(core, self.command, env=environment, **quiet)
            try:
                machine.wait_for(self.is_up, f"port {self.port}")
                if self.admin_port:
                    machine.wait_for(self.is_ready, "readiness")
            except RuntimeError as error:
                errors.seek(0)
                raise RuntimeError(f"{self.name} did not start: {error}: {errors.read()}") from None

    def stop(self):
        machine.stop([self.process])

    @contextlib.contextmanager
    def running(self, core=machine.PROXY_CORE):
        """Started, until the end of `with`."""
        self.start(core)
        try:
            yield self
        finally:
            self.stop()

    def is_up(self):
        if self.process.poll() is not None:
            raise RuntimeError("it has ended by itself")
        return stage.answers(self.port)

    def is_ready(self):
        return self.get("/readyz", port=self.admin_port)[0].status == 200

    def get(self, path, port=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body


def ours(binary, port, threads=1, pods=stage.PODS, more=(), backend=("backend-0",)):
    """pod-router with everything on that a user has on, but for the access line, which the peers leave off as well."""
    command = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{port + 1000}"]
    command += ["--redis-url", f"redis://127.0.0.1:{stage.REDIS}", "--threads", str(threads)]
    command += ["--lame-duck", "1300ms", "--drain-timeout", "0s"]  # its end is not what is measured
    command += ["--default-backend", ",".join(f"127.0.0.1:{stage.PODS[pod]}" for pod in backend)]
    for pod, pod_port in pods.items():
        command += ["--pod", f"{pod}=127.0.0.1:{pod_port}"]
    return Peer(OURS, port, [*command, *more], admin_port=port + 1000)


def floor(name=FLOOR, port=4205, how=()):
    """Copies bytes: with epoll only, or on a runtime, as benches/floor/main.rs says `how`."""
    targets = {port: stage.HTTP_PODS["backend-1"], port + 1: stage.ECHO_PODS["backend-3"]}
    copies = [f"127.0.0.1:{port}=127.0.0.1:{target}" for port, target in targets.items()]
    return Peer(name, port, [stage.FLOOR, *how, *copies], knows_rooms=False, dials=True, websocket_port=port + 1)


def servers(pods, form):
    """A line of a configuration for each pod."""
    return " ".join(form.format(pod=pod, port=port) for pod, port in pods.items())


NGINX_SERVER = "server 127.0.0.1:{port};"


def upstreams(pods):
    """Each pod by its name, with kept connections of its own."""
    return servers(pods, f"upstream {{pod}} {{{{ {NGINX_SERVER} keepalive 64; keepalive_requests 1000000000; }}}}\n")


def reference(theatre, port=4201, pods=stage.PODS, cache_seconds=2):
    """nginx + Lua. Several run beside each other: each has a configuration of its own, by its port."""
    values = {"PORT": str(port), "UPSTREAMS": upstreams(pods), "CACHE_SECONDS": str(cache_seconds)}
    filled = theatre.fill("benches/peers/nginx-lua.conf", **values)
    own = f"{filled}-{port}"
    os.rename(filled, own)
    return Peer(REFERENCE, port, ["nginx", "-c", own])


def all_peers(theatre, binary):
    """Every proxy of the comparison, ours first."""
    lines = "server {pod} 127.0.0.1:{port}\n  "
    pods = json.dumps({pod: f"127.0.0.1:{port}" for pod, port in stage.PODS.items()})
    tuned = theatre.fill("benches/peers/nginx-tuned.conf", PORT="4230", UPSTREAMS=upstreams(stage.PODS))
    hashes = {"HTTP": servers(stage.HTTP_PODS, NGINX_SERVER), "WEBSOCKET": servers(stage.ECHO_PODS, NGINX_SERVER)}
    nginx_hash = theatre.fill("benches/peers/nginx-hash.conf", PORT="4202", **hashes)
    hashes = {"HTTP": servers(stage.HTTP_PODS, lines), "WEBSOCKET": servers(stage.ECHO_PODS, lines)}
    haproxy = theatre.fill("benches/peers/haproxy.cfg", PORT="4203", **hashes)
    node = ["node", "benches/peers/node/router.mjs", "4204", str(stage.REDIS), pods]
    return [
        ours(binary, 4200),
        reference(theatre),
        Peer(TUNED, 4230, ["nginx", "-c", tuned]),
        Peer("nginx-hash", 4202, ["nginx", "-c", nginx_hash], knows_rooms=False),
        Peer("haproxy-hash", 4203, ["haproxy", "-f", haproxy, "-db"], knows_rooms=False),
        Peer("node", 4204, node),
        floor(),
        floor("floor-cores", 4207, ["cores", "1", "relay"]),
        floor("floor-shared", 4209, ["shared", "1", "relay"]),
    ]


def websocket_pod(peer, room):
    """The port of the pod that answers a handshake for the room."""
    with socket.create_connection(("127.0.0.1", peer.websocket_port), 10) as client:
        client.sendall(HANDSHAKE.format(room=room).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(4096)
            if not received:
                break
            head += received
    pod = re.match(rb"HTTP/1.1 101 .*\r\nX-Pod: (\d+)\r\n", head, re.DOTALL | re.IGNORECASE)
    return pod and int(pod.group(1))


def check(peer):
    """Raises unless the peer routes as it should; a peer that does not is not measured."""

    def expect(holds, what):
        if not holds:
            raise RuntimeError(f"{peer.name} does not route rightly: {what}")

    def reached(room):
        """The room's pod by HTTP and by WebSocket, asked twice: as ports."""
        http = {int(peer.get(f"/api/room/room_{room}/state")[0].getheader("X-Pod") or 0) for _ in range(2)}
        websocket = {websocket_pod(peer, f"room_ws{room}") for _ in range(2)}
        expect(len(http) == 1 and len(websocket) == 1, f"room {room} reached {http} and {websocket}")
        return http.pop(), websocket.pop()

    pods = [reached(room) for room in range(stage.ROOMS)]
    for at, (kind, of_kind) in enumerate([("HTTP", stage.HTTP_PODS), ("WebSocket", stage.ECHO_PODS)]):
        ports = [both[at] for both in pods]
        expect(set(ports) <= set(of_kind.values()), f"{kind} reached {set(ports)}")
        expect(len(set(ports)) > 1 or peer.dials, f"{kind} reaches one pod only")
        if peer.knows_rooms:
            right = [port for _, port in zip(range(stage.ROOMS), itertools.cycle(of_kind.values()))]
            expect(ports == right, f"{kind} reached {ports} instead of {right}")

    response, body = peer.get("/api/room/room_1/64k")
    expect(response.status == 200 and len(body) == 64 * 1024, f"64 KiB came as {response.status}, {len(body)} bytes")
    if peer.knows_rooms:
        response, _ = peer.get("/experiment/room_1", Accept="text/html")
        location = response.getheader("Location")
        right = "/experiment?roomId=room_1&pod=backend-1"
        expect(response.status == 302 and location == right, f"the page load got {response.status} {location}")
