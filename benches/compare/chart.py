"""The chart of the README: bars of the ratio to the reference, with its range; shorter is lighter."""

from xml.sax.saxutils import escape

from . import peers, report

COLOURS = {
    "pod-router": "#c2410c",
    "nginx-lua": "#475569",
    "nginx-tuned": "#64748b",
    "nginx-hash": "#94a3b8",
    "haproxy-hash": "#0f766e",
    "node": "#a3b18a",
    "floor": "#d4d4d8",
    "floor-cores": "#a8a29e",
    "floor-shared": "#78716c",
}
#: The figures have a rim, for the line at 1 goes through some of them.
STYLE = (
    "text{fill:#333;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    ".small{font-size:10px;fill:#555}.ours{font-weight:bold;fill:#c2410c}"
)

LEFT, WIDTH, BAR, GAP, TOP = 250, 460, 13, 16, 58

#: The longest bar; what is beyond is cut, and has its figure.
SCALE = 1.6


def draw(results, works, names):
    """An SVG document."""
    parts, y = legend(names), TOP
    for work in works:
        row = report.cells(results, work)
        shown = [name for name in names if name in row and row[name].ratio is not None]
        if not shown:
            continue
        height = len(shown) * BAR
        parts.append(f'<text x="{LEFT - 10}" y="{y + height / 2 + 4:.1f}" text-anchor="end">{escape(work.title)}</text>')
        for index, name in enumerate(shown):
            parts += bar(name, row[name], y + index * BAR)
        if not work.absolute:
            parts.append(goal(work.goal, y, height))
        y += height + GAP
    one = x(1)
    line = f'<line x1="{one}" y1="{TOP - 8}" x2="{one}" y2="{y - GAP + 4}" stroke="#333" stroke-dasharray="3 3"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {y}" width="{LEFT + WIDTH + 70}" '
        f'height="{y}" font-family="sans-serif" font-size="13"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{line}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def x(ratio):
    return round(LEFT + min(max(ratio, 0), SCALE) / SCALE * WIDTH, 1)


def legend(names):
    parts = []
    for index, name in enumerate(names):
        left = 20 + index * 110
        parts.append(f'<rect x="{left}" y="8" width="11" height="11" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{left + 15}" y="18">{escape(name)}</text>')
    key = f"cost as a ratio to {peers.REFERENCE}: median, whiskers from least to most; triangle: goal"
    parts.append(f'<text x="20" y="38" class="small">{key}</text>')
    return parts


def bar(name, cell, y):
    length, (least, most) = x(cell.ratio) - LEFT, (x(ratio) for ratio in cell.spread)
    style = "small ours" if name == peers.OURS else "small"
    figure = f"{cell.ratio:.2f}" + (" →" if cell.ratio > SCALE else "")
    middle = y + (BAR - 2) / 2
    return [
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>',
        f'<path d="M{least} {middle} H{most} M{least} {middle - 3} v6 M{most} {middle - 3} v6" stroke="#111" fill="none"/>',
        f'<text x="{max(LEFT + length, most) + 5:.1f}" y="{y + BAR - 3}" class="{style}">{figure}</text>',
    ]


def goal(ratio, y, height):
    at, bottom = x(ratio), y + height
    return f'<path d="M{at} {bottom - 1} l-4 7 h8 z" fill="#333"/>'
