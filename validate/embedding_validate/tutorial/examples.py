"""Runs the tutorial's examples on any model and shows reference and bundle side by side.

It returns data and lines of text and prints nothing; the examples come from `golden.Golden`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedding_validate.probes import texts
from embedding_validate.probes.probes import TITLE_SLOT, Probe
from embedding_validate.runners.calls import VectorOf, sliced
from embedding_validate.tutorial import golden
from embedding_validate.tutorial import passages as library
from embedding_validate.tutorial.golden import Score
from embedding_validate.tutorial.passages import SearchResult

if TYPE_CHECKING:
    from embedding_validate.reference.reference import Reference

# The dimension that the printed figures are of; for other models the same share of theirs is looked for.
_FULL_DIM = 768
_TITLES = {
    "pairs": "Three pairs, without a prompt and with STS",
    "classification": "Ticket classification, with Classification",
    "matryoshka": "Shorter vectors (Matryoshka), renormalised",
    "retrieval": "Retrieval: queries and documents, also with titles",
}


@dataclass(frozen=True)
class Word:
    """A word's vector in reference and bundle: its first and last three components."""

    text: str
    dim: int
    reference: tuple[float, ...]
    bundle: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One score in reference and bundle; `printed` is the tutorial's, if the checkpoint is the tutorial's.

    `asked` is the same share of the components as in the tutorial, and `dim` the nearest that the model
    offers.
    """

    id: str
    group: str
    asked: int
    dim: int
    reference: float
    bundle: float
    printed: float | None
    note: str | None = None


@dataclass(frozen=True)
class Examples:
    """All examples that the model's prompts allow; `left_out` names the ones they do not."""

    words: tuple[Word, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    searches: tuple[SearchResult, ...]

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference between the two, of any figure shown."""
        pairs = [(r.reference, r.bundle) for r in self.rows]
        pairs += [p for w in self.words for p in zip(w.reference, w.bundle, strict=True)]
        return float(np.max([abs(a - b) for a, b in pairs]))


def of_reference(reference: "Reference") -> VectorOf:
    """A function that gives the reference's vectors; at a dim they are sliced and normalised, as with its
    `normalize_embeddings=True`."""

    def vector_of(probe: Probe, dim: int | None) -> NDArray[np.float32]:
        return sliced(reference.answer_one(probe).vector, dim, dim is not None)

    return vector_of


def run(
    reference: VectorOf, bundle: VectorOf, prompts: Mapping[str, str], dims: Sequence[int], real: bool
) -> Examples:
    """Run the examples on a model that offers `dims`, of which the largest is all its components.

    `real` says that the printed figures are this model's.
    """
    data = golden.load()
    words = [_word(c.probe, reference, bundle) for c in data.components]
    shown = [s for s in data.scores if _has_prompt(s.left, prompts) and _has_prompt(s.right, prompts)]
    rows = [_row(s, (reference, bundle), dims, real) for s in shown]
    left_out = tuple(s.id for s in data.scores if s not in shown)
    return Examples(tuple(words), tuple(rows), left_out, library.search(reference, bundle, prompts))


def lines(examples: Examples) -> list[str]:
    """The examples as lines of text."""
    lines = ["Words: the first and the last three components"]
    for w in examples.words:
        for who, values in (("reference", w.reference), ("bundle", w.bundle)):
            numbers = [f"{v:+.6f}" for v in values]
            lines.append(
                f"  {w.text:8} {who:10} [{', '.join(numbers[:3])} ... {', '.join(numbers[3:])}]  ({w.dim},)"
            )
    for group, title in _TITLES.items():
        rows = [r for r in examples.rows if r.group == group]
        if rows:
            lines += [
                "",
                f"{title:54}   reference     bundle" + ("    printed" if _any_printed(rows) else ""),
            ]
            lines += [_line(r) for r in rows]
            lines += [f"  {note}" for note in dict.fromkeys(r.note for r in rows) if note]
            lines += _replaced(rows)
    lines += _search_lines(examples.searches)
    if examples.left_out:
        lines += ["", f"Left out, as this checkpoint lacks their prompts: {', '.join(examples.left_out)}"]
    return [*lines, "", f"Largest difference shown: {examples.largest_difference:.1e}"]


def _search_lines(searches: tuple[SearchResult, ...]) -> list[str]:
    """Each question with the passage that came first, and how often that was the right one."""
    if not searches:
        return []
    title = f"Search: {len(texts.library().passages)} passages, the first one found"
    lines = ["", f"{title:54}   reference         bundle"]
    for s in searches:
        marks = [f"{first} {'✓' if first == s.expected else '✗'}" for first in (s.reference, s.bundle)]
        lines.append(f"  {s.question[:54]:54} {marks[0]:17} {marks[1]}")
    right = [sum(f == s.expected for f, s in zip(who, searches, strict=True)) for who in _firsts(searches)]
    return [*lines, f"  right: reference {right[0]}, bundle {right[1]} of {len(searches)}"]


def _firsts(searches: tuple[SearchResult, ...]) -> tuple[list[str], list[str]]:
    return [s.reference for s in searches], [s.bundle for s in searches]


def _line(row: Row) -> str:
    printed = f" {row.printed:10.6f}" if row.printed is not None else ""
    return f"  {row.id[:48]:48} {row.dim:5} {row.reference:10.6f} {row.bundle:10.6f}{printed}"


def _replaced(rows: list[Row]) -> list[str]:
    """Lines on the dims shown in place of those that the model does not offer."""
    pairs = dict.fromkeys((r.asked, r.dim) for r in rows if r.asked != r.dim)
    return [
        f"  {printed_dim} is not offered by this checkpoint; shown at {dim}" for printed_dim, dim in pairs
    ]


def _any_printed(rows: list[Row]) -> bool:
    return any(r.printed is not None for r in rows)


def _word(probe: Probe, reference: VectorOf, bundle: VectorOf) -> Word:
    expected, actual = reference(probe, None), bundle(probe, None)
    return Word(probe.text, len(actual), _ends(expected), _ends(actual))


def _ends(vector: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(v) for v in (*vector[:3], *vector[-3:]))


def _row(score: Score, models: tuple[VectorOf, VectorOf], dims: Sequence[int], real: bool) -> Row:
    printed_dim = score.dim * max(dims) // _FULL_DIM
    dim = min(dims, key=lambda d: (abs(d - printed_dim), -d))
    reference, bundle = (score.of(vector_of, dim) for vector_of in models)
    printed = score.value if real else None
    return Row(
        score.id, score.group, printed_dim, dim, reference, bundle, printed, score.note if real else None
    )


def _has_prompt(probe: Probe, prompts: Mapping[str, str]) -> bool:
    """Whether the model has the prompt, and a place for the title if there is one."""
    name = probe.prompt_name or {"encode_query": "query", "encode_document": "document"}.get(probe.verb)
    fits = probe.title is None or TITLE_SLOT in prompts.get(name or "", "")
    return (name is None or name in prompts) and fits
