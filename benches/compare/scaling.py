"""How the router's own cost grows: with rooms, pods, tunnels, and threads.

Each row is the median CPU of a unit over the repetitions, of a router that was started for it; the rows of a question are measured
by turns. With rooms and with pods the reference has its turns as well, with pods also a router that does hardly anything: what
of the growth is the kernel's, or the caches' of the processor, grows there too. Every room is in the cache before it is
measured, and by Redis's own count none is looked up then.
"""

import contextlib
import os
import statistics

from . import commandline, machine, peers, stage, turns, works

PORT = 4200
#: Of the reference: clear of ours, of their admin ports and of the pods'.
REFERENCE_PORT = 4240
#: Of the thin router, which has two.
THIN_PORT = 4250
MOST_ROOMS = 1_000_000
#: Until all is measured.
CACHE_SECONDS = 3600
#: As long as nginx keeps idle connections to pods, or those to 1,000 of them would end while others have their turns.
LONG = [f"--cache-ttl={CACHE_SECONDS}s", "--cache-capacity=2000000", "--upstream-idle=60s"]


def router(chosen, name, number=0, **settings):
    """One router of several, each with ports of its own."""
    peer = peers.ours(chosen.binary, PORT + number, more=LONG, **settings)
    peer.name = name
    return peer


def both(chosen, theatre, name, number, pods=stage.PODS):
    """A router, and the reference beside it with the same pods."""
    theirs = peers.reference(theatre, REFERENCE_PORT + number, pods, CACHE_SECONDS)
    theirs.name = reference_name(name)
    return [router(chosen, name, number, pods=pods), theirs]


def reference_name(name):
    """What the reference beside a router is called."""
    return f"{peers.REFERENCE} with {name}"


def thin_name(name):
    """What the thin router with so many pods is called."""
    return f"thin router with {name}"


def beside(each, name):
    """The figures of both in a row."""
    return {"request": each[name], f"{peers.REFERENCE}'s request": each[reference_name(name)]}


def started(stack, every, core=machine.PROXY_CORE):
    """Starts proxies, until the stack ends."""
    return [stack.enter_context(peer.running(core)) for peer in every]


def medians(chosen, measure):
    """Of each proxy's figure, by name; `measure()` gives those of one repetition."""
    all_of_them = [works.again(lambda: turns.whole(measure())) for _ in range(chosen.reps)]
    return {name: statistics.median(one[name] for one in all_of_them) for name in all_of_them[0]}


def requests(chosen, loads):
    """CPU of a request: of each proxy under the load of these options of `works.wrk`, over so many rooms at random."""
    options = {peer.name: {"path": works.COLD, "order": "random"} | load for peer, load in loads}

    def begin(peer):
        return turns.start(works.wrk(peer.port, **options[peer.name]))

    def measure():
        return from_cache(turns.measure(chosen.seconds, [peer for peer, _ in loads], begin, counter=stage.redis_hits))

    return medians(chosen, measure)


def from_cache(results):
    """The results, where whoever has asked Redis for rooms has failed: they were not all in the cache."""
    for name, found in results.items():
        if isinstance(found, turns.Measured) and found.details["counted"]:
            results[name] = turns.Failed(f"{name}: {found.details['counted']:.6f} lookups a request, and every room was asked for before")
    return results


def check(peer, path, ports):
    """Raises unless each of these rooms, from the first on, is answered by the pod of its port."""
    for n, port in enumerate(ports):
        response, _ = peer.get(path % n)
        reached = response.getheader("X-Pod")
        if reached != str(port):
            raise RuntimeError(f"{peer.name} does not route rightly: {path % n} got {response.status} from {reached} instead of {port}")


def warm(peer, rooms, path=works.COLD):
    """Asks for every room once, and for no other."""
    asked, failures = 0, 0
    while asked < rooms:
        try:
            asked += works.asked(peer.port, 1, path, first=asked, rooms=rooms - asked)["done"]
            failures = 0
        except turns.Failed:
            failures += 1  # Redis stalls for a moment on a core that is full of load: those rooms once more
            if failures == 20:
                raise


def rest(chosen):
    with peers.ours(chosen.binary, PORT).running() as peer:
        peers.check(peer)
        figures = {"resident MB": machine.memory(peer.pid, "VmRSS"), "of it anonymous": machine.memory(peer.pid, "RssAnon")}
        yield "at rest", {name: size / 1e6 for name, size in figures.items()}


def rooms(chosen, theatre):
    counts = {f"{count:,} rooms in the cache": count for count in (10, 10_000, MOST_ROOMS)}
    ports = list(stage.HTTP_PODS.values())
    with contextlib.ExitStack() as stack:
        pairs = {name: started(stack, both(chosen, theatre, name, number)) for number, name in enumerate(counts)}
        loads = [(peer, {"rooms": counts[name]}) for name, pair in pairs.items() for peer in pair]
        for peer, load in loads:
            warm(peer, load["rooms"])
            check(peer, works.COLD, [ports[n % 3] for n in range(10)])
        resident = {name: machine.memory(ours.pid, "VmRSS") / 1e6 for name, (ours, _) in pairs.items()}
        each = requests(chosen, loads)
        for name in counts:
            yield name, beside(each, name) | {"resident MB": resident[name]}


