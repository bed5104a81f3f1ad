"""The proxies side by side: how each is started, and proof that it routes rightly before it is measured."""

import http.client
import json
import os
import subprocess
import tempfile

from . import machine, stage

#: The one that all ratios refer to.
REFERENCE = "nginx-lua"
OURS = "pod-router"
#: Copies bytes, routes nothing: what of a figure is the kernel's.
FLOOR = "floor"


class Peer:
    """One proxy. `knows_rooms`: it asks the directory, as against hashing the room."""

    def __init__(self, name, port, command, knows_rooms=True, websocket_port=None, admin_port=None):
        self.name, self.port, self.command, self.knows_rooms = name, port, command, knows_rooms
        self.websocket_port, self.admin_port = websocket_port or port, admin_port
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def start(self, core=machine.PROXY_CORE):
        environment = os.environ | {"RUST_LOG": "warn", "NODE_ENV": "production"}
        with tempfile.TemporaryFile("w+") as errors:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": errors}
            self.process = machine.start(core, self.command, env=environment, **quiet)
            try:
                machine.wait_for(lambda: stage.answers(self.port), f"port {self.port}")
                if self.admin_port:
                    machine.wait_for(self.is_ready, "readiness")
            except RuntimeError as error:
                errors.seek(0)
                raise RuntimeError(f"{self.name} did not start: {error}: {errors.read()}") from None

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        connection.request("GET", "/readyz")
        ready = connection.getresponse().status == 200
        connection.close()
        return ready

    def stop(self):
        machine.stop([self.process])

    def get(self, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body


def ours(binary, port, threads=1, pods=stage.PODS, more=()):
    """pod-router with everything on that a user has on, but for the access line, which the peers leave off as well."""
    command = [binary, "serve", "--lame-duck", "0s", "--drain-timeout", "1s", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{port + 1000}"]
    command += ["--redis-url", f"redis://127.0.0.1:{stage.REDIS}", "--threads", str(threads)]
    command += ["--default-backend", f"127.0.0.1:{stage.PODS['backend-0']}"]
    for pod, pod_port in pods.items():
        command += ["--pod", f"{pod}=127.0.0.1:{pod_port}"]
    return Peer(OURS, port, [*command, *more], admin_port=port + 1000)


def all_peers(theatre, binary, floor):
    """Every proxy of the comparison, ours first."""

    def servers(pods, form):
        return " ".join(form.format(pod=pod, port=port) for pod, port in pods.items())

    nginx = "server 127.0.0.1:{port};"
    keep = "keepalive 64; keepalive_requests 1000000000;"
    upstreams = servers(stage.PODS, f"upstream {{pod}} {{{{ {nginx} {keep} }}}}\n")
    lines = "server {pod} 127.0.0.1:{port}\n  "
    pods = json.dumps({pod: f"127.0.0.1:{port}" for pod, port in stage.PODS.items()})
    lua = theatre.fill("benches/peers/nginx-lua.conf", PORT="4201", UPSTREAMS=upstreams)
    hashes = {"HTTP": servers(stage.HTTP_PODS, nginx), "WEBSOCKET": servers(stage.ECHO_PODS, nginx)}
    nginx_hash = theatre.fill("benches/peers/nginx-hash.conf", PORT="4202", **hashes)
    hashes = {"HTTP": servers(stage.HTTP_PODS, lines), "WEBSOCKET": servers(stage.ECHO_PODS, lines)}
    haproxy = theatre.fill("benches/peers/haproxy.cfg", PORT="4203", **hashes)
    node = ["node", "benches/peers/node/router.mjs", "4204", str(stage.REDIS), pods]
    targets = {4205: stage.HTTP_PODS["backend-1"], 4206: stage.ECHO_PODS["backend-3"]}
    copies = [f"127.0.0.1:{port}=127.0.0.1:{target}" for port, target in targets.items()]
    return [
        ours(binary, 4200),
        Peer(REFERENCE, 4201, ["nginx", "-c", lua]),
        Peer("nginx-hash", 4202, ["nginx", "-c", nginx_hash], knows_rooms=False),
        Peer("haproxy-hash", 4203, ["haproxy", "-f", haproxy, "-db"], knows_rooms=False),
        Peer("node", 4204, node),
        Peer(FLOOR, 4205, [floor, *copies], knows_rooms=False, websocket_port=4206),
    ]


def check(peer, load):
    """Raises unless the peer routes as it should; a peer that does not is not measured."""

    def expect(holds, what):
        if not holds:
            raise RuntimeError(f"{peer.name} does not route rightly: {what}")

    for n, pod in enumerate(stage.HTTP_PODS):
        pods = {peer.get(f"/api/room/room_{n}/state")[0].getheader("X-Pod") for _ in range(2)}
        expect(len(pods) == 1, f"room_{n} reached {pods}")
        if peer.knows_rooms:
            expect(pods == {str(stage.HTTP_PODS[pod])}, f"room_{n} of {pod} reached {pods}")
    response, body = peer.get("/api/room/room_1/64k")
    expect(response.status == 200 and len(body) == 64 * 1024, f"64 KiB came as {response.status}, {len(body)} bytes")
    if peer.knows_rooms:
        response, _ = peer.get("/experiment/room_1", Accept="text/html")
        location = response.getheader("Location")
        right = "/experiment?roomId=room_1&pod=backend-1"
        expect(response.status == 302 and location == right, f"the page load got {response.status} {location}")
    outcome = json.loads(machine.run([load, "messages", f"127.0.0.1:{peer.websocket_port}", str(stage.ECHO_ROOMS), "6", "0.2"]))
    expect(outcome["done"] > 0 and outcome["failed"] == 0, f"WebSocket echo came to {outcome}")
