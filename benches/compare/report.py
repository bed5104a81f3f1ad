"""What came out: a table for people, JSON for programs."""

import json
import re
import statistics
import subprocess

from . import peers


class Cell:
    """One peer at one work."""

    def __init__(self, values, reference):
        self.values = values
        self.median = statistics.median(values)
        ratios = [value / other for value, other in zip(values, reference) if other > 0]
        self.ratio = statistics.median(ratios) if ratios else None
        self.spread = (min(ratios), max(ratios)) if ratios else None
        self.details = {name: statistics.median(value.details[name] for value in values) for name in values[0].details}


def cells(results, work):
    """The measured peers' cells for a work, by name."""
    row = results.get(work.key, {})
    reference = row.get(peers.REFERENCE, [])
    return {name: Cell(values, reference) for name, values in row.items() if values}


def table(results, works, names):
    """Markdown: the median of each peer, and its ratio to the reference within a repetition."""
    lines = ["| work | " + " | ".join(names) + " | goal (first step) |", "|---" * (len(names) + 2) + "|"]
    for work in works:
        row = cells(results, work)
        texts = [text(work, row.get(name)) for name in names]
        lines.append(f"| {work.title}, {work.unit} | " + " | ".join(texts) + f" | {goal(work, row)} |")
    return "\n".join(lines)


def text(work, cell):
    if cell is None:
        return "–"
    median = f"{cell.median:,.0f}" if work.absolute else f"{cell.median:.1f}"
    if work.absolute:
        return f"{median} ({min(cell.values):,.0f}–{max(cell.values):,.0f})"
    if cell.ratio is None:
        return median
    return f"{median} ({cell.ratio:.2f}×, {cell.spread[0]:.2f}–{cell.spread[1]:.2f})"


def goal(work, row):
    mine = row.get(peers.OURS)
    figures = f"{work.goal:,} ({work.first_step:,})" if work.absolute else f"{work.goal:.2f}× ({work.first_step:.2f}×)"
    value = mine and (mine.median if work.absolute else mine.ratio)
    if value is None:
        return figures
    state = "reached" if value <= work.goal else "first step" if value <= work.first_step else "missed"
    return f"{figures}: {state}"


def footnotes(results):
    """Figures of the same loads that have no row: requests a second on the one core, memory at rest, tail latency."""

    def of(key, detail, form):
        row = results.get(key, {})
        return ", ".join(f"{name} {form(statistics.median(v.details[detail] for v in row[name]))}" for name in row)

    lines = [
        ("keep-alive requests a second", of("http", "rate", lambda value: f"{value:,.0f}")),
        ("anonymous memory at rest, MiB", of("tunnel", "at_rest", lambda value: f"{value / 2**20:.1f}")),
        ("latency added, p99, µs", of("latency", "p99", lambda value: f"{value:,.0f}")),
    ]
    return "\n".join(f"{title}: {figures}" for title, figures in lines if figures)


def versions(names):
    """What was compared, as each program names itself."""
    commands = {
        "nginx-lua": ["nginx", "-v"],
        "nginx-hash": ["nginx", "-v"],
        "haproxy-hash": ["haproxy", "-v"],
        "node": ["node", "--version"],
    }
    found = {}
    for name in names:
        if name in commands:
            said = subprocess.run(commands[name], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[.\d]*", said.stdout + said.stderr)
            found[name] = number.group() if number else "unknown"
    return found


def as_json(results, works, about):
    """Everything that was measured, for whoever wants to reckon anew."""
    rows = {}
    for work in works:
        row = {name: vars(cell) for name, cell in cells(results, work).items()}
        rows[work.key] = {"title": work.title, "unit": work.unit, "goal": work.goal, "firstStep": work.first_step, "peers": row}
    return json.dumps({**about, "reference": peers.REFERENCE, "works": rows}, indent=1) + "\n"
