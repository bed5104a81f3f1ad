"""The soak's figures over time, as an SVG: a band for each, from zero. Rounds that failed are marked above."""

from xml.sax.saxutils import escape

BANDS = [
    ("resident memory, MB", "resident_bytes", 1e6),
    ("open files", "open_files", 1),
    ("latency of the trickle, p50, µs", "p50_us", 1),
    ("latency of the trickle, p99, µs", "p99_us", 1),
]
LEFT, WIDTH, HEIGHT, GAP = 60, 720, 90, 36


def draw(samples, origin):
    """An SVG document; `origin` says of what, where and when."""
    span = max(row["seconds"] for row in samples) or 1
    parts = [
        f'<path d="M{LEFT + row["seconds"] / span * WIDTH:.1f} 2 v8" stroke="#b91c1c" stroke-width="2"/>'
        for row in samples
        if row["failed"]
    ]
    for index, (title, name, unit) in enumerate(BANDS):
        top = GAP + index * (HEIGHT + GAP)
        known = [row for row in samples if row[name] is not None]
        peak = max((row[name] for row in known), default=0) or 1
        points = " ".join(
            f"{LEFT + row['seconds'] / span * WIDTH:.1f},{top + HEIGHT - row[name] / peak * HEIGHT:.1f}" for row in known
        )
        bottom = top + HEIGHT
        parts += [
            f'<text x="{LEFT}" y="{top - 8}">{title}</text>',
            f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end" class="small">{peak / unit:,.0f}</text>',
            f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end" class="small">0</text>',
            f'<path d="M{LEFT} {top} V{bottom} H{LEFT + WIDTH}" fill="none" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#c2410c" stroke-width="1.5"/>',
        ]
    height = GAP + len(BANDS) * (HEIGHT + GAP)
    what = f"{span / 60:.1f} minutes; revision {origin['revision']}, {origin['date']}, {origin['machine']}"
    parts.append(f'<text x="{LEFT + WIDTH}" y="{height - 16}" text-anchor="end" class="small">{escape(what)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 30} {height}" '
        f'width="{LEFT + WIDTH + 30}" height="{height}" font-family="sans-serif" font-size="13">'
        f"<style>text{{fill:#333}}.small{{font-size:10px;fill:#555}}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
