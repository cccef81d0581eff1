"""Writes texts, their ids and their vectors beside a LiteRT file, for the tests of an app that runs it.

The ids come from the `tokenizers` library and the vectors from the graph; whether those are right is for the
gate to say.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_runtime.bundle import GoldenIds, Graph
from embedding_runtime.engines.litert_session import OUTPUT, LitertSession
from embedding_runtime.vectors import Floats, l2_normalize, truncate

FORMAT, VERSION = "embedding-edge/litert-conformance", 1


@dataclass(frozen=True)
class Subject:
    """An app's data besides the graph: prompts by name, and the dims that vectors may be cut to."""

    prompts: Mapping[str, str]
    dims: tuple[int, ...]
    max_seq_length: int


def write_litert_conformance(
    out: Path, graph: Graph, subject: Subject, texts: Sequence[GoldenIds], session: LitertSession
) -> int:
    """Write one JSON document (its fields are in the runtime's LITERT.md); returns the number of cases.

    The cases are the `texts` that fit, which include their prompts, and the graph's golden ids, which have no
    text and reach into longer buckets.
    """
    cases = list(_cases(graph, texts, session))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "file": graph.file,
        "variant_id": graph.variant_id,
        "input": {"name": graph.inputs[0], "dtype": "int32", "pad_id": session.pad_id},
        "output": {"name": graph.outputs[0], "dtype": "float32", "dim": len(cases[0][1])},
        "signatures": {str(size): name for size, name in session.signatures.items()},
        "max_tokens": min(subject.max_seq_length, session.buckets[-1]),
        "prompts": dict(subject.prompts),
        "max_abs_error": graph.golden_tolerance,
        "cases": [{**case, "vector": _numbers(vector)} for case, vector in cases],
        "shortened": [_shortened(dim, cases[0][1]) for dim in subject.dims if dim < len(cases[0][1])],
    }
    out.unlink(missing_ok=True)  # in a bundle that is added to it may be a hard link
    out.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    return len(cases)


def _cases(
    graph: Graph, texts: Sequence[GoldenIds], session: LitertSession
) -> Iterator[tuple[dict[str, object], Floats]]:
    """Each case without its vector, and the vector (D,)."""
    for text in texts:
        if len(text.ids) <= session.buckets[-1]:
            row = np.array([text.ids], dtype=np.int64)
            (vectors,) = session.run(row, np.ones_like(row), (OUTPUT,))
            yield _case(text.text, text.ids, session), vectors[0]
    for golden in graph.golden:
        yield _case(None, golden.ids, session), golden.vector


def _case(text: str | None, ids: tuple[int, ...], session: LitertSession) -> dict[str, object]:
    return {"text": text, "ids": list(ids), "bucket": session.bucket(len(ids))}


def _shortened(dim: int, vector: Floats) -> dict[str, object]:
    """The first case's vector at `dim`: its first components, divided by their length."""
    return {"dim": dim, "vector": _numbers(l2_normalize(truncate(vector[None], dim))[0])}


def _numbers(vector: Floats) -> list[float]:
    """The numbers, each in the shortest form that reads back as the same float32."""
    return [float(str(value)) for value in vector]
