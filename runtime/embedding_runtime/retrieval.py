"""Finds the best matches of vectors among vectors, exactly."""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding.options import check_whole
from embedding_runtime.similarity import ScoreFunction, Vectors, cos_sim

QUERY_CHUNK_SIZE = 100
# 500,000 x 768 float32 would be 1.5 GB for one more copy of a chunk: too much for a small board.
CORPUS_CHUNK_SIZE = 50_000


class Hit(TypedDict):
    """One match: the corpus row and its score."""

    corpus_id: int
    score: float


def semantic_search(
    query_embeddings: Vectors,
    corpus_embeddings: Vectors,
    query_chunk_size: int = QUERY_CHUNK_SIZE,
    corpus_chunk_size: int = CORPUS_CHUNK_SIZE,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[Hit]]:
    """The `top_k` best rows of the corpus (M, D) for each query (N, D) or (D,), best first.

    The corpus may be memory-mapped: it is read in chunks.

    Raises:
        InputError, InputTypeError: a chunk size or `top_k` that is not a positive int, or shapes that differ.
    """
    for name, value in (("query_chunk_size", query_chunk_size), ("corpus_chunk_size", corpus_chunk_size)):
        check_whole(name, value)
    check_whole("top_k", top_k)
    queries, corpus = np.atleast_2d(np.asarray(query_embeddings)), np.asarray(corpus_embeddings)
    results: list[list[Hit]] = []
    for start in range(0, len(queries), query_chunk_size):
        chunk = queries[start : start + query_chunk_size]
        scores, rows = _best(chunk, corpus, corpus_chunk_size, top_k, score_function)
        results += [_hits(s, r) for s, r in zip(scores, rows, strict=True)]
    return results


def _best(
    queries: NDArray[Any], corpus: NDArray[Any], chunk_size: int, top_k: int, score: ScoreFunction
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Scores and rows (N, K) of the best, each row in descending order."""
    scores = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(corpus), chunk_size):
        chunk_scores = score(queries, corpus[start : start + chunk_size])
        numbers = np.broadcast_to(np.arange(start, start + chunk_scores.shape[1]), chunk_scores.shape)
        scores, rows = np.hstack((scores, chunk_scores)), np.hstack((rows, numbers))
        if scores.shape[1] > 4 * top_k:
            keep = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
            keep.sort(axis=1)
            scores, rows = np.take_along_axis(scores, keep, 1), np.take_along_axis(rows, keep, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _hits(scores: NDArray[Any], rows: NDArray[np.int64]) -> list[Hit]:
    return [
        {"corpus_id": row, "score": score} for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
    ]
