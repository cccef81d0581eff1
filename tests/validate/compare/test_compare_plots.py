"""Where names go in the plot of size against latency."""

import numpy as np
import pytest

from embedding_validate.compare.report.plots import Dot, labels
from embedding_validate.report.plots import HEIGHT, WIDTH


def test_names_do_not_cover_each_other() -> None:
    """Of dots in one corner, near the lower edge, and one far off whose name stays beside it."""
    near = [(300.0, 200.0), (302.0, 201.0), (310.0, 212.0), (298.0, 212.0), (300.0, 215.0)]
    dots = [Dot(0, 0, f"some/graph{i}", "good", False) for i in range(6)]
    placed = labels(dots, [*near, (100.0, 100.0)])
    boxes = [p.box for p in placed]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert placed[5].x == 108 and placed[5].y == 104
    assert all(b[0] > 0 and b[2] < WIDTH and b[1] > 0 and b[3] < HEIGHT for b in boxes)


def test_names_of_any_dots_lie_apart() -> None:
    """Of graphs as near to one another as they get, of dots that coincide, and with long names."""
    rng = np.random.default_rng(0)
    for count in range(400):
        corner = rng.uniform((66, 20), (430, 215))
        spread = rng.choice([0.0, 4.0, 20.0, 150.0])
        near = np.clip(corner + rng.uniform(-spread, spread, (2 + count % 6, 2)), (66, 16), (426, 216))
        names = [f"{'a-bundle ' * int(rng.integers(2))}graph/int{i}" for i in range(len(near))]
        centres = [(float(x), float(y)) for x, y in near]
        boxes = [p.box for p in labels([Dot(0, 0, name, "good", False) for name in names], centres)]
        for name, box in zip(names, boxes, strict=True):
            assert box[2] - box[0] == pytest.approx(6.5 * len(name)), "the room that the name takes"
            assert box[0] > 60 and box[2] < WIDTH and box[1] > 0 and box[3] < HEIGHT
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (names, centres)
