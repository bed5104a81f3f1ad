"""What the proxies stand between: Redis with the rooms, pods that answer, pods that echo."""

import json
import os
import re
import socket
import subprocess

from . import machine

HTTP_PODS = {f"backend-{n}": 4100 + n for n in range(3)}
ECHO_PODS = {f"backend-{n + 3}": 4110 + n for n in range(3)}
PODS = HTTP_PODS | ECHO_PODS
REDIS = 4090

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


class Stage:
    """Starts everything; `with` ends it."""

    def __init__(self, directory, load, cold):
        self.directory, self.load, self.cold = directory, load, cold
        self.processes = []

    def __enter__(self):
        with open(f"{self.directory}/64k", "wb") as body:
            body.write(os.urandom(64 * 1024))
        listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in HTTP_PODS.values())
        config = self.fill("benches/peers/pods.conf", LISTEN=listen)
        core = machine.LOAD_CORE
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        echo = [f"127.0.0.1:{port}" for port in ECHO_PODS.values()]
        redis = ["redis-server", "--port", str(REDIS), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.processes += [
            machine.start(core, redis, cwd=self.directory, **quiet),
            machine.start(core, ["nginx", "-c", config], **quiet),
            machine.start(core, [self.load, "echo", *echo], **quiet),
        ]
        for port in [REDIS, *PODS.values()]:
            machine.wait_for(lambda port=port: answers(port), f"port {port}")
        self.fill_redis()
        return self

    def __exit__(self, *_):
        machine.stop(self.processes)

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

    def fill_redis(self):
        """Writes all assignments, as redis-cli's pipe takes them."""
        pipe = subprocess.Popen(
            ["redis-cli", "-p", str(REDIS), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for room, pod in assignments(self.cold):
            words = ["SET", f"room:{room}:pod", value(pod)]
            pipe.stdin.write(f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words))
        pipe.stdin.close()
        if pipe.wait() != 0:
            raise RuntimeError("redis-cli --pipe failed")
