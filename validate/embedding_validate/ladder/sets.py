"""The data that the ladder measures on: scored pairs of sentences from a file, and a packaged search.

The search is NumPy's own documentation (BSD-3-Clause, in the package): the one-line summary of a function is
the query, and the rest of its documentation is the document. It changes with NumPy's version, which is
recorded.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError

SEARCH_SOURCE = f"documentation of NumPy {np.__version__}: a function's summary asks for what follows it"
SEARCH_LICENCE = "BSD-3-Clause"
_SECTION = re.compile(r"\n([A-Z][A-Za-z ]+)\n-{3,}\n")
_SIGNATURE = re.compile(r"\w+\(.*\)", re.DOTALL)
_SHORTEST_SUMMARY, _SHORTEST_TEXT, _LONGEST_TEXT = 15, 150, 1000


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs and the scores that people gave them, float64 (n,)."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """Queries, and documents of which number i answers query i."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]


def read_pairs(path: Path) -> Pairs:
    """Read lines of `score<TAB>sentence<TAB>sentence`, UTF-8.

    Raises:
        InputError: not such a file, or fewer than two pairs.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read ({e}). Give a UTF-8 file of scored pairs.") from e
    rows = [(n, line.split("\t")) for n, line in enumerate(lines, 1) if line.strip()]
    scores = []
    for n, row in rows:
        try:
            scores.append(float(row[0]))
            if len(row) != 3 or not np.isfinite(scores[-1]):
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}, line {n}: expected a number and two sentences, separated by tabs; found "
                f"{len(row)} fields, the first {row[0][:30]!r}."
            ) from None
    if len(rows) < 2:
        raise InputError(f"{path} has {len(rows)} pairs; a correlation needs at least two.")
    return Pairs(tuple(r[1] for _, r in rows), tuple(r[2] for _, r in rows), np.array(scores))


def numpy_search() -> Search:
    """About 460 functions and classes of NumPy; documents are cut at 1,000 characters."""
    by_summary: dict[str, str] = {}
    for doc in _documentation():
        head, *rest = _SECTION.split(f"\n{doc}")
        sections = dict(zip(rest[::2], rest[1::2], strict=True))
        paragraphs = [p for p in re.split(r"\n\s*\n", head.strip()) if not _SIGNATURE.fullmatch(p.strip())]
        if not paragraphs:
            continue
        summary, text = _plain(paragraphs[0]), _plain(" ".join([*paragraphs[1:], sections.get("Notes", "")]))
        if len(summary) >= _SHORTEST_SUMMARY and len(text) >= _SHORTEST_TEXT:
            by_summary.setdefault(summary, text[:_LONGEST_TEXT])
    unique = {text: summary for summary, text in reversed(by_summary.items())}
    return Search(tuple(unique.values()), tuple(unique))


def _documentation() -> Iterator[str]:
    modules: tuple[ModuleType, ...] = (np, np.linalg, np.fft, np.random, np.polynomial, np.ma, np.char)
    for module in (*modules, np.polynomial.polynomial, np.polynomial.chebyshev):
        for name in sorted(n for n in dir(module) if not n.startswith("_")):
            value = getattr(module, name)
            if callable(value) and (doc := inspect.getdoc(value)):
                yield doc


def _plain(text: str) -> str:
    return " ".join(text.split())
