"""Runs a corpus through every graph of a comparison and measures its cost: `corpus` in `compare.json`.

Each graph embeds in a fresh process; one that fails becomes a row. The base of a model's graphs is the
reference if the comparison has it, else the model's most exact graph.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedding_validate.compare.corpus import worker as corpus_worker
from embedding_validate.compare.corpus.corpus import Corpus
from embedding_validate.compare.corpus.scores import (
    MOST_CHANGED,
    PRECISIONS,
    Changed,
    Embedded,
    changed,
    cost,
    ndcg,
    scores,
)
from embedding_validate.compare.document.document import (
    ChangedText,
    ChangedTexts,
    CorpusCost,
    CorpusRun,
    GraphEntry,
    TorchEntry,
)
from embedding_validate.compare.measure.process import explained
from embedding_validate.compare.measure.run import Progress
from embedding_validate.compare.measure.systems import Candidate, by_model, most_exact
from embedding_validate.measures.ranking import TOP_K, neighbours

# Characters of a text that the report shows.
_SHOWN = 240


def measure(
    texts: Corpus, candidates: Sequence[Candidate], dims: Mapping[str, set[int]], say: Progress
) -> CorpusRun:
    """Everything that `compare.json` holds of the corpus; `candidates` are graphs, and PyTorch if requested,
    `dims` those of each model."""
    embedded: dict[str, Embedded] = {}
    failures: dict[str, str] = {}
    commands: dict[str, tuple[str, ...]] = {}
    models = by_model(candidates)
    exact = {model: most_exact(those) for model, those in models.items()}
    for candidate in sorted(candidates, key=lambda c: c.subject.name != exact[c.model]):
        if isinstance(candidate.about, (GraphEntry, TorchEntry)):
            say(f"embedding the corpus with {candidate.subject.name}")
            if isinstance(candidate.about, GraphEntry):
                commands[candidate.subject.name] = tuple(_command(texts, candidate))
            vectors = _vectors(texts, candidate)
            if isinstance(vectors, str):
                failures[candidate.subject.name] = vectors
            else:
                embedded[candidate.subject.name] = vectors
    groups = {model: [n for n in embedded if n in _names(those)] for model, those in models.items()}
    bases = {name: names[0] for names in groups.values() for name in names}
    base = next(iter(bases.values()), "")
    result = CorpusRun(
        file=str(texts.path),
        documents=len(texts.documents),
        asked=len(texts.asked),
        pairs=texts.relevant is not None,
        k=neighbours(texts.candidates),
        base=base,
        commands=commands,
        failures=failures,
        bases=bases if len(models) > 1 else None,
    )
    for model, names in groups.items():
        if names:
            result = _compared(result, {n: embedded[n] for n in names}, texts, dims.get(model, set()))
    return result


def _names(candidates: Sequence[Candidate]) -> set[str]:
    return {c.subject.name for c in candidates}


def _compared(result: CorpusRun, embedded: dict[str, Embedded], texts: Corpus, dims: set[int]) -> CorpusRun:
    """The result with the costs of every graph of one model and dim; the first of `embedded` is the base."""
    base = next(iter(embedded))
    whole = embedded[base].documents.shape[1]
    base_scores = scores(embedded[base].cut(whole), "float32")
    relevant, k = texts.relevant or (), neighbours(texts.candidates)
    rows: list[CorpusCost] = []
    changes: dict[str, ChangedTexts] = {}
    for name, vectors in embedded.items():
        for dim in sorted({*dims, whole}, reverse=True):
            cut = vectors.cut(dim)
            rows += [cost(base_scores, cut, name, p, relevant, k) for p in PRECISIONS]
            if (name, dim) != (base, whole):
                those = changed(base_scores, scores(cut, "float32"), k)
                shown = tuple(_shown(texts, c) for c in those[:MOST_CHANGED])
                changes[f"{name}, dim {dim}"] = ChangedTexts(len(those), shown)
    of_first = base == result.base and relevant
    return replace(
        result,
        rows=(*result.rows, *rows),
        base_ndcg=ndcg(base_scores, relevant, TOP_K) if of_first else result.base_ndcg,
        changed={**result.changed, **changes},
    )


def _shown(texts: Corpus, change: Changed) -> ChangedText:
    """One changed text, with its first answers before and after; only what changed among the others."""
    before, after = set(change.before), set(change.after)
    return ChangedText(
        asked=texts.asked[change.query][:_SHOWN],
        before=texts.documents[change.before[0]][:_SHOWN],
        after=texts.documents[change.after[0]][:_SHOWN],
        overlap=round(change.overlap, 4),
        lost=tuple(texts.documents[i][:_SHOWN] for i in change.before if i not in after),
        gained=tuple(texts.documents[i][:_SHOWN] for i in change.after if i not in before),
    )


def _vectors(texts: Corpus, candidate: Candidate) -> Embedded | str:
    """Vectors of the corpus, or why there are none."""
    if isinstance(candidate.about, TorchEntry):
        if candidate.subject.system.spec["dtype"] != "float32":
            return "a corpus is run in fp32 only"
        spec = candidate.subject.system.spec
        return embed_with_reference(spec["checkpoint"], texts, spec["longest"])
    output = _output(candidate)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        _command(texts, candidate),
        env={**os.environ, **candidate.subject.environment},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        return ": ".join(explained(done.returncode, done.stderr))
    with np.load(output) as arrays:
        return Embedded(arrays["asked"], arrays["documents"], alike=texts.relevant is None)


def _command(texts: Corpus, candidate: Candidate) -> list[str]:
    """The command that embeds the corpus with a graph, in a process of its own."""
    spec = {
        **candidate.subject.system.spec,
        "threads": None,
        "corpus": str(texts.path),
        "output": str(_output(candidate)),
    }
    return [sys.executable, "-m", corpus_worker.__name__, json.dumps(spec)]


def _output(candidate: Candidate) -> Path:
    return Path(candidate.subject.environment["XDG_CACHE_HOME"]) / "corpus.npz"


def embed_with_reference(checkpoint: str, texts: Corpus, longest: int) -> Embedded:
    """Vectors of a corpus by sentence-transformers on a checkpoint, texts cut to `longest` tokens."""
    from embedding_export.checkpoint.checkpoint import load_checkpoint
    from embedding_validate.probes.probes import Probe
    from embedding_validate.reference.reference import Reference

    reference = Reference.load(load_checkpoint(checkpoint, max_length=longest))

    def vectors(kind: Any, contents: Sequence[str]) -> Any:
        return np.stack([reference.answer_one(Probe("", "", text, verb=kind)).vector for text in contents])

    documents = vectors("encode_document", texts.documents)
    if texts.relevant is None:
        return Embedded(documents[: len(texts.asked)], documents, alike=True)
    return Embedded(vectors("encode_query", texts.queries), documents, alike=False)
