"""What the proxies stand between: Redis with the rooms, pods that answer, pods that echo."""

import json
import os
import re
import socket
import subprocess
import tempfile

from . import machine

HTTP_PODS = {f"backend-{n}": 4100 + n for n in range(3)}
ECHO_PODS = {f"backend-{n + 3}": 4110 + n for n in range(3)}
PODS = HTTP_PODS | ECHO_PODS
REDIS = 4090

#: What benches/prepare.sh has built, and where results go that are for nobody's README.
TARGET = os.environ.get("CARGO_TARGET_DIR", "target")
LOAD, FLOOR = (f"{TARGET}/release/examples/{name}" for name in ("load", "floor"))
SCRATCH = f"{TARGET}/benches"
ROUTER = f"{SCRATCH}/pod-router"

#: benches/prepare.sh says in it which network namespace it comes from.
OUTSIDE = "BENCH_OUTSIDE"

#: Rooms that wrk's requests walk through.
ROOMS = 30
#: Rooms of the WebSocket clients.
ECHO_ROOMS = 30


def value(pod):
    """An assignment as the backends write it."""
    return json.dumps({"podId": pod, "participantCount": 4, "assignedAt": 1634567890123}, separators=(",", ":"))


def assignments(cold):
    """Every room of the test and its pod: those of the works, and `cold` rooms that are each asked for once."""
    http, echo = list(HTTP_PODS), list(ECHO_PODS)
    for n in range(ROOMS):
        yield f"room_{n}", http[n % 3]
    for n in range(ECHO_ROOMS):
        yield f"room_ws{n}", echo[n % 3]
    for n in range(cold):
        yield f"room_cold{n}", http[n % 3]


def answers(port):
    """Whether something listens there."""
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def redis_hits():
    """How many keys have been found in Redis so far."""
    with socket.create_connection(("127.0.0.1", REDIS), 5) as redis:
        redis.sendall(b"INFO stats\r\nQUIT\r\n")
        text = b"".join(iter(lambda: redis.recv(65536), b"")).decode()
    return int(re.search(r"keyspace_hits:(\d+)", text).group(1))


def prepare_network():
    """The namespace is new: loopback is down, and tens of thousands of short connections a second are to come. What is
    set here would not do for the machine's own network."""
    if os.environ.get(OUTSIDE, "") in ("", os.readlink("/proc/self/ns/net")):
        raise RuntimeError("no network namespace of its own: start it by benches/run, benches/soak or benches/attack")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for setting in ["ip_local_port_range=10000 65000", "tcp_max_tw_buckets=2000"]:
        subprocess.run(["sysctl", "-qw", f"net.ipv4.{setting}"], check=True)


class Stage:
    """Starts everything; `with` ends it. `cold`: rooms in Redis besides those that are asked for all the time."""

    def __init__(self, cold):
        self.cold = cold
        self.temporary = tempfile.TemporaryDirectory(prefix="pod-router-bench-")
        self.directory = self.temporary.name
        self.processes = {}

    def __enter__(self):
        prepare_network()
        os.chmod(self.directory, 0o755)  # nginx's workers are another user
        with open(f"{self.directory}/64k", "wb") as body:
            body.write(os.urandom(64 * 1024))
        listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in HTTP_PODS.values())
        config = self.fill("benches/peers/pods.conf", LISTEN=listen)
        echo = [f"127.0.0.1:{port}" for port in ECHO_PODS.values()]
        redis = ["redis-server", "--port", str(REDIS), "--bind", "127.0.0.1", "--dir", self.directory]
        redis += ["--save", "", "--appendonly", "no"]
        self.commands = {"redis": redis, "http": ["nginx", "-c", config], "echo": [LOAD, "echo", *echo]}
        for name in self.commands:
            self.start(name)
        self.fill_redis(assignments(self.cold))
        return self

    def __exit__(self, *_):
        machine.stop(self.processes.values())
        self.temporary.cleanup()

    def start(self, name):
        """Starts Redis ("redis") or pods ("http", "echo"), and waits until they answer."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes[name] = machine.start(machine.LOAD_CORE, self.commands[name], **quiet)
        for port in {"redis": [REDIS], "http": HTTP_PODS.values(), "echo": ECHO_PODS.values()}[name]:
            machine.wait_for(lambda port=port: answers(port), f"port {port}")

    def check(self):
        """Raises if Redis or pods have ended: all proxies would fail, or serve from what they remember."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(self.commands[name][:1])} ({name}) has ended by itself")

    def stop(self, name):
        machine.stop([self.processes.pop(name)] if name in self.processes else [])

    def fill(self, template, **values):
        """A configuration file with its @NAME@s replaced; the path of the result."""
        with open(template) as file:
            text = file.read()
        for name, replacement in {"DIR": self.directory, "REDIS": str(REDIS), **values}.items():
            text = text.replace(f"@{name}@", replacement)
        path = f"{self.directory}/{os.path.basename(template)}"
        with open(path, "w") as file:
            file.write(text)
        return path

    def fill_redis(self, rooms):
        """Writes assignments, pairs of a room and its pod, as redis-cli's pipe takes them."""
        pipe = subprocess.Popen(
            ["redis-cli", "-p", str(REDIS), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for room, pod in rooms:
            words = ["SET", f"room:{room}:pod", value(pod)]
            pipe.stdin.write(f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words))
        pipe.stdin.close()
        if pipe.wait() != 0:
            raise RuntimeError("redis-cli --pipe failed")
