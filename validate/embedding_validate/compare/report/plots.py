"""The plots of a comparison as SVG text: systems as labelled dots, lines over lengths, and stacked bars.

They build on the validator's `report.plots` and are styled by the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from embedding_validate.report.plots import HEIGHT, ROW, WIDTH, Axis, frame, number, svg, x_at, y_at

SERIES = 10
# Labels: how far apart, the lowest and highest, the width of a letter at most, and text below its middle.
_LABEL_APART = 13
_LOWEST, _HIGHEST, _LEFTMOST = HEIGHT - 46.0, 4.0, 66.0
_LETTER, _BASELINE = 6.5, 4.0
# How many lines above or below its dot a name may go: the whole plot.
_MOST_STEPS = 18
# Dots as near as this to the side may be taken for one another's.
_REACH = 40.0
# Bars begin here, so that names fit before them.
_BAR_LEFT, _BAR_NAME = 150, 22

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Dot:
    """A system in the plane. `kind` is `good`, `coarse`, `unknown` or `wrong`; `front` sets its name in
    bold."""

    x: float
    y: float
    name: str
    kind: str
    front: bool


@dataclass(frozen=True)
class Label:
    """The position of a name, and the room that it takes."""

    x: float
    y: float
    anchor: str
    box: Box


def plane(dots: Sequence[Dot], x: Axis, y: Axis, alt: str) -> str:
    """Dots with their names."""
    parts = frame(x, y)
    centres = [(x_at(x, d.x), y_at(y, d.y)) for d in dots]
    for dot, (cx, cy), place in zip(dots, centres, labels(dots, centres), strict=True):
        if abs(place.y - cy - _BASELINE) > _LABEL_APART:
            parts.append(
                f'<line class="leader" x1="{cx:.1f}" y1="{cy:.1f}" x2="{place.x:.1f}" '
                f'y2="{place.y - _BASELINE:.1f}"/>'
            )
        parts += [
            _mark(dot.kind, cx, cy, f"{dot.name}: {number(dot.x)}, {number(dot.y)}"),
            f'<text class="{"front" if dot.front else "behind"}" x="{place.x:.1f}" y="{place.y:.1f}" '
            f'text-anchor="{place.anchor}">{escape(dot.name)}</text>',
        ]
    return svg(parts, HEIGHT, alt)


def labels(dots: Sequence[Dot], centres: Sequence[tuple[float, float]]) -> list[Label]:
    """The position of each name: beside its dot, or as close above or below it as possible without touching
    others."""
    boxes: list[Box] = [(cx - 5, cy - 5, cx + 5, cy + 5) for cx, cy in centres]
    placed: dict[int, Label] = {}
    # Names that fit on one side alone are placed before those that have a choice.
    order = sorted(range(len(dots)), key=lambda i: (len(_sides(dots[i].name, centres[i][0])), centres[i][1]))
    for i in order:
        places = _places(dots[i].name, *centres[i])
        others = [c for j, c in enumerate(centres) if j != i]
        free = [p for p in places if not any(_touch(p.box, box) for box in boxes)]
        clear = [p for p in free if _is_nearest(p, centres[i], others)]
        # Rather over a dot than over a name.
        names = boxes[len(dots) :]
        apart = [p for p in places if not any(_touch(p.box, box) for box in names)]
        least = min(places, key=lambda p: sum(_shared(p.box, box) for box in names))
        placed[i] = (clear or free or apart or [least])[0]
        boxes.append(placed[i].box)
    return [placed[i] for i in range(len(dots))]


def _sides(name: str, cx: float) -> list[tuple[float, float, str]]:
    """Positions beside a dot at which a name stays in the plot: (left edge, x, anchor)."""
    width = len(name) * _LETTER
    both = [(cx + 8, cx + 8, "start"), (cx - 8 - width, cx - 8, "end")]
    # One too long for either side begins where it just fits, and goes above or below.
    within = max(_LEFTMOST + 1, WIDTH - 1 - width)
    return [s for s in both if s[0] > _LEFTMOST and s[0] + width < WIDTH] or [(within, within, "start")]


def _places(name: str, cx: float, cy: float) -> list[Label]:
    """Places for a name within the plot, the nearest first; to the right before to the left."""
    places = []
    for step in sorted(range(-_MOST_STEPS, _MOST_STEPS + 1), key=lambda n: (abs(n), n < 0)):
        at = cy + _BASELINE + step * _LABEL_APART
        for left, x, anchor in _sides(name, cx):
            box = (left, at - _LABEL_APART + 3, left + len(name) * _LETTER, at + 3)
            if box[1] > _HIGHEST and at <= _LOWEST:
                places.append(Label(x, at, anchor, box))
    return places


def _is_nearest(label: Label, own: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether no other dot in reach of the label is nearer to its height, since the label would seem to
    belong to that one."""
    middle = label.y - _BASELINE
    reach = (c for c in others if abs(c[0] - own[0]) < _REACH)
    return all(abs(middle - own[1]) < abs(middle - cy) for _, cy in reach)


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis, alt: str) -> str:
    """One line with marks per name; the page's legend has them in the same order, each in its `style_of`."""
    parts = frame(x, y)
    for i, (name, points) in enumerate(series.items()):
        placed = [(x_at(x, a), y_at(y, b)) for a, b in points]
        style = style_of(i)
        parts.append(f'<polyline class="line {style}" points="{_points(placed)}"/>')
        for (a, b), (left, top) in zip(points, placed, strict=True):
            title = f"<title>{escape(name)}: {number(b)} at {number(a)}</title>"
            parts.append(
                f'<circle class="mark {style}" cx="{left:.1f}" cy="{top:.1f}" r="3">{title}</circle>'
            )
    return svg(parts, HEIGHT, alt)


