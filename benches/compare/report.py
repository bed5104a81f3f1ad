"""What came out: a table for people, JSON for programs, a chart for the README."""

import json
import statistics

from . import peers

COLOURS = {"pod-router": "#c2410c", "nginx-lua": "#64748b", "nginx-hash": "#94a3b8", "haproxy-hash": "#0f766e", "node": "#4d7c0f", "floor": "#d4d4d8"}


class Cell:
    """One peer at one work."""

    def __init__(self, values, reference):
        self.values = values
        self.median = statistics.median(values)
        ratios = [value / other for value, other in zip(values, reference) if other > 0]
        self.ratio = statistics.median(ratios) if ratios else None
        self.spread = (min(ratios), max(ratios)) if ratios else None


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
    if work.absolute or cell.ratio is None:
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


def as_json(results, works, about):
    """Everything that was measured, for whoever wants to reckon anew."""
    rows = {}
    for work in works:
        row = {
            name: {"values": cell.values, "median": cell.median, "ratio": cell.ratio, "spread": cell.spread}
            for name, cell in cells(results, work).items()
        }
        rows[work.key] = {"title": work.title, "unit": work.unit, "goal": work.goal, "firstStep": work.first_step, "peers": row}
    return json.dumps({**about, "reference": peers.REFERENCE, "works": rows}, indent=1)


def chart(results, works, names):
    """Bars of the ratio to the reference: shorter is lighter. What is far off the scale is cut, with its figure."""
    left, width, bar, gap, scale = 250, 420, 12, 14, 1.6
    y, parts = 46, []
    rows = [work for work in works if cells(results, work).get(peers.REFERENCE)]
    for work in rows:
        row = cells(results, work)
        shown = [name for name in names if name in row and row[name].ratio is not None]
        middle = y + len(shown) * bar / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end">{work.title}</text>')
        for name in shown:
            ratio = row[name].ratio
            length = min(max(ratio, 0), scale) / scale * width
            colour = COLOURS.get(name, "#999")
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{colour}"/>')
            cut = "…" if ratio > scale else ""
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 3}" class="n">{cut}{ratio:.2f}</text>')
            y += bar
        y += gap
    one = left + width / scale
    legend = "".join(
        f'<rect x="{20 + n * 120}" y="12" width="10" height="10" fill="{COLOURS.get(name, "#999")}"/>'
        f'<text x="{20 + n * 120 + 14}" y="21">{name}</text>'
        for n, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 120}" height="{y}" font-family="sans-serif" '
        f'font-size="12"><style>.n{{font-size:9px;fill:#555}}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'{legend}<line x1="{one:.1f}" y1="34" x2="{one:.1f}" y2="{y - gap}" stroke="#333" stroke-dasharray="3 3"/>'
        f'{"".join(parts)}</svg>\n'
    )
