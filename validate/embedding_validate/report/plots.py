"""Small plots as SVG text: inline in a page, readable without scripts, styled by the page's own colours.

A plotting library would embed fonts and fixed colours; these plots follow the reader's light or dark theme,
scale to a phone and keep their text selectable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Narrow, so that letters stay readable when a page shrinks a plot to a phone.
WIDTH, HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 16, 42
ROW = 22


@dataclass(frozen=True)
class Axis:
    """A label and a scale; with a `base` it is logarithmic, with ticks at powers of the base."""

    label: str
    low: float
    high: float
    base: int | None = None

    def place(self, value: float) -> float:
        """The position of a value between `low` (0) and `high` (1), clipped at both ends."""
        f: Callable[[float], float] = math.log10 if self.base else float
        low, high = f(self.low), f(self.high)
        at = (f(max(value, self.low)) - low) / ((high - low) or 1)
        return min(1.0, max(0.0, at))

    def ticks(self) -> list[float]:
        """Powers of the base, else five even steps; at most about seven."""
        if self.base is None:
            return [self.low + (self.high - self.low) * i / 4 for i in range(5)]
        first = math.ceil(math.log(self.low, self.base) - 1e-9)
        last = math.floor(math.log(self.high, self.base) + 1e-9)
        return [float(self.base) ** n for n in range(first, last + 1, max(1, (last - first + 5) // 6))]


@dataclass(frozen=True)
class Point:
    """A dot with its tooltip; `failed` sets its shape and colour."""

    x: float
    y: float
    title: str
    failed: bool = False


def scatter(points: Sequence[Point], x: Axis, y: Axis, alt: str, limit: float | None = None) -> str:
    """Dots, or crosses for failures; `limit` draws a dashed line at a value of y."""
    parts = [*frame(x, y)]
    if limit is not None:
        at = y_at(y, limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="limit" x="{WIDTH - _RIGHT}" y="{at - 4:.1f}" text-anchor="end">limit</text>'
        )
    parts += [_dot(p, x, y) for p in points]
    return svg(parts, HEIGHT, alt)


def histogram(values: Sequence[float], x: Axis, alt: str, bins: int = 24) -> str:
    """Bars of counts over `bins` equal classes of the axis."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(x.place(value) * bins))] += 1
    y = Axis("checks", 0, 4 * math.ceil(max(counts, default=1) / 4) or 4)
    width = (WIDTH - _LEFT - _RIGHT) / bins
    bars = [
        f'<rect class="bar" x="{_LEFT + i * width + 1:.1f}" y="{y_at(y, n):.1f}" width="{width - 2:.1f}" '
        f'height="{HEIGHT - _BOTTOM - y_at(y, n):.1f}"><title>{n}</title></rect>'
        for i, n in enumerate(counts)
        if n
    ]
    return svg([*frame(x, y), *bars], HEIGHT, alt)


def rows(values: Mapping[str, tuple[float, bool]], x: Axis, alt: str) -> str:
    """One horizontal bar per name: (value, failed)."""
    height, left = len(values) * ROW + 40, 170
    span = WIDTH - left - _RIGHT - 56
    parts = []
    for i, (name, (value, failed)) in enumerate(values.items()):
        middle, length = i * ROW + 16, max(2.0, x.place(value) * span)
        kind = "bar failed" if failed else "bar"
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(name[:24])}</text>',
            f'<rect class="{kind}" x="{left}" y="{middle - 7}" width="{length:.1f}" height="14"/>',
            f'<text x="{left + length + 6:.1f}" y="{middle + 4}">{number(value)}</text>',
        ]
    parts.append(f'<text class="axis" x="{left}" y="{height - 8}">{escape(x.label)}</text>')
    return svg(parts, height, alt)


def svg(parts: Sequence[str], height: int, alt: str) -> str:
    """A plot of the usual width from its elements; `alt` says in words what it shows."""
    return (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" viewBox="0 0 {WIDTH} {height}">'
        f"<title>{escape(alt)}</title>{''.join(parts)}</svg>"
    )


def frame(x: Axis, y: Axis) -> list[str]:
    """The grid, ticks and labels of two axes."""
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks():
        at = y_at(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    ticks = x.ticks()
    for tick in ticks:
        at = x_at(x, tick)
        anchor = "end" if tick == ticks[-1] and at > WIDTH - _RIGHT - 12 else "middle"
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{number(tick)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
    )
    up = (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" x="14" y="{up:.0f}" text-anchor="middle" transform="rotate(-90 14 {up:.0f})">'
        f"{escape(y.label)}</text>"
    )
    return parts


def _dot(p: Point, x: Axis, y: Axis) -> str:
    cx, cy = x_at(x, p.x), y_at(y, p.y)
    title = f"<title>{escape(p.title)}</title>"
    if p.failed:
        cross = f"M{cx - 4:.1f} {cy - 4:.1f}l8 8m0 -8l-8 8"
        return f'<path class="failed" d="{cross}">{title}</path>'
    return f'<circle class="dot" cx="{cx:.1f}" cy="{cy:.1f}" r="3">{title}</circle>'


def x_at(axis: Axis, value: float) -> float:
    """The horizontal place of a value in a plot."""
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def y_at(axis: Axis, value: float) -> float:
    """The vertical place of a value in a plot."""
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def number(value: float) -> str:
    """A tick's or bar's label, three digits at most."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}" if math.log10(abs(value)).is_integer() else f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
