"""The benchmark record as one HTML page: goals, figures, and the curves of growth as SVG."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 360, 220, 44
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1b2430; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #dde3ea; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.met { color: #1a7f37; } .missed { color: #b42318; font-weight: 600; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figcaption { max-width: 340px; }
"""


def page(record: Mapping[str, Any]) -> str:
    """Return the page; it needs nothing from elsewhere."""
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    parts = [f"<h1>Benchmarks</h1><p>{html.escape(machine)}</p>"]
    for name, one in record["benchmarks"].items():
        parts.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(one['measured_at'])}</p>")
        parts.append(_goals(one["goals"]))
        parts.extend(_curve(title, points) for title, points in one.get("curves", {}).items())
        parts.append(_figures(one["figures"]))
        parts.extend(f"<p>{html.escape(note)}</p>" for note in one["notes"])
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Benchmarks</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _goals(goals: Sequence[Mapping[str, Any]]) -> str:
    if not goals:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(goal['name'])}</td><td class=number>{goal['ratio']:.2f}</td>"
        f"<td>{'≤' if goal['at_most'] else '≥'} {goal['bound']:.3g}</td>"
        f"<td class={'met' if goal['met'] else 'missed'}>{'met' if goal['met'] else 'not met'}"
        "</td></tr>"
        for goal in goals
    )
    return f"<table><tr><th>Goal<th>Ratio<th>Bound<th></tr>{rows}</table>"


def _figures(figures: Sequence[Mapping[str, Any]]) -> str:
    if not figures:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(each['case'])}</td><td>{html.escape(each['contender'])}</td>"
        f"<td>{each['quantity']}</td><td class=number>{each['median']:.4g} {each['unit']}</td>"
        f"<td class=number>{min(each['values']):.4g} to {max(each['values']):.4g}</td></tr>"
        for each in figures
    )
    head = "<tr><th>Case<th>Contender<th>Quantity<th>Median<th>Range</tr>"
    return f"<table>{head}{rows}</table>"


def _curve(title: str, points: Sequence[Sequence[float]]) -> str:
    """Return one curve, both axes logarithmic, with a linear one as dashes beside it."""
    x = [math.log10(size) for size, _ in points]
    y = [math.log10(cost) for _, cost in points]
    linear = [y[0] + each - x[0] for each in x]
    low, high = min(*y, *linear), max(*y, *linear)

    def place(a: float, b: float) -> tuple[float, float]:
        across = (a - x[0]) / (x[-1] - x[0] or 1)
        up = (b - low) / (high - low or 1)
        inner = _HEIGHT - 2 * _MARGIN
        return _MARGIN + across * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - up * inner

    def line(values: Sequence[float], style: str) -> str:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place, x, values))
        return f'<polyline points="{path}" fill="none" {style}/>'

    marks = []
    for (size, cost), a, b in zip(points, x, y, strict=True):
        left, top = place(a, b)
        marks.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="#175cd3"/>')
        marks.append(
            f'<text x="{left:.1f}" y="{top - 8:.1f}" font-size="11" text-anchor="middle">'
            f"{cost:.3g} ms</text>"
        )
        marks.append(
            f'<text x="{left:.1f}" y="{_HEIGHT - 14}" font-size="11" text-anchor="middle">'
            f"{size:g}</text>"
        )
    drawn = line(linear, 'stroke="#98a2b3" stroke-dasharray="4 4"')
    drawn += line(y, 'stroke="#175cd3" stroke-width="2"')
    caption = f"<figcaption>{html.escape(title)}; dashes: linear</figcaption>"
    box = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f"<figure><svg {box}>{drawn}{''.join(marks)}</svg>{caption}</figure>"
