"""What is reckoned from measurements: run by tests/it/benches.rs, or with python3 -m unittest benches.compare.test_pure."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import unittest
from unittest import mock

from . import __main__ as comparison
from . import chart, commandline, disturbance, peers, profile, report, runtimes, scaling, soak, soak_plot, stage, turns, works

HTTP = next(work for work in works.WORKS if work.key == "http")
TUNNEL = next(work for work in works.WORKS if work.key == "tunnel")
ORIGIN = {"revision": "abc", "date": "2026-01-01", "machine": "2 cores"}


def measured(*values, **details):
    return [turns.Measured(value, **details) for value in values]


def row(seconds, resident, failed=""):
    latency = None if failed else 100
    return dict(zip(soak.FIELDS, [seconds, resident, 20, latency, latency, failed]))


class Readme(unittest.TestCase):
    """README and benches/README.md show what the last runs have measured: rows that are pasted, not figures that are copied."""

    def read(self, path):
        with open(path) as file:
            return file.read()

    def rows_of(self, name, line):
        written = json.loads(self.read(f"{commandline.RESULTS}/{name}.json"))
        self.assertTrue(written["complete"])
        return [line(what, figures) for what, figures in written["rows"].items()]

    def test_its_tables_are_those_of_the_results(self):
        results, about = report.from_json(json.loads(self.read(f"{commandline.RESULTS}/results.json")))
        self.assertTrue(about["complete"])
        comparison = report.table(results, works.WORKS, peers.NAMES).splitlines()
        others = self.rows_of("scaling", scaling.line) + self.rows_of("runtimes", runtimes.line)
        for path, expected in ("README.md", comparison), ("benches/README.md", others):
            shown = self.read(path).splitlines()
            self.assertEqual([row for row in expected if row not in shown], [])


class Report(unittest.TestCase):
    def results(self, ours, reference):
        return {"http": {peers.OURS: ours, peers.REFERENCE: reference}}

    def table(self, ours, reference):
        return report.table(self.results(ours, reference), [HTTP], [peers.OURS, peers.REFERENCE]).splitlines()[-1]

    def test_ratios_are_taken_within_a_repetition_and_a_failed_one_has_none(self):
        ours = [*measured(5.0), turns.Failed("refused"), *measured(9.0)]
        results = self.results(ours, measured(10.0, 10.0, 20.0))
        cell = report.cells(results, HTTP)[peers.OURS]
        self.assertEqual((cell.values, cell.failed), ([5.0, None, 9.0], ["refused"]))
        self.assertEqual((cell.median, cell.spread), (7.0, (0.45, 0.5)))
        self.assertIn("| 7.0 (0.47×, 0.45–0.50), 1 of 3 failed |", self.table(ours, measured(10.0, 10.0, 20.0)))

    def test_whoever_failed_throughout_and_whoever_has_no_reference_are_shown(self):
        failed = [turns.Failed("refused")] * 2
        self.assertIn("| failed | 10.0 (1.00×, 1.00–1.00) | 0.60× (0.75×): failed |", self.table(failed, measured(10.0, 10.0)))
        self.assertIn("| 5.0 | failed | 0.60× (0.75×) |", self.table(measured(5.0, 5.0), failed))

    def test_a_verdict_that_a_repetition_contradicts_is_undecided(self):
        tens = measured(10.0, 10.0, 10.0)
        self.assertIn("0.60× (0.75×): reached |", self.table(measured(4.0, 5.0, 6.0), tens))
        self.assertIn("0.60× (0.75×): first step |", self.table(measured(6.1, 7.0, 7.5), tens))
        undecided = "0.60× (0.75×): undecided, reached to missed (median: first step) |"
        self.assertIn(undecided, self.table(measured(5.0, 7.0, 8.0), tens))
        self.assertIn("0.60× (0.75×): reached, in one repetition |", self.table(measured(4.0), tens))
        cell = report.Cell(measured(1500.0, 1600.0), [])
        self.assertEqual(report.goal(TUNNEL, cell), "1,536 (2,560): undecided, reached to first step (median: first step)")

    def test_a_disturbed_repetition_and_an_idle_core_are_marked(self):
        ours, reference = measured(5.0, rate=9.0, busy=0.89), measured(10.0, rate=9.0, busy=0.9)
        self.assertNotIn("†", self.table(ours, reference))
        ours[0].disturbed = True
        self.assertIn("0.50) † |", self.table(ours, reference))
        notes = report.footnotes(self.results(ours, reference))
        self.assertIn(f"{peers.OURS} 9 ‡, {peers.REFERENCE} 9\n", notes)
        self.assertIn("†", notes)

    def test_what_was_measured_anew_is_told(self):
        peer, first, second = mock.Mock(), turns.Failed("refused"), *measured(5.0)
        peer.name, peer.process.poll.return_value = peers.OURS, None
        work = mock.Mock(measure=mock.Mock(side_effect=[{peers.OURS: first}, {peers.OURS: second}]))
        with contextlib.redirect_stdout(io.StringIO()):
            ours = [*measured(5.0), comparison.attempt(work, None, [peer])[peers.OURS]]
        self.assertIn("| 5.0 (0.50×, 0.50–0.50), 1 of 2 measured anew |", self.table(ours, measured(10.0, 10.0)))
        written = json.loads(report.as_json(self.results(ours, measured(10.0, 10.0)), [HTTP], ORIGIN))
        self.assertEqual(written["works"]["http"]["peers"][peers.OURS]["failed_first"], [None, "refused"])
        read, _ = report.from_json(written)
        self.assertIn("1 of 2 measured anew", report.table(read, [HTTP], [peers.OURS]))

    def test_the_json_and_the_chart_of_a_run_with_failures_are_whole(self):
        results = self.results([turns.Failed("refused"), *measured(5.0)], measured(10.0, 10.0))
        found = json.loads(report.as_json(results, [HTTP, TUNNEL], ORIGIN))["works"]["http"]["peers"][peers.OURS]
        self.assertEqual((found["values"], found["failed"]), ([None, 5.0], ["refused"]))
        drawn = chart.draw(results, works.WORKS, peers.NAMES)
        self.assertIn(">0.50</text>", drawn)
        self.assertEqual(set(peers.NAMES + peers.EXTRA) - set(chart.COLOURS), set())


class Works(unittest.TestCase):
    def test_a_load_that_failed_says_how_much_it_asked_for(self):
        self.assertEqual(turns.served('text\n{"done": 5, "failed": 0}')["done"], 5)
        for text, asked in [('{"done": 5, "failed": 2}', 7), ('{"done": 0}', 0)]:
            with self.assertRaises(turns.Failed) as raised:
                turns.served(text)
            self.assertEqual(raised.exception.asked, asked)


    def test_what_fails_is_tried_once_more(self):
        outcomes = [turns.Failed("one"), 7, turns.Failed("two"), turns.Failed("three")]

        def measure():
            outcome = outcomes.pop(0)
            if isinstance(outcome, turns.Failed):
                raise outcome
            return outcome

        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(works.again(measure), 7)
            self.assertRaisesRegex(turns.Failed, "three", works.again, measure)


class Turns(unittest.TestCase):
    """With stand-ins for proxy and load: a process that counts as fast as it may, and says so when it is interrupted."""

    #: Of Python, whose handler counts even where SIGINT is ignored, as in a shell's background.
    COUNTS = """
