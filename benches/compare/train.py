"""What the optimised router is trained with (benches/pgo): what it has to do all day, each kind for a few seconds.

Whatever is left out is compiled for size, as code that is hardly ever run: so requests without a room, limits, odd heads and
clients that ask too much belong to it, and not only what the comparison measures.
"""

from . import commandline, machine, peers, stage, turns, works

KINDS = ("http", "connection", "handshake", "message", "body", "cold", "redirect")

#: Sessions of the client's address, by cookie and by id, under limits that are not reached.
ROOMLESS = [
    *("--affinity-cookie", "pod", "--affinity-key", "0123456789abcdef0123456789abcdef", "--balance", "least_conn"),
    *("--rate-limit", "1000000r/s burst=1000000", "--max-connections-per-client", "1000", "--pod-max-connections", "1000"),
]
PATHS = ["/none/%d", "/none/%d?EIO=4&transport=polling", "/none/%d?EIO=4&transport=polling&sid=backend-1~x"]


class Run:
    """What the works need to know."""

    seconds, cold_used, cold_rooms, talking = 3, {}, 300_000, works.TALKING


def rooms(binary):
    """All that the comparison measures, and requests that come now and then."""
    with peers.ours(binary, 4200).running() as peer:
        for work in works.WORKS:
            if work.key in KINDS:
                print(f"{work.title}: {turns.only(work.measure(Run, [peer])).details['done']:,}", flush=True)
        works.steady_alone(Run.seconds, peer.port, 1500)
        for kind in ("rooms", "heads"):
            machine.run([stage.LOAD, "flood", kind, f"127.0.0.1:{peer.port}", "16", str(Run.seconds)])


def roomless(binary):
    """Requests that the backends share out."""
    with peers.ours(binary, 4200, more=ROOMLESS, backend=stage.HTTP_PODS).running() as peer:
        for path in PATHS:
            print(f"{path}: {works.asked(peer.port, Run.seconds, path)['done']:,}", flush=True)


def main():
    """A router writes its profile at its end."""
    chosen = commandline.Parser(prog="benches/pgo", description=__doc__).chosen()
    with stage.Stage(Run.cold_rooms):
        rooms(chosen.binary)
        roomless(chosen.binary)


if __name__ == "__main__":
    commandline.run(main)
