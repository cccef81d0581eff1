"""Runs probes through the public `Embedder`, as a user would call it."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import BundleGraph
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding import prompts
from embedding_runtime.encoding.pipeline import HIDDEN_OUTPUT
from embedding_runtime.encoding.prompts import DOCUMENT_NAMES, QUERY_NAMES, PromptChoice
from embedding_runtime.errors import EmbeddingWarning
from embedding_validate.measures import metrics
from embedding_validate.probes.probes import Probe

Floats = NDArray[np.float32]
VectorOf = Callable[[Probe, int | None], Floats]
"""Gives the vector of a probe: all components as the model ends them (None), or a dim, normalised."""
_NAMES: dict[str, tuple[str, ...]] = {
    "encode": (),
    "encode_query": QUERY_NAMES,
    "encode_document": DOCUMENT_NAMES,
}


@dataclass(frozen=True)
class Call:
    """Probes to run in one call; they share verb, prompt, `allow_special` and `chunked_at`.

    `dim` None keeps all components; `normalize` None is the runtime's default.
    """

    name: str
    probes: tuple[Probe, ...]
    dim: int | None = None
    normalize: bool | None = None


@dataclass(frozen=True)
class Result:
    """A vector, float32 (dim,), and the ids that were run for it (None if they were not requested).

    `states` are its tokens' last hidden states, float32 (tokens, hidden size), if the graph gives them.
    """

    ids: tuple[int, ...] | None
    vector: Floats
    states: Floats | None = None


@contextmanager
def open_graph(graph: BundleGraph, threads: int | None = None) -> Iterator[Embedder]:
    """Open a graph of a bundle, whatever its verdict so far, without the runtime's warnings about texts.

    Raises:
        BundleError: the bundle is missing or damaged.  EngineError: the graph's engine is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbeddingWarning)
        with Embedder.load(
            graph.folder,
            format=graph.graph.format,
            precision=graph.graph.precision,
            threads=threads,
            allow_failed=True,
        ) as embedder:
            embedder.truncate_dim = None  # whole vectors are compared
            yield embedder


Runner = Callable[[Call], list[Result]]
"""Runs one call on whatever is being compared."""


def run(embedder: Embedder, call: Call) -> list[Result]:
    """Vectors from the method that the probes name; for a single probe, also ids and hidden states.

    A text in chunks has ids for each chunk, which the runtime does not expose.
    """
    if (limit := call.probes[0].chunked_at) is not None:
        with _lowered(embedder, limit):
            return [Result(None, vector) for vector in _encode(embedder, call, "sentence_embedding")]
    alone = len(call.probes) == 1 and call.dim is None
    if alone and HIDDEN_OUTPUT not in embedder.graph.outputs:
        return [Result(_ids(embedder, call.probes[0]), _encode(embedder, call, "sentence_embedding")[0])]
    outputs = _encode(embedder, call, None if alone else "sentence_embedding")
    if alone:
        return [
            Result(tuple(f["input_ids"].tolist()), f["sentence_embedding"], f["token_embeddings"])
            for f in outputs
        ]
    return [Result(None, vector) for vector in outputs]


def _ids(embedder: Embedder, probe: Probe) -> tuple[int, ...] | None:
    """The ids of a text by the bundle's prompts and tokenizer, for a graph that gives nothing but vectors.

    None if control tokens are allowed: the runtime's `tokenize` does not read them.
    """
    if probe.allow_special:
        return None
    text = with_prompt(probe, embedder.prompts, embedder.default_prompt_name)
    return tuple(embedder.tokenize([text])["input_ids"][0].tolist())


def with_prompt(probe: Probe, named: Mapping[str, str], default_name: str | None) -> str:
    """A probe's text behind its prompt, as the model reads it."""
    choice = PromptChoice(prompt_name=probe.prompt_name, names=_NAMES[probe.verb])
    prompt = prompts.resolve(choice, named, {}, default_name)
    return (prompt if probe.title is None else prompts.with_title(prompt, probe.title)) + probe.text


@contextmanager
def _lowered(embedder: Embedder, limit: int) -> Iterator[None]:
    """Within the block, at most `limit` tokens of a text are read at a time."""
    before, embedder.max_seq_length = embedder.max_seq_length, limit
    try:
        yield
    finally:
        embedder.max_seq_length = before


def _encode(embedder: Embedder, call: Call, output_value: str | None) -> Any:
    """Run one call as a user would: the result of `Embedder.encode` or its sister method."""
    first, batch = call.probes[0], [p.text for p in call.probes]
    options: dict[str, Any] = {
        "output_value": output_value,
        "batch_size": len(batch),
        "dim": call.dim,
        "normalize_embeddings": call.normalize,
        "allow_special": first.allow_special,
        "overflow": "truncate" if first.chunked_at is None else "chunk",
    }
    if first.verb == "encode_query":
        return embedder.encode_query(batch, prompt_name=first.prompt_name, **options)
    if first.verb == "encode_document":
        titles = None if first.title is None else [p.title for p in call.probes]
        return embedder.encode_document(batch, prompt_name=first.prompt_name, titles=titles, **options)
    return embedder.encode(batch, prompt_name=first.prompt_name, **options)


def sliced(vector: Floats, dim: int | None, normalize: bool) -> Floats:
    """The reference's vector at a dim: the first components, normalised if requested."""
    head = vector[:dim]
    return metrics.normalized(head) if normalize else head


def of_embedder(embedder: Embedder) -> VectorOf:
    """A function that gives a bundle's vectors, for golden figures and examples."""

    def vector_of(probe: Probe, dim: int | None) -> Floats:
        call = Call("alone", (probe,), dim, None if dim is None else True)
        return run(embedder, call)[0].vector

    return vector_of
