"""The ladder: what every graph of a bundle is worth, by figures that mean something to a user.

Knows graphs only as `Embedder` opens them, whatever their format. Speaks of three tasks: sentence similarity
(a file of scored pairs), retrieval and classification (pairs and topics that training never saw).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from train import measure
from train.pairs import Pair, read_pairs

_MOST = 600


@dataclass(frozen=True)
class Scored:
    """Sentence pairs with people's scores."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Tasks:
    """What is measured; `sts` is None without a file, and the others come from the test split."""

    sts: Scored | None
    search: tuple[Pair, ...]
    topics: tuple[Pair, ...]


@dataclass(frozen=True)
class Rung:
    """One graph at one dim; NaN where there was no file of scored pairs."""

    graph: str
    dim: int
    sts: float
    sts_no_prompt: float
    recall_1: float
    recall_10: float
    accuracy: float


def read_scored(path: Path) -> Scored:
    """A file of lines `score<TAB>sentence<TAB>sentence`."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    scores = np.array([float(r[0]) for r in rows])
    return Scored(tuple(r[1] for r in rows), tuple(r[2] for r in rows), scores)


def read_tasks(sts: Path | None, search: Sequence[Path], topics: Path) -> Tasks:
    """Scored pairs, and the first pairs of each file with a left text of their own."""
    pairs: list[Pair] = []
    for path in search:
        pairs += list({p.left.lower(): p for p in reversed(list(read_pairs(path)))}.values())[:_MOST]
    scored = read_scored(sts) if sts is not None else None
    return Tasks(scored, tuple(pairs), tuple(read_pairs(topics))[:_MOST])


def climb(bundle: Path, tasks: Tasks, dims: Sequence[int]) -> list[Rung]:
    """Every graph of the bundle at every dim, largest first."""
    rungs: list[Rung] = []
    for graph in load_manifest(bundle).graphs:
        with Embedder.load(bundle, format=graph.format, precision=graph.precision) as embedder:
            vectors = _embed(embedder, tasks)
        rungs += [_rung(graph.key, dim, vectors, tasks) for dim in sorted(dims, reverse=True)]
    return rungs


@dataclass(frozen=True)
class _Vectors:
    sts: tuple[measure.Floats, measure.Floats] | None
    plain: tuple[measure.Floats, measure.Floats] | None
    search: tuple[measure.Floats, measure.Floats]
    topics: tuple[measure.Floats, measure.Floats]


def _embed(embedder: Embedder, tasks: Tasks) -> _Vectors:
    sts = plain = None
    if (scored := tasks.sts) is not None:
        sts = (_encode(embedder, scored.left, "STS"), _encode(embedder, scored.right, "STS"))
        plain = (_encode(embedder, scored.left, None), _encode(embedder, scored.right, None))
    queries = _encode(embedder, [p.left for p in tasks.search], "query")
    passages = _encode(embedder, [p.right for p in tasks.search], "document")
    texts = _encode(embedder, [p.left for p in tasks.topics], "Classification")
    labels = _encode(embedder, _labels(tasks), "Classification")
    return _Vectors(sts, plain, (queries, passages), (texts, labels))


def _encode(embedder: Embedder, texts: Sequence[str], prompt: str | None) -> measure.Floats:
    vectors: measure.Floats = embedder.encode(list(texts), prompt_name=prompt)
    return vectors


def _labels(tasks: Tasks) -> list[str]:
    return sorted({p.right for p in tasks.topics})


def _rung(graph: str, dim: int, vectors: _Vectors, tasks: Tasks) -> Rung:
    queries, passages = (v[:, :dim] for v in vectors.search)
    # Equal passages are one candidate: the first of them stands for all.
    texts = [p.right for p in tasks.search]
    right = np.array([texts.index(t) for t in texts])
    kept = np.unique(right)
    found = measure.ranks(queries, passages[kept], np.searchsorted(kept, right))
    similar, plain = (_spearman(pair, dim, tasks.sts) for pair in (vectors.sts, vectors.plain))
    return Rung(
        graph,
        dim,
        similar,
        plain,
        measure.recall(found, 1),
        measure.recall(found, 10),
        _accuracy(vectors.topics, dim, tasks),
    )


def _spearman(pair: tuple[measure.Floats, measure.Floats] | None, dim: int, scored: Scored | None) -> float:
    if pair is None or scored is None:
        return float("nan")
    left, right = (measure.normalised(v[:, :dim]) for v in pair)
    return measure.spearman((left * right).sum(1).astype(np.float64), scored.scores)


def _accuracy(pair: tuple[measure.Floats, measure.Floats], dim: int, tasks: Tasks) -> float:
    """Share of the texts whose nearest label is their own."""
    texts, labels = (measure.normalised(v[:, :dim]) for v in pair)
    names = _labels(tasks)
    own = np.array([names.index(p.right) for p in tasks.topics])
    return float(((texts @ labels.T).argmax(1) == own).mean())


def table(rungs: Sequence[tuple[str, Rung]]) -> list[str]:
    """The ladder as the lines of a Markdown table; each rung comes with the name of its checkpoint."""
    head = "| checkpoint | graph | dim | STS, prompt STS | STS, no prompt | recall@1 | recall@10 | topics |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, r in rungs:
        figures = (r.sts, r.sts_no_prompt, r.recall_1, r.recall_10, r.accuracy)
        cells = " | ".join("–" if np.isnan(f) else f"{f:.3f}" for f in figures)
        lines.append(f"| {name} | {r.graph} | {r.dim} | {cells} |")
    return lines
