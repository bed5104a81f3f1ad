"""What the Python pods share: arguments, the ready line, the orderly end, Socket.IO's events.

The paths that a pod answers are listed in tests/it/peers/contract.rs.
"""

import argparse
import json
import os
import socket
import sys
import threading
from urllib.parse import parse_qs

PARTS = [b"one", b"two", b"three"]
# Larger than any buffer on the way that is not a socket's.
LARGE = bytes(range(256)) * 4096
ODD_STATUS = 299
ODD_REASON = "Fine by me"
ETAG = '"v1"'
SUBPROTOCOL = "echo.v2"
CLOSE_ME = "close-me"
CLOSE_CODE, CLOSE_REASON = 4001, "bye"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pod", required=True)
    return parser.parse_args()


def listener():
    """A socket on a free port; the servers take it as it is.

    With the protocol named, as the servers' own are: asyncio switches Nagle's algorithm off only then, and uvicorn, which
    writes heads and bodies apart, would wait 40 ms for each.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.bind(("127.0.0.1", 0))
    server.listen(128)
    return server


def announce(pod, server):
    """Says where the pod is, and ends it when standard input closes: it must not outlive its test."""

    def end():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    print(json.dumps({"ready": True, "pod": pod, "port": server.getsockname()[1]}), flush=True)


def add_socketio_events(sio, pod):
    """The events of tests/node/pod.mjs, for the clients of tests/node/rooms.mjs."""
    rooms = {}

    async def connect(sid, environ, auth=None):
        rooms[sid] = parse_qs(environ["QUERY_STRING"]).get("roomId", ["waiting"])[0]
        await sio.enter_room(sid, rooms[sid])

    async def echo(sid, data):
        return {"pod": pod, "data": data}

    async def say(sid, data):
        await sio.emit("said", {"pod": pod, "from": data["from"], "n": data["n"]}, room=rooms[sid])

    for handler in (connect, echo, say):
        sio.on(handler.__name__, handler)
