"""What came out: a table for people, JSON for programs."""

import json
import re
import statistics
import subprocess

from . import disturbance, peers, turns

#: Below this share of its core a proxy was not what limited the load.
SATURATED = 0.9


class Cell:
    """One peer at one work. Repetitions that failed are None among the values, and have their reasons in `failed`."""

    def __init__(self, found, reference):
        self.values = [figure(value) for value in found]
        self.failed = [str(value) for value in found if figure(value) is None]
        measured = [value for value in found if figure(value) is not None]
        self.median = statistics.median(measured) if measured else None
        self.range = (min(measured), max(measured)) if measured else None
        pairs = zip(self.values, (figure(value) for value in reference))
        ratios = [value / other for value, other in pairs if value is not None and other is not None and other > 0]
        self.ratio = statistics.median(ratios) if ratios else None
        self.spread = (min(ratios), max(ratios)) if ratios else None
        names = measured[0].details if measured else {}
        self.details = {name: statistics.median(value.details[name] for value in measured) for name in names}
        self.disturbed = [bool(getattr(value, "disturbed", False)) for value in found]
        self.failed_first = [getattr(value, "failed_first", None) for value in found]


def figure(value):
    """The value of a repetition, or None if it failed."""
    return None if isinstance(value, turns.Failed) else float(value)


def cells(results, work):
    """The measured peers' cells for a work, by name."""
    row = results.get(work.key, {})
    reference = row.get(peers.REFERENCE, [])
    return {name: Cell(values, reference) for name, values in row.items() if values}


def table(results, chosen, names):
    """Markdown: the median of each peer, and its ratio to the reference within a repetition."""
    lines = ["| work | " + " | ".join(names) + " | goal (first step) |", "|---" * (len(names) + 2) + "|"]
    for work in chosen:
        row = cells(results, work)
        texts = [text(work, row.get(name)) for name in names]
        lines.append(f"| {work.title}, {work.unit} | " + " | ".join(texts) + f" | {goal(work, row.get(peers.OURS))} |")
    return "\n".join(lines)


def text(work, cell):
    if cell is None:
        return "–"
    if cell.median is None:
        return "failed"
    shown = f"{cell.median:,.0f}" if work.absolute else f"{cell.median:.1f}"
    if work.absolute:
        shown += f" ({cell.range[0]:,.0f}–{cell.range[1]:,.0f})"
    elif cell.ratio is not None:
        shown += f" ({cell.ratio:.2f}×, {cell.spread[0]:.2f}–{cell.spread[1]:.2f})"
    mark = " †" if any(cell.disturbed) else ""
    anew = sum(why is not None for why in cell.failed_first)
    counts = [f"{count} of {len(cell.values)} {what}" for count, what in ((len(cell.failed), "failed"), (anew, "measured anew")) if count]
    return ", ".join([shown + mark, *counts])


def goal(work, mine):
    """The goal, and whether it is reached. A verdict that a repetition contradicts is none."""
    figures = f"{work.goal:,} ({work.first_step:,})" if work.absolute else f"{work.goal:.2f}× ({work.first_step:.2f}×)"
    if mine is None:
        return figures
    spread = mine.range if work.absolute else mine.spread
    if spread is None:
        return f"{figures}: failed" if mine.median is None else figures
    best, worst = (verdict(work, value) for value in spread)
    if best == worst:
        single = sum(value is not None for value in mine.values) == 1
        return f"{figures}: {best}{', in one repetition' if single else ''}"
    middle = verdict(work, mine.median if work.absolute else mine.ratio)
    return f"{figures}: undecided, {best} to {worst} (median: {middle})"


def verdict(work, value):
    return "reached" if value <= work.goal else "first step" if value <= work.first_step else "missed"


def footnotes(results):
    """What the marks mean, and figures of the same loads that have no row."""

    def of(key, detail, form, of_whom=lambda name: True):
        found = []
        for name, values in results.get(key, {}).items():
            cell = Cell(values, [])
            if detail in cell.details and of_whom(name):
                idle = " ‡" if cell.details.get("busy", 1) < SATURATED else ""
                found.append(f"{name} {form(cell.details[detail])}{idle}")
        return ", ".join(found)

    # Others' memory at rest is mostly their table of connections, whose size is a setting.
    rest = of("tunnel", "at_rest", lambda value: f"{value / 2**20:.1f}", lambda name: name == peers.OURS)
    lines = [
        ("keep-alive requests a second", of("http", "rate", lambda value: f"{value:,.0f}")),
        ("anonymous memory at rest, MiB", rest),
        ("latency added, p99, µs", of("latency", "p99", lambda value: f"{value:,.0f}")),
    ]
    shown = [f"{title}: {figures}" for title, figures in lines if figures]
    if any("‡" in line for line in shown):
        shown.append(f"‡ its core was less than {SATURATED:.0%} busy: the rate is the load's limit, not its own")
    if any(getattr(value, "disturbed", False) for row in results.values() for found in row.values() for value in found):
        limits = f"more than {disturbance.LIMIT:.0%} of the machine, or its core was {disturbance.SLOWER:.0%} slower"
        shown.append(f"† disturbed in some repetition: steal and other processes took {limits} than it can be")
    return "\n".join(shown)


#: How each peer's program is called, and how it is asked for its version.
PROGRAMS = {
    peers.REFERENCE: ("nginx", ["nginx", "-v"]),
    peers.TUNED: ("nginx", ["nginx", "-v"]),
    "nginx-hash": ("nginx", ["nginx", "-v"]),
    "haproxy-hash": ("HAProxy", ["haproxy", "-v"]),
    "node": ("Node", ["node", "--version"]),
}


def versions(names):
    """What was compared, as each program names itself."""
    found = {}
    for program, command in (PROGRAMS[name] for name in names if name in PROGRAMS):
        said = subprocess.run(command, capture_output=True, text=True)
        number = re.search(r"\d+\.\d+[.\d]*", said.stdout + said.stderr)
        found[program] = number.group() if number else "unknown"
    return found


def origin(about):
    """The line under the README's table."""
    against = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = about["loadAverage"]
    return (
        f"{about['machine']}; {against}; {about['repetitions']} repetitions of {about['seconds']:g} s; revision "
        f"{about['revision']}, {about['date']}; load average {load[0]:.1f} before, {load[1]:.1f} after; of the machine's "
        f"time steal took {about['steal']:.1%}, other processes {about['others']:.1%}"
        + ("" if about["complete"] else "; NOT COMPLETE")
    )


def from_json(written):
    """What [`as_json`] has written, as results and what it says of the run."""
    about, results = dict(written), {}
    for key, work in about.pop("works").items():
        for name, cell in work["peers"].items():
            failed = iter(cell["failed"])
            found = [turns.Failed(next(failed)) if value is None else turns.Measured(value) for value in cell["values"]]
            first = cell.get("failed_first", [None] * len(found))  # results of 2026-11-23 and before have none
            for value, disturbed, failed_first in zip(found, cell["disturbed"], first):
                value.disturbed, value.failed_first = disturbed, failed_first
            results.setdefault(key, {})[name] = found
    return results, about


def as_json(results, chosen, about):
    """Everything that was measured, for whoever wants to reckon anew."""
    rows = {}
    for work in chosen:
        row = {name: vars(cell) for name, cell in cells(results, work).items()}
        rows[work.key] = {"title": work.title, "unit": work.unit, "goal": work.goal, "firstStep": work.first_step, "peers": row}
    return json.dumps({**about, "reference": peers.REFERENCE, "works": rows}, indent=1) + "\n"