def pods(chosen, theatre):
    """The pods are many by name; by address they are three, so that their own cost does not change. The thin router, which
    looks nothing up, has one pod, and as many connections to it that wait: each request goes on any of them. It shows what of
    the growth is that of connections which are seldom used."""
    counts = {f"{count:,} pods": count for count in (3, 100, 1000)}
    ports, loads = list(stage.HTTP_PODS.values()), []
    with contextlib.ExitStack() as stack:
        for number, (name, count) in enumerate(counts.items()):
            theatre.fill_redis((f"room_of{count}_{n}", f"backend-{n % count}") for n in range(10_000))
            path, names = f"/api/room/room_of{count}_%d/state", {f"backend-{n}": ports[n % 3] for n in range(count)}
            for peer in started(stack, both(chosen, theatre, name, number, names)):
                warm(peer, 10_000, path)
                check(peer, path, names.values())
                loads.append((peer, {"path": path, "rooms": 10_000}))
            (thin,) = started(stack, [peers.floor(thin_name(name), THIN_PORT + 2 * number, ["cores", "1", str(count)])])
            warm(thin, 10_000, path)
            loads.append((thin, {"path": path, "rooms": 10_000}))
        each = requests(chosen, loads)
        for name in counts:
            yield name, beside(each, name) | {"a thin router's request": each[thin_name(name)]}


def tunnels(chosen, run):
    """One message at a time, which goes over all of them in turn; and requests beside tunnels that are silent. The floor
    shows what of a message's growth is the kernel's."""
    counts = {f"{count:,} idle tunnel{'s' * (count > 1)}": count for count in (1, 1000, 9500)}

    def message(name, number):
        """The floor's by turns with ours. One number of tunnels after the other: all of them are more than a process may have
        open."""
        with contextlib.ExitStack() as stack:
            row = started(stack, [router(chosen, name, number), peers.floor()])
            found = medians(chosen, lambda: works.messages(run, row, lambda _: counts[name], in_flight=1))
        return {"message": found[name], "the floor's message": found[peers.FLOOR]}

    messages = {name: message(name, number) for number, name in enumerate(counts)}
    with contextlib.ExitStack() as stack:
        routers = started(stack, (router(chosen, name, number) for number, name in enumerate(counts)))
        for peer in routers:
            idle = [stage.LOAD, "idle", peer.websocket, str(stage.ECHO_ROOMS), str(counts[peer.name])]
            stack.enter_context(works.Talking(idle))
            warm(peer, 10)
        each = requests(chosen, [(peer, {"rooms": 10}) for peer in routers])
    for name in counts:
        yield name, {"request": each[name]} | messages[name]


def worker_seconds(pid):
    """CPU seconds of each worker thread."""
    seconds = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as name, open(f"/proc/{pid}/task/{thread}/schedstat") as account:
            seconds[name.read().strip()] = int(account.read().split()[0]) / 1e9
    return {name: used for name, used in seconds.items() if name.startswith("worker-")}


def threads(chosen):
    """With two cores, the load takes a part of what the second thread could use: the cost of a request, and the share of it
    that the busiest thread has, say what two threads carry where they have a core each."""
    kinds = [(count, connections) for connections in (8, 64) for count in (1, 2)]
    with contextlib.ExitStack() as stack:
        loads = []
        for number, (count, connections) in enumerate(kinds):
            name = f"{count} thread{'s' * (count > 1)}, {connections} connections"
            (peer,) = started(stack, [router(chosen, name, number, threads=count)], core="0,1")
            warm(peer, 10)
            loads.append((peer, {"rooms": 10, "connections": connections}))
        before = {peer.name: worker_seconds(peer.pid) for peer, _ in loads}
        each = requests(chosen, loads)
        for (peer, _), (count, _) in zip(loads, kinds):
            used = [after - before[peer.name][name] for name, after in worker_seconds(peer.pid).items()]
            cost, busiest = each[peer.name], max(used) / sum(used)
            alone = cost if count == 1 else alone
            more = {} if count == 1 else {"busiest thread %": 100 * busiest, "times what one carries": alone / cost / busiest}
            yield peer.name, {"request": cost} | more


def main(chosen, theatre, run):
    print("| | µs CPU |\n|---|---|")
    with commandline.Rows(chosen, "scaling.json") as found:
        for rows in (rest(chosen), rooms(chosen, theatre), pods(chosen, theatre), tunnels(chosen, run), threads(chosen)):
            for what, figures in rows:
                found[what] = figures
                print(line(what, figures), flush=True)


def line(what, figures):
    """A row of the table, as benches/README.md has it."""
    return f"| {what} | {', '.join(f'{name} {figure:.1f}' for name, figure in figures.items())} |"
