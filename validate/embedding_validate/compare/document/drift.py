"""Marks cases whose reference ran unlike itself: then the machine was another one for a while.

Each case is timed in turn with the reference case, which is the same for all cases of a shape. A host that
gives less for half a minute slows both, though not alike (a small model waits for memory, a large one for
arithmetic), and within the case nothing shows it.
"""

from collections import defaultdict
from statistics import median
from typing import Any

# As far as two runs of a comparison may lie apart.
MOST_APART = 0.15
_SAID = "its reference took"

Json = dict[str, Any]


def mark(cases: list[Json]) -> None:
    """Note it in `noise` of every case that it concerns, and only there; may be called again."""
    groups: dict[tuple[int, int, int], list[tuple[Json, float]]] = defaultdict(list)
    for case in cases:
        case["noise"] = [reason for reason in case["noise"] if not reason.startswith(_SAID)]
        times = [t for turn in case["samples"].get("reference", ()) for t in turn]
        if times:
            groups[case["threads"], case["batch"], case["tokens"]].append((case, median(times)))
    for group in groups.values():
        typical = median(seconds for _, seconds in group)
        for case, seconds in group:
            if abs(seconds / typical - 1) > MOST_APART:
                case["noise"].append(f"{_SAID} {seconds / typical - 1:+.0%} against its other turns")
