"""Plots of size against loss: the graphs of a bundle compared, and the steps by which one was composed.

Both are pure functions of `parity.json`; older files have no sizes.
"""

import math
from typing import Any

from embedding_validate.report import plots
from embedding_validate.report.plots import Axis, Point

Json = dict[str, Any]
# Losses of 0 are drawn here on a log scale.
_FLOOR = 1e-9


def figures(graphs: dict[str, Json]) -> list[tuple[str, str]]:
    """Plots (SVG, caption) of size against cosine and search overlap, if two graphs have them."""
    sized = {key: g for key, g in graphs.items() if g.get("bytes")}
    cosines = [
        (g["bytes"], 1 - g["cosine"]["mean"], f"{key}: mean cosine {g['cosine']['mean']:.5f}")
        for key, g in sized.items()
        if g["cosine"]
    ]
    overlaps = [
        (g["bytes"], g["ranking"]["top_k_overlap"], f"{key}: overlap {g['ranking']['top_k_overlap']:.3f}")
        for key, g in sized.items()
        if g["ranking"]
    ]
    charts = []
    if len(cosines) > 1:
        caption = "Size of each graph against what it loses: 1 - mean cosine over all checks."
        charts.append(
            (_losses([Point(b / 1e6, y, f"{t}, {_mb(b)}") for b, y, t in cosines], caption), caption)
        )
    if len(overlaps) > 1:
        caption = "Size of each graph against the share of the first results that it finds too."
        points = [Point(b / 1e6, y, f"{t}, {_mb(b)}") for b, y, t in overlaps]
        low = min(p.y for p in points)
        y = Axis("search overlap", max(0.0, 2 * low - 1.0 - 0.01), 1.0)
        charts.append((plots.scatter(points, _sizes(points), y, caption), caption))
    return charts


def curve(key: str, composition: Json) -> tuple[str, str]:
    """A plot of the compositions that were considered for a graph: (SVG, caption)."""
    target, points = composition["target_cosine"], []
    for point in composition["curve"]:
        cosine, kind = point["cosine"], "measured"
        if cosine is None:
            cosine, kind = point["estimated_cosine"], "estimated"
        part = f"8 bits in {point['part']} too" if point["part"] else "4 bits everywhere"
        title = f"{part}: {_mb(point['bytes'])}, cosine {cosine:.5f} ({kind})"
        points.append(Point(point["bytes"] / 1e6, 1 - cosine, title, cosine < target))
    eight = ", ".join(p for p, bits in composition["bits"].items() if bits == 8) or "nothing"
    measured = sum(p["cosine"] is not None for p in composition["curve"])
    caption = (
        f"How it was composed for a mean cosine of {target}: part after part gets 8 bits; crosses lose too "
        f"much. {measured} of {len(points)} were run on {composition['texts']} texts that they were not "
        f"calibrated on, the others are estimates. 8 bits in: {eight}."
    )
    return _losses(points, f"{key}: {caption}", 1 - target), caption


def _losses(points: list[Point], alt: str, limit: float | None = None) -> str:
    drawn = [Point(p.x, max(p.y, _FLOOR), p.title, p.failed) for p in points]
    losses = [p.y for p in drawn] + ([] if limit is None else [limit])
    low, high = (10.0 ** f(math.log10(x)) for f, x in ((math.floor, min(losses)), (math.ceil, max(losses))))
    y = Axis("1 - mean cosine", low, high if high > low else 10 * low, base=10)
    return plots.scatter(drawn, _sizes(drawn), y, alt, limit)


def _sizes(points: list[Point]) -> Axis:
    low, high = min(p.x for p in points), max(p.x for p in points)
    room = 0.05 * (high - low) or 0.5 * high
    return Axis("MB", max(0.0, low - room), high + room)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