import signal
def say(*_):
    print('{"done": %d}' % count)
    raise SystemExit
count = 1
signal.signal(signal.SIGINT, say)
print("ready", flush=True)
while True:
    count += 1
"""

    def measure(self, *scripts, seconds=0.6):
        def begin(peer):
            process = turns.start([sys.executable, "-ISc", peer.script])
            process.stdout.readline()
            return process

        class Proxy:
            pid = os.getpid()

            def __init__(self, name, script):
                self.name, self.script = name, script

        proxies = [Proxy(f"{number}", script) for number, script in enumerate(scripts)]
        return turns.measure(seconds, proxies, begin, counter=lambda: 1)

    def test_each_load_runs_in_its_turns_alone(self):
        begun = []
        began, measure = time.monotonic(), turns.Load.turn
        with mock.patch.object(turns.Load, "turn", lambda load: begun.append(load.peer.name) or measure(load)):
            found = turns.whole(self.measure(self.COUNTS, self.COUNTS, seconds=0.3))
        whole = time.monotonic() - began
        # In any order, each once a round. The last two are their ends.
        self.assertEqual([sorted(begun[at : at + 2]) for at in range(0, 8, 2)], [["0", "1"]] * 4)
        self.assertEqual(len(begun), 8)
        seconds = [found[name].details["done"] / found[name].details["rate"] for name in "01"]
        self.assertLess(sum(seconds), whole, "they were not beside each other")
        self.assertEqual(set(found["0"].details), {"done", "rate", "busy", "counted"})
        self.assertEqual(turns.only(self.measure(self.COUNTS, seconds=0.1)).details["counted"], 0)

    def test_a_load_that_fails_is_its_own_proxys_failure(self):
        failing = {
            "print('ready', flush=True); raise SystemExit('out of sockets')": "no account of what was done: out of sockets",
            self.COUNTS.replace("%d}", '%d, "failed": 2}'): "failed or not served: .*'failed': 2",
        }
        for script, why in failing.items():
            found = self.measure(script, self.COUNTS, seconds=0.2)
            self.assertRegex(str(found["0"]), why)
            self.assertIsInstance(found["1"], turns.Measured)
            self.assertRaises(turns.Failed, turns.whole, found)


class Scaling(unittest.TestCase):
    def config(self, peer):
        with open(peer.command[-1]) as file:
            return file.read()

    def test_references_beside_each_other_have_pods_a_cache_and_files_of_their_own(self):
        pods = {f"backend-{n}": 4100 + n % 3 for n in range(1000)}
        theatre = stage.Stage(0)
        self.addCleanup(theatre.temporary.cleanup)
        usual, few, many = (
            self.config(peers.reference(theatre, **how))
            for how in ({}, {"port": 4240, "pods": {"backend-0": 4100}, "cache_seconds": 3600}, {"port": 4241, "pods": pods})
        )
        self.assertIn("rooms:set(room, value, 2)", usual)
        self.assertIn("rooms:set(room, value, 3600)", few)
        self.assertEqual([text.count("keepalive 64;") for text in (usual, few, many)], [len(stage.PODS), 1, 1000])
        self.assertIn("upstream backend-998 { server 127.0.0.1:4102; keepalive 64;", many)
        self.assertNotRegex(usual + few + many, "@[A-Z]")
        own, others = (re.findall(rf"{theatre.directory}\S+", text) for text in (few, many))
        self.assertEqual((len(own), set(own) & set(others)), (4, set()))

    def test_whoever_asked_redis_was_not_measured_with_its_rooms_in_the_cache(self):
        results = {"ours": turns.Measured(20.0, counted=0.0), "theirs": turns.Measured(40.0, counted=2e-6), "third": turns.Failed("x")}
        found = scaling.from_cache(results)
        self.assertEqual((found["ours"], str(found["third"])), (20.0, "x"))
        self.assertRegex(str(found["theirs"]), "theirs: 0.000002 lookups a request")

    def test_both_are_in_one_row(self):
        name = "1,000 pods"
        each = {name: 28.52, scaling.reference_name(name): 50.14}
        self.assertEqual(
            scaling.line(name, scaling.beside(each, name)), "| 1,000 pods | request 28.5, nginx-lua's request 50.1 |"
        )


class Disturbance(unittest.TestCase):
    def test_shares_are_of_all_cores(self):
        steal, others = disturbance.shares((100.0, 1.0, 50.0, 40.0), (104.0, 1.2, 53.0, 42.6))
        self.assertAlmostEqual(steal, 0.05)
        self.assertAlmostEqual(others, 0.1)
        self.assertEqual(disturbance.shares((1.0,) * 4, (1.0,) * 4), (0.0, 0.0))

    def test_each_of_the_three_is_enough(self):
        self.assertFalse(disturbance.is_disturbed(0.02, 0.02, 0.1))
        for figures in [(0.06, 0, 0), (0, 0.06, 0), (0, 0, 0.25), (0.03, 0.03, 0)]:
            self.assertTrue(disturbance.is_disturbed(*figures))


class Profile(unittest.TestCase):
    def test_functions_of_one_name_are_found_in_the_file(self):
        headers = "  LOAD  0x000000 0x0000 0x0000 0x100 0x100 R   0x1000\n  LOAD  0x100 0x1100 0x1100 0x200 0x200 R E 0x1000"
        symbols = "00001110 t a::poll\n00001180 t a::poll\n00001180 t a::poll\n00001190 t a::poll_more\n         U memcpy"
        self.assertEqual(profile.offsets(headers, symbols, "a::poll"), [0x110, 0x180])


class Soak(unittest.TestCase):
    def test_growth_is_from_the_second_third_to_the_last(self):
        sizes = [10e6] * 4 + [40e6] * 4
        level, grown = ([row(n, size) for n, size in enumerate(sizes + [last] * 4)] for last in (41e6, 60e6))
        self.assertIs(soak.grew(level, "resident_bytes"), False)
        self.assertIs(soak.grew(grown, "resident_bytes"), True)
        self.assertIsNone(soak.grew(grown[:9], "resident_bytes"))

    def test_failed_rounds_are_rows_without_latency(self):
        rows = [row(n, 10e6, "refused" if n == 5 else "") for n in range(15)]
        self.assertIs(soak.grew(rows, "p50_us"), False)
        self.assertEqual(soak_plot.draw(rows, ORIGIN).count("#b91c1c"), 1)
        soak_plot.draw([row(1, 10e6, "refused")], ORIGIN)


class Command(unittest.TestCase):
    def run_it(self, *arguments, **environment):
        command = [sys.executable, "-m", "benches.compare", *arguments]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    def test_options_are_checked_by_themselves(self):
        self.assertEqual(self.run_it("--quick", "--check-options"), (0, ""))
        for wrong in ["--only=htp", "--reps=0", "--tunnels=10000", "--talking=0", "--binary=/bin/true", "--binary=/nowhere", "--quik"]:
            status, said = self.run_it(wrong, "--check-options")
            self.assertEqual(status, 2, wrong)
            self.assertIn(f"error: {'unrecognized' if wrong == '--quik' else 'argument'}", said)

    def test_results_name_a_router_that_was_not_built_here(self):
        self.assertNotIn("router", commandline.origin(stage.ROUTER)["revision"])
        self.assertIn("the router is /tmp/other", commandline.origin("/tmp/other")["revision"])

    def test_without_a_namespace_of_its_own_nothing_is_touched(self):
        for outside in ["", os.readlink("/proc/self/ns/net")]:
            status, said = self.run_it("--only", "http", **{stage.OUTSIDE: outside})
            self.assertEqual(status, 1)
            self.assertEqual(said, "error: no network namespace of its own: start it by benches/run, benches/soak or benches/attack\n")


if __name__ == "__main__":
    unittest.main()
