"""Attacks: what somebody who behaves notices of them, and what memory they take.

For each attack a fresh router, with its default limits unless the name says otherwise. While the attack goes on, requests
are sent at a steady rate on connections of their own, and their latency is written down. The router has one core;
attackers, pods, Redis and the one who behaves share the other, the attackers at the lowest priority: it is the
router's fairness that is measured, not the other core's. Of several rounds the one with the lowest p99 counts: the others are
what else the machine does.
"""

import contextlib
import json
import re
import subprocess
import time
import urllib.request

from . import commandline, machine, peers, stage, works

PORT = 4200
URL = f"http://127.0.0.1:{PORT}"
STATE, BODY, UPLOAD = (f"/api/room/room_1/{what}" for what in ("state", "64k", "upload"))
RATE = 500

#: Before the latency counts, an attack is given this long to unfold.
UNFOLD = 2.0


def slow(form, count, *more, path=STATE):
    """slowhttptest in one of its forms, on so many connections."""
    return ["slowhttptest", form, "-c", str(count), "-r", str(count), "-l", "60", "-p", "5", "-v", "1", *more, "-u", URL + path]


def flood(kind, seconds):
    return [stage.LOAD, "flood", kind, f"127.0.0.1:{PORT}", "64", str(seconds)]


def attacks(seconds):
    """Name, command, and settings of the router besides the defaults."""
    count, rooms = 5000, ["--on-unassigned", "reject"]
    return [
        ("none", None, []),
        (f"{count:,} slow heads", slow("-H", count, "-i", "2", "-x", "24"), []),
        (f"{count:,} slow bodies", slow("-B", count, "-i", "2", "-s", "8192", "-x", "10", path=UPLOAD), []),
        ("1,000 slow readers", slow("-X", 1000, "-n", "5", "-z", "32", "-w", "10", "-y", "20", "-k", "20", path=BODY), []),
        ("20,000 kinds of heads", flood("heads", seconds), []),
        ("unknown rooms", flood("rooms", seconds), rooms),
        ("unknown rooms, `--lookup-rate`", flood("rooms", seconds), [*rooms, "--lookup-rate", "10r/s burst=100"]),
        ("unknown rooms, `--rate-limit`", flood("rooms", seconds), [*rooms, "--rate-limit", "1000r/s burst=1000"]),
    ]


def rejected():
    """What the router has turned away or cut, by reason."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT + 1000}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts = re.findall(r'^pod_router_rejected_total\{reason="([a-z-]+)"\} (\d+)$', text, re.M)
    return {reason: int(count) for reason, count in counts if int(count)}


def behave(seconds):
    """The latency of somebody who behaves; another client than a flood's, which names itself in `X-Forwarded-For`."""
    return works.steady_alone(seconds, PORT, RATE)


def suffer(binary, name, command, more, seconds):
    """One attack on a router of its own."""
    attacker = None
    with peers.ours(binary, PORT, more=more).running() as peer, contextlib.ExitStack() as stack:
        peers.check(peer)
        at_rest = machine.memory(peer.pid, "VmRSS")
        if command:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            attacker = machine.start(machine.LOAD_CORE, ["nice", "-n", "19", *command], **pipes)
            stack.callback(machine.stop, [attacker])
            time.sleep(UNFOLD)
        latency = behave(seconds)
        resident = machine.memory(peer.pid, "VmRSS")
        turned_away = rejected()
        answered = None
        if command and command[1] == "flood":
            lasted = UNFOLD + seconds + 2
            answered = json.loads(attacker.communicate()[0].splitlines()[-1])["done"] / lasted
        return {
            "attack": name,
            "a_second": answered,
            "p50": latency["p50"],
            "p99": latency["p99"],
            "rest_mb": at_rest / 1e6,
            "resident_mb": resident / 1e6,
            "peak_mb": machine.memory(peer.pid, "VmHWM") / 1e6,
            "rejected": turned_away,
        }


def row(outcome):
    rate = f"{outcome['a_second']:,.0f}" if outcome["a_second"] else "–"
    away = ", ".join(f"{reason} {count:,}" for reason, count in outcome["rejected"].items()) or "–"
    memory = f"{outcome['resident_mb']:.0f} / {outcome['peak_mb']:.0f}"
    return f"| {outcome['attack']} | {rate} | {outcome['p50']:.0f} | {outcome['p99']:.0f} | {memory} | {away} |"


def main():
    parser = commandline.Parser(prog="benches/attack", description=__doc__)
    parser.add_argument("--seconds", metavar="N", type=commandline.number(1, float), default=8, help="of each attack (8)")
    parser.add_argument("--rounds", metavar="N", type=commandline.number(1, int), default=3, help="of each; the best counts (3)")
    parser.add_argument("--only", metavar="TEXT", default="", help="attacks with this in their name")
    chosen = parser.chosen()
    wanted = [attack for attack in attacks(UNFOLD + chosen.seconds + 2) if chosen.only in attack[0]]
    if not wanted:
        parser.error(f"--only: no attack has {chosen.only} in its name")
    with stage.Stage(0):
        print("| attack | answered a second | p50, µs | p99, µs | resident / peak, MB | turned away |\n|---|---|---|---|---|---|")
        for attack in wanted:
            rounds = [works.again(lambda: suffer(chosen.binary, *attack, chosen.seconds)) for _ in range(chosen.rounds)]
            print(row(min(rounds, key=lambda outcome: outcome["p99"])), flush=True)


if __name__ == "__main__":
    commandline.run(main)
