"""The soak: mixed traffic for as long as asked, and whether anything grows meanwhile.

One round is some seconds of everything a router meets: requests on kept and on new connections, rooms it has never seen
(more than its cache holds), WebSockets opened, talking and closed, clients that hang up half-way or do not read, pods that
restart. Then it rests for a moment, and its memory and open files are written down, with the latency of a quiet trickle.
"""

import csv
import json
import os
import socket
import statistics
import subprocess
import time

from . import machine, peers, stage, works

PORT = 4200
REST = 1.0
#: What may come on top of a tenth more, before it counts as growth: pages the allocator has not given back yet.
SLACK_BYTES, SLACK_FILES = 3_000_000, 16


def hang_up(count):
    """Clients that leave in the middle of a request, after it, or of an answer they do not read."""
    whole = b"GET /api/room/room_1/64k HTTP/1.1\r\nHost: soak\r\n\r\n"
    upload = b"POST /api/room/room_1/state HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\nhalf"
    clients = []
    for n in range(count):
        client = socket.create_connection(("127.0.0.1", PORT), 5)
        client.sendall((whole[:20], whole, whole * 4, upload)[n % 4])
        clients.append(client)
    time.sleep(0.2)
    for client in clients:
        client.close()


def traffic(run, load, number):
    """One round of everything."""
    state, cold = works.STATE, works.COLD
    works.wrk(PORT, 2, state)
    works.wrk(PORT, 1, state, headers="['Connection']='close'")
    works.wrk(PORT, 1, works.BODY)
    works.wrk(PORT, 1, cold, start=number * 40_000 % (run.cold_rooms - 100_000))
    for mode, clients in (("handshakes", 16), ("messages", 200)):
        outcome = machine.run([load, mode, f"127.0.0.1:{PORT}", str(stage.ECHO_ROOMS), str(clients), "1"])
        if json.loads(outcome)["failed"]:
            raise works.Failed(f"WebSocket {mode}: {outcome}")
    hang_up(200)


def sample(peer, started):
    time.sleep(REST)
    latencies = works.latency_at(PORT, 2, rate=500)
    return {
        "seconds": round(time.monotonic() - started),
        "resident_bytes": machine.resident_bytes(peer.pid),
        "open_files": len(os.listdir(f"/proc/{peer.pid}/fd")),
        "p50_us": latencies[len(latencies) // 2],
        "p99_us": latencies[len(latencies) * 99 // 100],
    }


def grew(samples, name, slack):
    """Whether the last third is above the third before it by more than a tenth and the slack."""
    third = len(samples) // 3
    before, after = (statistics.median(row[name] for row in part) for part in (samples[third : 2 * third], samples[-third:]))
    print(f"{name}: {before:,.0f} → {after:,.0f}")
    return after > before * 1.1 + slack


def plot(samples):
    """Each figure over time, in a band of its own, from zero."""
    width, height, parts = 720, 90, []
    names = ["resident_bytes", "open_files", "p50_us", "p99_us"]
    span = max(row["seconds"] for row in samples) or 1
    for index, name in enumerate(names):
        top, peak = 20 + index * (height + 30), max(row[name] for row in samples) or 1
        points = " ".join(
            f"{60 + row['seconds'] / span * width:.1f},{top + height - row[name] / peak * height:.1f}" for row in samples
        )
        parts.append(
            f'<text x="60" y="{top - 5}">{name}, up to {peak:,}</text>'
            f'<line x1="60" y1="{top + height}" x2="{60 + width}" y2="{top + height}" stroke="#999"/>'
            f'<polyline points="{points}" fill="none" stroke="#c2410c"/>'
        )
    total = 20 + len(names) * (height + 30)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 100}" height="{total}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def restart_echo(theatre):
    """The echoing pods go away and come back under their names."""
    pods = theatre.processes.pop()
    machine.stop([pods])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    theatre.processes.append(machine.start(machine.LOAD_CORE, pods.args[3:], **quiet))
    machine.wait_for(lambda: stage.answers(stage.ECHO_PODS["backend-3"]), "the pods")


def main(run, chosen, load, theatre):
    """Runs the soak; the exit status."""
    peer = peers.ours(chosen.binary, PORT)
    peer.start()
    samples, started = [], time.monotonic()
    out = chosen.out or "target/benches"
    os.makedirs(out, exist_ok=True)
    try:
        while time.monotonic() - started < chosen.soak * 60 or len(samples) < 6:
            traffic(run, load, len(samples))
            if len(samples) % 3 == 2:
                restart_echo(theatre)
            samples.append(sample(peer, started))
            print(samples[-1], flush=True)
    finally:
        peer.stop()
    with open(f"{out}/soak.csv", "w") as file:
        writer = csv.DictWriter(file, fieldnames=samples[0])
        writer.writeheader()
        writer.writerows(samples)
    with open(f"{out}/soak.svg", "w") as file:
        file.write(plot(samples))
    growth = [grew(samples, "resident_bytes", SLACK_BYTES), grew(samples, "open_files", SLACK_FILES)]
    print(f"{'it grew' if any(growth) else 'no growth'}; {out}/soak.csv, {out}/soak.svg")
    return 1 if any(growth) else 0
