"""Pairs of texts that belong together, as they are made and as they lie on disk.

Knows nothing of where they come from. A file has one pair a line: left, right and a hard negative (or
nothing), separated by tabs.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts that mean related things; `negative` looks like `right` and belongs to another left."""

    left: str
    right: str
    negative: str = ""


class Found(NamedTuple):
    """A pair and the thing it is about: pairs of one group never lie in different splits."""

    group: str
    pair: Pair


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Write a file that appears only when complete; returns the number of pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_suffix(".part"), 0
    with part.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write("\t".join(pair) + "\n")
            count += 1
    part.replace(path)
    return count


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file, in order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Pair(*line.rstrip("\n").split("\t"))