def style_of(i: int) -> str:
    """The classes of the i-th name; past the last colour they come again, dashed and hollow."""
    return f"s{i % SERIES}{' again' if i >= SERIES else ''}"


def stacked(bars: Mapping[str, Mapping[str, float]], label: str, alt: str) -> str:
    """One bar per name, cut into its parts; parts of one name have one class in all bars."""
    most = max((sum(parts.values()) for parts in bars.values()), default=0) or 1
    span = WIDTH - _BAR_LEFT - 54
    shapes = []
    for row, (name, values) in enumerate(bars.items()):
        middle, at = row * ROW + 16, float(_BAR_LEFT)
        shapes.append(
            f'<text x="{_BAR_LEFT - 6}" y="{middle + 4}" text-anchor="end">{escape(_cut(name))}</text>'
        )
        for i, (part, value) in enumerate(values.items()):
            width = value / most * span
            shapes.append(
                f'<rect class="fill {style_of(i)}" x="{at:.1f}" y="{middle - 7}" width="{width:.1f}" '
                f'height="14"><title>{escape(name)}, {escape(part)}: {number(value)}</title></rect>'
            )
            at += width
        shapes.append(f'<text x="{at + 5:.1f}" y="{middle + 4}">{number(sum(values.values()))}</text>')
    height = len(bars) * ROW + 30
    shapes.append(f'<text class="axis" x="{_BAR_LEFT}" y="{height - 8}">{escape(label)}</text>')
    return svg(shapes, height, alt)


def _cut(name: str) -> str:
    return name if len(name) <= _BAR_NAME else f"{name[: _BAR_NAME - 1]}…"


def _points(placed: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def _mark(kind: str, cx: float, cy: float, title: str) -> str:
    inside = f"<title>{escape(title)}</title>"
    if kind == "wrong":
        return f'<path class="failed" d="M{cx - 4:.1f} {cy - 4:.1f}l8 8m0 -8l-8 8">{inside}</path>'
    return f'<circle class="dot {kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5">{inside}</circle>'
