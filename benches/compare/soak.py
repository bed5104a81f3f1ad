"""The soak: mixed traffic for as long as asked, and whether anything grows meanwhile.

A round is some seconds of everything a router meets: requests on kept and on new connections, large bodies, a rush of uploads,
rooms it has never seen (in time more than its cache holds), WebSockets opened, talking and closed, clients that hang up
half-way or hardly read; beside them a steady trickle of requests, whose latency is written down. In every third round pods restart under
load. Then all is quiet for a moment, and resident memory and open files are written down. Nothing may fail, but while pods restart; a
round in which something did is marked, and the soak goes on.
"""

import csv
import os
import socket
import statistics
import sys
import threading
import time

from . import commandline, machine, peers, soak_plot, stage, turns, works

PORT = 4200
REST = 1.0
COLD_ROOMS, COLD_A_ROUND = 1_000_000, 100_000

#: What counts as growth from the second third of the time to the last: how a third is summed up, and more than this
#: factor, and this much on top.
BOUNDS = {
    "resident_bytes": (statistics.median, 1.1, 3_000_000),
    "open_files": (statistics.median, 1.1, 16),
    "p50_us": (statistics.median, 1.5, 200),
}

#: Rounds in a third without which nothing is said of growth.
LEAST = 4

FIELDS = ["seconds", "resident_bytes", "open_files", "p50_us", "p99_us", "failed"]


