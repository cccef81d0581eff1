"""Keeps texts of an evaluation out of the training data; knows nothing of what either is about.

Texts are compared as sequences of words in lower case. A training text is refused when it has six words in
a row in common with an evaluation text, or holds a whole evaluation text of three to five words.
"""

from collections.abc import Iterable
from pathlib import Path

from train.text import words

_SHORTEST, _LONGEST = 3, 6


class Excluded:
    """The word sequences that no training text may hold."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_length: dict[int, set[tuple[str, ...]]] = {n: set() for n in range(_SHORTEST, _LONGEST + 1)}
        self.texts = 0
        for text in texts:
            found = words(text)
            self.texts += 1
            if len(found) >= _SHORTEST:
                n = min(len(found), _LONGEST)
                self._by_length[n].update(_runs(found, n))

    def holds(self, text: str) -> bool:
        """Whether the text shares such a sequence."""
        found = words(text)
        return any(not known.isdisjoint(_runs(found, n)) for n, known in self._by_length.items() if known)


def read_texts(path: Path) -> list[str]:
    """The texts of a file of tab-separated columns; columns that are numbers are left out."""
    cells = (c.strip() for line in path.read_text(encoding="utf-8").splitlines() for c in line.split("\t"))
    return [c for c in cells if c and not c.replace(".", "", 1).isdigit()]


def _runs(found: list[str], n: int) -> Iterable[tuple[str, ...]]:
    return (tuple(found[i : i + n]) for i in range(len(found) - n + 1))
