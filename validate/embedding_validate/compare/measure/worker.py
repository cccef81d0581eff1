"""The worker processes of `compare-embedding`: a graph, a tokenizer, the per-tensor int8 graph, or PyTorch.

`measure.protocol.serve` runs them. They need only numpy and the graph's engine; `torch` also needs PyTorch.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import load_manifest
from embedding_runtime.engines.registry import engine_module
from embedding_runtime.errors import EmbeddingWarning
from embedding_runtime.opening.open_bundle import Choice, open_bundle
from embedding_runtime.tokenizers.tokenizer import Tokenizer, open_tokenizer
from embedding_validate.compare.measure.protocol import Ids, Run, serve
from embedding_validate.probes import texts

DTYPES = ("float32", "bfloat16")
# Scripts that most users' texts are made of; the others' words would be cut into bytes.
_SCRIPT = "Latin"


def bundle(spec: dict[str, Any]) -> Callable[[], Run]:
    """A graph through the runtime's own checks; `spec` has bundle, format, precision and allow_failed."""
    engine_module(spec["format"])  # so that loading is timed without the import

    def load() -> Run:
        choice = Choice(spec["format"], spec["precision"], spec["threads"], allow_failed=spec["allow_failed"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmbeddingWarning)
            session = open_bundle(Path(spec["bundle"]), choice).session
        return lambda ids: session.run(ids, np.ones_like(ids), ("sentence_embedding",))[0]

    return load


def tokenizer(spec: dict[str, Any]) -> Callable[[], Run]:
    """A bundle's tokenizer on texts of the requested number of tokens; its vectors are empty."""

    def load() -> Run:
        path = Path(spec["bundle"])
        opened = open_tokenizer(path, load_manifest(path).tokenizer, verify=False)
        ready: dict[tuple[int, ...], list[str]] = {}

        def run(ids: Ids) -> NDArray[np.float32]:
            batch, tokens = ids.shape
            if ids.shape not in ready:  # made in the first run, which is not timed
                words = _words()
                ready[ids.shape] = [text_of(opened, tokens, words) for _ in range(batch)]
            for text in ready[ids.shape]:
                opened.encode(text, tokens)
            return np.zeros((batch, 1), np.float32)

        return run

    return load


def text_of(opened: Tokenizer, tokens: int, words: Iterator[str]) -> str:
    """A text of words with at least `tokens` tokens, and hardly more."""
    text = next(words)
    while (have := len(opened.encode(text))) < tokens:
        # A word is more than half a token, so this never goes far past the end.
        text = " ".join([text, *itertools.islice(words, max(1, (tokens - have) // 4))])
    return text


def per_tensor(spec: dict[str, Any]) -> Callable[[], Run]:
    """The ONNX int8 graph at `spec["graph"]` with one scale per tensor, made before loading is timed."""
    from embedding_runtime.engines.onnx_session import create_session, session_options
    from embedding_validate.compare.measure import per_tensor as variant

    path = Path(spec["graph"])
    graph = variant.per_tensor(path)

    def load() -> Run:
        options = session_options(spec["threads"])
        session = create_session(graph, options, path)

        def run(ids: Ids) -> NDArray[np.float32]:
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            vectors: NDArray[np.float32] = session.run(["sentence_embedding"], feed)[0]
            return vectors

        return run

    return load


def torch(spec: dict[str, Any]) -> Callable[[], Run]:
    """sentence-transformers' stages on a checkpoint; `spec` has checkpoint, dtype and longest (tokens)."""
    import torch as library

    from embedding_export.checkpoint.checkpoint import load_checkpoint
    from embedding_validate.reference.reference import import_libraries, load_model

    import_libraries()
    library.set_num_threads(spec["threads"])
    checkpoint = load_checkpoint(spec["checkpoint"], max_length=spec["longest"])

    def load() -> Run:
        model = load_model(checkpoint, spec["dtype"])

        def run(ids: Ids) -> NDArray[np.float32]:
            tensor = library.from_numpy(ids)
            with library.inference_mode():
                outputs = model({"input_ids": tensor, "attention_mask": library.ones_like(tensor)})
            vectors: NDArray[np.float32] = outputs["sentence_embedding"].float().numpy()
            return vectors

        return run

    return load


def _words() -> Iterator[str]:
    """An endless stream of words of the package's texts, in an order that is the same everywhere."""
    words = [w for t in texts.packaged() if t.script == _SCRIPT for w in t.text.split()]
    rng = np.random.default_rng(0)
    while True:
        yield from (words[i] for i in rng.permutation(len(words)))


if __name__ == "__main__":
    sys.exit(serve({"bundle": bundle, "tokenizer": tokenizer, "torch": torch, "per-tensor": per_tensor}))
