"""The curves of a training run as an SVG picture for the card; knows the stages' logs and nothing else."""

import json
from pathlib import Path

from embedding_validate.report.plots import HEIGHT, Axis, frame, svg, x_at, y_at

_FIGURES = ("mean", "wordnet-gloss", "wordnet-examples", "headings")
_COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73")
# At most so wide, on average, in the font of the style.
_CHARACTER = 6
_STYLE = (
    "<style>text{font:11px sans-serif;fill:#444}.grid{stroke:#ddd}"
    "polyline{fill:none;stroke-width:1.6}svg{background:#fff}</style>"
)


def draw(folder: Path, stages: tuple[str, ...] = ("bag", "encoder")) -> str:
    """Held-out figures over the steps of the stages, one after the other, from their logs in `folder`."""
    lines: dict[str, list[tuple[int, float]]] = {name: [] for name in _FIGURES}
    begun, ends = 0, []
    for stage in stages:
        rows = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
        for row in (r | r.get("averaged", {}) for r in rows):
            for name in (n for n in _FIGURES if n in row):
                lines[name].append((begun + row["step"], row[name]))
        begun += rows[-1]["step"]
        ends.append(begun)
    x, y = Axis(f"steps ({', then '.join(stages)})", 0, begun), Axis("mean reciprocal rank, dev", 0.1, 0.9)
    parts = [_STYLE, *frame(x, y)]
    parts += [_boundary(x, y, end) for end in ends[:-1]]
    label = 80
    for name, colour in zip(_FIGURES, _COLOURS, strict=True):
        points = " ".join(f"{x_at(x, step):.1f},{y_at(y, value):.1f}" for step, value in lines[name])
        parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
        parts.append(f'<text x="{label}" y="12" style="fill:{colour}">{name}</text>')
        label += _CHARACTER * len(name) + 16
    drawn = svg(parts, HEIGHT, "Held-out retrieval during training")
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def _boundary(x: Axis, y: Axis, step: int) -> str:
    at, top, bottom = x_at(x, step), y_at(y, y.high), y_at(y, y.low)
    place = f'x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"'
    return f'<line {place} stroke="#888" stroke-dasharray="4 3"/>'
