"""Searches a small library of passages (`passages.json`) with any model.

The caller passes functions that give vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embedding_validate.probes import texts
from embedding_validate.probes.probes import TITLE_SLOT, Probe
from embedding_validate.probes.texts import Library
from embedding_validate.runners.calls import VectorOf


@dataclass(frozen=True)
class SearchResult:
    """A question, the title of the passage that answers it, and the titles that came first."""

    question: str
    expected: str
    reference: str
    bundle: str


def search(reference: VectorOf, bundle: VectorOf, prompts: Mapping[str, str]) -> tuple[SearchResult, ...]:
    """Each question's best passage by both; nothing if the document prompt takes no title."""
    if TITLE_SLOT not in prompts.get("document", ""):
        return ()
    library = texts.library()
    firsts = [_firsts(vector_of, library) for vector_of in (reference, bundle)]
    return tuple(
        SearchResult(question, title, firsts[0][i], firsts[1][i])
        for i, (question, title) in enumerate(library.questions)
    )


def _firsts(vector_of: VectorOf, library: Library) -> list[str]:
    passages = np.stack(
        [
            vector_of(Probe(title, "Library", text, "encode_document", title=title), None)
            for title, text in library.passages
        ]
    )
    passages = passages / np.linalg.norm(passages, axis=1, keepdims=True)
    queries = (vector_of(Probe(q, "Library", q, "encode_query"), None) for q, _ in library.questions)
    return [library.passages[int((passages @ query).argmax())][0] for query in queries]
