"""The quality of one graph's vectors at every dim: similarity, search, and closeness to the reference.

All functions are pure functions of vectors, except `embed`, which takes an encoding function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_validate.compare.corpus.scores import ndcg, top
from embedding_validate.ladder.sets import Pairs, Search
from embedding_validate.measures.metrics import unit
from embedding_validate.measures.ranking import TOP_K, spearman

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str], str], Vectors]
"""Takes texts and a prompt's name; gives float32 (n, dim) at full dim."""


@dataclass(frozen=True)
class Embedded:
    """All vectors of one model: of pairs (None without a file of them), queries and documents."""

    pairs: tuple[Vectors, Vectors] | None
    queries: Vectors
    documents: Vectors

    @property
    def all(self) -> Vectors:
        """Every vector, (n, dim)."""
        return np.concatenate([*(self.pairs or ()), self.queries, self.documents])


@dataclass(frozen=True)
class Quality:
    """Figures at one dim: Spearman's correlation with people's scores (None without pairs), the search's
    nDCG at 10 and recall at 1, and the cosine to the reference's vectors."""

    dim: int
    sts: float | None
    ndcg_10: float
    recall_1: float
    cosine_mean: float
    cosine_p1: float
    cosine_min: float


def embed(encode: Encode, pairs: Pairs | None, search: Search) -> Embedded:
    """Embed everything: pairs with the prompt STS, queries and documents with their own."""
    similar = None if pairs is None else (encode(pairs.left, "STS"), encode(pairs.right, "STS"))
    return Embedded(similar, encode(search.queries, "query"), encode(search.documents, "document"))


def measure(embedded: Embedded, reference: Embedded, dim: int, pairs: Pairs | None) -> Quality:
    """The figures of `embedded` at a dim, with its cosines to `reference` at the same dim."""
    sts = None
    if embedded.pairs is not None and pairs is not None:
        left, right = (unit(v[:, :dim]) for v in embedded.pairs)
        sts = spearman((left * right).sum(1), pairs.scores)
    scores = unit(embedded.queries[:, :dim]) @ unit(embedded.documents[:, :dim]).T
    first = [int(top(row, 1)[0]) for row in scores]
    cosines = (unit(embedded.all[:, :dim]) * unit(reference.all[:, :dim])).sum(1)
    return Quality(
        dim=dim,
        sts=sts,
        ndcg_10=ndcg(scores, [frozenset({i}) for i in range(len(scores))], TOP_K),
        recall_1=float(np.mean([i == n for n, i in enumerate(first)])),
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.percentile(cosines, 1)),
        cosine_min=float(cosines.min()),
    )