class Beside(threading.Thread):
    """Something that goes on beside the rest of a round; `with` waits for its end, and raises what it raised."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.result, self.error = work, None, None

    def run(self):
        try:
            self.result = self.work()
        except Exception as error:  # it is the other thread's to judge
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.join()
        if self.error:
            raise self.error


def hang_up(count=200):
    """Clients that leave in the middle of a request, after it, of an answer they do not read, or of an upload."""
    whole = b"GET /api/room/room_1/64k HTTP/1.1\r\nHost: soak\r\n\r\n"
    upload = b"POST /api/room/room_1/state HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\nhalf"
    clients = []
    for n in range(count):
        client = socket.create_connection(("127.0.0.1", PORT), 5)
        client.sendall((whole[:20], whole, whole * 40, upload)[n % 4])
        clients.append(client)
    time.sleep(0.2)
    for client in clients:
        client.close()


def read_slowly(clients=20, seconds=4):
    """Clients that ask for far more than their sockets hold, and read a little of it every now and then."""
    request = b"GET /api/room/room_1/64k HTTP/1.1\r\nHost: soak\r\n\r\n" * 40
    sockets = [socket.create_connection(("127.0.0.1", PORT), 5) for _ in range(clients)]
    for client in sockets:
        client.sendall(request)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in sockets:
            if not client.recv(2048):
                raise turns.Failed("a slow reader was cut off")
        time.sleep(0.1)
    for client in sockets:
        client.close()


def upload(clients=500, length=100_000):
    """As many bodies at once, of which the half comes late: until then what the router has read waits in it, and in its pod."""
    head = f"POST /api/room/room_1/upload HTTP/1.1\r\nHost: soak\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    half = bytes(length // 2)
    sockets = [socket.create_connection(("127.0.0.1", PORT), 5) for _ in range(clients)]
    for client in sockets:
        client.sendall(head.encode() + half)
    for client in sockets:
        client.sendall(half)
    for client in sockets:
        if not client.recv(64).startswith(b"HTTP/1.1 200 "):
            raise turns.Failed("an upload was not taken")
        client.close()


def everything(number):
    """One round of traffic that has to succeed, and the latencies of the trickle beside it."""
    first = number * COLD_A_ROUND % COLD_ROOMS
    to = f"127.0.0.1:{PORT}"
    with Beside(lambda: works.steady_alone(6, PORT, 500)) as trickle, Beside(read_slowly), Beside(hang_up), Beside(upload):
        works.asked(PORT, 1, works.STATE)
        works.asked(PORT, 1, works.STATE, fields=["Connection: close"])
        works.asked(PORT, 1, works.BODY)
        works.asked(PORT, 1, works.COLD, first=first, rooms=COLD_A_ROUND)
        turns.served(machine.run([stage.LOAD, "handshakes", to, str(stage.ECHO_ROOMS), "16", "1"]))
        with works.Talking.messages(to, 200, 50, 1) as clients:
            turns.served(clients.talk())
    return trickle.result


def restart_pods(theatre):
    """Pods go away under load and come back. What is on its way then may fail, but nothing may hang."""

    def load():
        try:
            works.asked(PORT, 2, works.STATE)
        except turns.Failed:
            pass

    with works.Talking.messages(f"127.0.0.1:{PORT}", 200, 50, 2) as clients, Beside(load), Beside(clients.talk):
        time.sleep(0.5)
        for pods in ("http", "echo"):
            theatre.stop(pods)
        time.sleep(0.5)
        for pods in ("http", "echo"):
            theatre.start(pods)


def attempt(number, theatre):
    """One round: the latencies of its trickle, if it succeeded, and else why it failed."""
    try:
        latency = everything(number)
        if number % 3 == 2:
            restart_pods(theatre)
        return latency, ""
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        return {}, f"{error}" or type(error).__name__


def sample(peer, started, latency, failed):
    time.sleep(REST)
    return {
        "seconds": round(time.monotonic() - started),
        "resident_bytes": machine.memory(peer.pid, "VmRSS"),
        "open_files": len(os.listdir(f"/proc/{peer.pid}/fd")),
        "p50_us": round(latency["p50"]) if latency else None,
        "p99_us": round(latency["p99"]) if latency else None,
        "failed": failed,
    }


def grew(samples, name):
    """Whether the last third of the time was above the second third by more than the bound. (In the first, caches
    fill and the allocator finds its size.) None if there is too little to say so."""
    third = len(samples) // 3
    thirds = samples[third : 2 * third], samples[2 * third :]
    before, after = ([row[name] for row in rows if row[name] is not None] for rows in thirds)
    if min(len(before), len(after)) < LEAST:
        return None
    sum_up, factor, slack = BOUNDS[name]
    return sum_up(after) > sum_up(before) * factor + slack


def verdict(samples):
    """Prints what grew and what failed, and gives the exit status."""
    said = {None: "too few rounds to say", True: "grew", False: "did not grow"}
    found = {name: grew(samples, name) for name in BOUNDS}
    for name, growth in found.items():
        print(f"{name}: {said[growth]}")
    failed = sum(1 for row in samples if row["failed"])
    print(f"{failed} of {len(samples)} rounds failed")
    return 1 if failed or any(found.values()) else 0


def soak(chosen, theatre, record):
    """Rounds until the time is over; `record` takes the sample of each."""
    started, rounds = time.monotonic(), 0
    with peers.ours(chosen.binary, PORT).running() as peer:
        peers.check(peer)
        while time.monotonic() - started < chosen.minutes * 60 or not rounds:
            latency, failed = attempt(rounds, theatre)
            if peer.process.poll() is not None:
                raise RuntimeError(f"the router has ended by itself, in round {rounds + 1}: {failed}")
            record(sample(peer, started, latency, failed))
            rounds += 1


def main():
    parser = commandline.Parser(prog="benches/soak", description=__doc__)
    minutes = commandline.number(1, float)
    parser.add_argument("--minutes", metavar="N", type=minutes, default=10, help="how long (10)")
    parser.add_argument("--out", metavar="DIR", type=commandline.directory, help=f"for soak.csv and soak.svg ({stage.SCRATCH})")
    chosen = parser.chosen()
    chosen.out = chosen.out or stage.SCRATCH
    samples, status = [], 1
    with stage.Stage(COLD_ROOMS) as theatre:
        os.makedirs(chosen.out, exist_ok=True)
        with open(f"{chosen.out}/soak.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=FIELDS, lineterminator="\n")
            writer.writeheader()

            def record(row):
                """Written at once: a soak of hours that is ended early has its rows."""
                samples.append(row)
                writer.writerow(row)
                file.flush()
                shown = {name: f"{value:,}" if isinstance(value, int) else value for name, value in row.items() if value}
                print(", ".join(f"{name} {value}" for name, value in shown.items()), flush=True)

            try:
                soak(chosen, theatre, record)
            finally:
                if samples:
                    status = verdict(samples)
                    with open(f"{chosen.out}/soak.svg", "w") as plot:
                        plot.write(soak_plot.draw(samples, commandline.origin(chosen.binary)))
                    print(f"written to {chosen.out}/soak.csv and {chosen.out}/soak.svg")
    sys.exit(status)


if __name__ == "__main__":
    commandline.run(main)
