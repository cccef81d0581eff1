"""Chooses the probes to search and those whose scores are compared; takes their vectors by probe id."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_validate.measures import metrics
from embedding_validate.measures import ranking as rank
from embedding_validate.measures.ranking import Ranking, ScoreShift
from embedding_validate.probes.probes import Probe
from embedding_validate.reference.answers import Answers

Floats = NDArray[np.float32]
Vectors = Mapping[str, Floats]


def ranking(answers: Answers, vectors: Vectors) -> Ranking | None:
    """The probes that ran as documents, ranked for each probe that ran as a query; a text is not an answer to
    itself."""
    queries, documents = (
        _gave(answers, vectors, [p for p in answers.probes.probes if p.verb == verb])
        for verb in ("encode_query", "encode_document")
    )
    if not queries or not documents:
        return None
    others = np.array([[q.text != d.text for d in documents] for q in queries])
    (expected_queries, actual_queries), (expected_documents, actual_documents) = (
        _both(answers, vectors, p) for p in (queries, documents)
    )
    return rank.compare((expected_queries, expected_documents), (actual_queries, actual_documents), others)


def score_shift(answers: Answers, vectors: Vectors) -> ScoreShift | None:
    """The scores of all pairs of texts that ran without a prompt."""
    plain = [
        p
        for p in answers.probes.probes
        if p.verb == "encode" and p.prompt_name is None and not p.allow_special
    ]
    answered = _gave(answers, vectors, plain)
    return rank.score_shift(*_both(answers, vectors, answered)) if answered else None


def _gave(answers: Answers, vectors: Vectors, probes: Sequence[Probe]) -> list[Probe]:
    """The probes with a vector of the reference's shape, without NaN or infinity."""
    return [
        p
        for p in probes
        if p.id in vectors
        and vectors[p.id].shape == answers.by_probe[p.id].vector.shape
        and metrics.finite(vectors[p.id])
    ]


def _both(answers: Answers, vectors: Vectors, probes: Sequence[Probe]) -> tuple[Floats, Floats]:
    """The reference's vectors and the actual ones, (n, dim) each."""
    expected = np.stack([answers.by_probe[p.id].vector for p in probes])
    return expected, np.stack([vectors[p.id] for p in probes])
