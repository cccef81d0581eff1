"""The plots of a comparison as SVG text: systems as labelled dots, lines over lengths, and stacked bars.

Knows numbers and names, nothing of `compare.json`. Styled by the page, as `plots`, on which it builds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from embedding_validate.plots import HEIGHT, ROW, WIDTH, Axis, frame, number, svg, x_at, y_at

SERIES = 10
_LABEL_APART = 12
_LOWEST = HEIGHT - 46.0
# Bars begin here, so that names fit before them.
_BAR_LEFT = 130


@dataclass(frozen=True)
class Dot:
    """A system in the plane. `kind` is `good`, `coarse` or `wrong`; `front` sets its name in bold."""

    x: float
    y: float
    name: str
    kind: str
    front: bool


def plane(dots: Sequence[Dot], x: Axis, y: Axis, alt: str) -> str:
    """Dots with their names."""
    parts = frame(x, y)
    places = _apart([y_at(y, d.y) + 4 for d in dots])
    for dot, at in zip(dots, places, strict=True):
        cx, cy = x_at(x, dot.x), y_at(y, dot.y)
        beside, anchor = (cx - 8, "end") if cx > WIDTH * 0.72 else (cx + 8, "start")
        parts += [
            _mark(dot.kind, cx, cy, f"{dot.name}: {number(dot.x)}, {number(dot.y)}"),
            f'<text class="{"front" if dot.front else "behind"}" x="{beside:.1f}" y="{at:.1f}" '
            f'text-anchor="{anchor}">{escape(dot.name)}</text>',
        ]
    return svg(parts, HEIGHT, alt)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis, alt: str) -> str:
    """One line with marks per name; the page's legend gives them the same order and classes."""
    parts = frame(x, y)
    for i, (name, points) in enumerate(series.items()):
        placed = [(x_at(x, a), y_at(y, b)) for a, b in points]
        parts.append(f'<polyline class="line s{i % SERIES}" points="{_points(placed)}"/>')
        for (a, b), (left, top) in zip(points, placed, strict=True):
            title = f"<title>{escape(name)}: {number(b)} at {number(a)}</title>"
            parts.append(
                f'<circle class="mark s{i % SERIES}" cx="{left:.1f}" cy="{top:.1f}" r="3">{title}</circle>'
            )
    return svg(parts, HEIGHT, alt)


def stacked(bars: Mapping[str, Mapping[str, float]], label: str, alt: str) -> str:
    """One bar per name, cut into its parts; parts of one name have one class in all bars."""
    most = max((sum(parts.values()) for parts in bars.values()), default=0) or 1
    span = WIDTH - _BAR_LEFT - 54
    found = []
    for row, (name, values) in enumerate(bars.items()):
        middle, at = row * ROW + 16, float(_BAR_LEFT)
        found.append(
            f'<text x="{_BAR_LEFT - 6}" y="{middle + 4}" text-anchor="end">{escape(name[:20])}</text>'
        )
        for i, (part, value) in enumerate(values.items()):
            width = value / most * span
            found.append(
                f'<rect class="fill s{i % SERIES}" x="{at:.1f}" y="{middle - 7}" width="{width:.1f}" '
                f'height="14"><title>{escape(name)}, {escape(part)}: {number(value)}</title></rect>'
            )
            at += width
        found.append(f'<text x="{at + 5:.1f}" y="{middle + 4}">{number(sum(values.values()))}</text>')
    height = len(bars) * ROW + 30
    found.append(f'<text class="axis" x="{_BAR_LEFT}" y="{height - 8}">{escape(label)}</text>')
    return svg(found, height, alt)


def _apart(places: Sequence[float]) -> list[float]:
    """The same heights, pushed down where two labels would touch, and up where they leave the plot."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + _LABEL_APART)
    lowest = float(HEIGHT)
    for i in reversed(order):
        moved[i] = lowest = min(moved[i], lowest - _LABEL_APART if lowest < HEIGHT else _LOWEST)
    return moved


def _points(placed: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def _mark(kind: str, cx: float, cy: float, title: str) -> str:
    inside = f"<title>{escape(title)}</title>"
    if kind == "wrong":
        return f'<path class="failed" d="M{cx - 4:.1f} {cy - 4:.1f}l8 8m0 -8l-8 8">{inside}</path>'
    return f'<circle class="dot {kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5">{inside}</circle>'
