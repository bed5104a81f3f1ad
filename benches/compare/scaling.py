"""How the router's own cost grows: with rooms, pods, tunnels, and threads."""

from . import peers, stage, works


def main(chosen, load):
    raise SystemExit("not yet")
