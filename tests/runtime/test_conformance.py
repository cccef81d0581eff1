"""The same calls on `Embedder` and `SentenceTransformer`: result, shape, dtype, warning, exception type.

What differs on purpose is in `runtime/DIFFERENCES.md` and tested in `test_differences`.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embedding_runtime import Embedder, EmbeddingWarning

Call = Callable[[Any], Any]
# Of the largest value: token embeddings are not normalised, and reach 3 or so.
TOLERANCE = 1e-5
# The share of quantized values that may fall on the other side of a step: the greatest of each dimension is
# on one. `test_vectors` has quantization of the very same vectors, which is equal.
STEPS_APART = 0.1

ONE = "Which planet is red?"
MANY = ["The red planet", "", "a", "naïve café, 日本 and 🙂", "  spaces  ", "x\0y\nz", "long " * 20]
INPUTS: dict[str, Any] = {
    "str": ONE,
    "empty str": "",
    "list": MANY,
    "list of one": [ONE],
    "tuple": tuple(MANY[:3]),
    "array": np.array(MANY[:3]),
    "objects": np.array(MANY[:3], dtype=object),
    "nothing": [],
    "empty tuple": (),
}
PROMPTS: dict[str, dict[str, Any]] = {
    "none": {},
    "by name": {"prompt_name": "STS"},
    "as text": {"prompt": "task: x | query: "},
    "empty": {"prompt": ""},
    "both": {"prompt": "p: ", "prompt_name": "query"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "whole": {},
    "normalised": {"normalize_embeddings": True},
    "sliced": {"truncate_dim": 16, "normalize_embeddings": False},
    "sliced and normalised": {"truncate_dim": 16, "normalize_embeddings": True},
}
PRECISIONS = [None, "float32", "int8", "uint8", "binary", "ubinary"]


@dataclass
class Outcome:
    """What a call did."""

    result: Any = None
    error: Exception | None = None
    logged: list[int] = field(default_factory=list)
    warned: list[type[Warning]] = field(default_factory=list)


class Levels(logging.Handler):
    """Notes the level of every record."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.levels: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelno)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> SentenceTransformer:
    torch.set_num_threads(1)
    return SentenceTransformer(
        str(tiny_checkpoint), device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True
    )


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder(tiny_bundle, threads=1) as embedder:
        yield embedder


def observe(model: Any, call: Call) -> Outcome:
    outcome, levels = Outcome(), Levels()
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "embedding_runtime")]
    for logger in loggers:
        logger.addHandler(levels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome.result = call(model)
        except Exception as e:
            outcome.error = e
    for logger in loggers:
        logger.removeHandler(levels)
    outcome.logged = levels.levels
    outcome.warned = [w.category for w in caught if not issubclass(w.category, EmbeddingWarning)]
    return outcome


def compare(ours: Any, reference: Any, call: Call) -> None:
    """Run a call on both, and require the same of both."""
    theirs, mine = observe(reference, call), observe(ours, call)
    if theirs.error is not None:
        assert isinstance(mine.error, type(theirs.error)), f"{theirs.error!r} against {mine.error!r}"
        return
    assert mine.error is None
    assert mine.logged == theirs.logged
    assert mine.warned == theirs.warned
    same(mine.result, theirs.result)


def same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert isinstance(mine, list)
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, (np.ndarray, torch.Tensor)):
        expected = np.asarray(theirs)
        assert isinstance(mine, (np.ndarray, np.generic))
        assert mine.shape == expected.shape
        assert mine.dtype == expected.dtype
        close(mine, expected)
    else:
        assert mine == theirs


def close(mine: Any, expected: Any) -> None:
    if expected.dtype.kind == "f":
        largest = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(mine, expected, atol=TOLERANCE * largest, rtol=0)
    elif expected.size:
        assert np.sum(mine != expected) <= max(1, STEPS_APART * expected.size)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_encode(ours: Embedder, reference: Any, inputs: str, prompt: str, shape: str) -> None:
    compare(ours, reference, lambda m: m.encode(INPUTS[inputs], **PROMPTS[prompt], **SHAPES[shape]))


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
@pytest.mark.parametrize("inputs", ["str", "list", "nothing"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_queries_and_documents(ours: Embedder, reference: Any, method: str, inputs: str, prompt: str) -> None:
    compare(ours, reference, lambda m: getattr(m, method)(INPUTS[inputs], **PROMPTS[prompt]))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("inputs", ["str", "list", "list of one", "nothing"])
@pytest.mark.parametrize("shape", SHAPES)
def test_precision(ours: Embedder, reference: Any, precision: Any, inputs: str, shape: str) -> None:
    compare(ours, reference, lambda m: m.encode(INPUTS[inputs], **SHAPES[shape], precision=precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("inputs", ["str", "list", "nothing"])
def test_lists(ours: Embedder, reference: Any, precision: Any, inputs: str) -> None:
    options = {"precision": precision, "convert_to_numpy": False}
    compare(ours, reference, lambda m: m.encode(INPUTS[inputs], **options))


def test_past_the_end(ours: Embedder, reference: Any) -> None:
    compare(ours, reference, lambda m: m.encode_query(["word " * 3000, "short"]))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batch_sizes(ours: Embedder, reference: Any, size: int) -> None:
    compare(ours, reference, lambda m: m.encode(MANY, batch_size=size))


@pytest.mark.parametrize("inputs", ["str", "list", "nothing"])
def test_token_embeddings(ours: Embedder, reference: Any, inputs: str) -> None:
    compare(ours, reference, lambda m: m.encode(INPUTS[inputs], output_value="token_embeddings"))


ERRORS: dict[str, Call] = {
    "None": lambda m: m.encode(None),
    "int": lambda m: m.encode(5),
    "float": lambda m: m.encode(3.5),
    "bytes": lambda m: m.encode(b"x"),
    "dict": lambda m: m.encode({"a": 1}),
    "None in a list": lambda m: m.encode(["a", None]),
    "int in a list": lambda m: m.encode(["a", 5]),
    "bytes in a list": lambda m: m.encode(["a", b"x"]),
    "empty list in a list": lambda m: m.encode([[]]),
    "array of numbers": lambda m: m.encode(np.array([1, 2])),
    "array without dimensions": lambda m: m.encode(np.array("a")),
    "unknown prompt": lambda m: m.encode(ONE, prompt_name="nope"),
    "unknown prompt for a query": lambda m: m.encode_query(ONE, prompt_name="nope"),
    "unknown prompt for nothing": lambda m: m.encode([], prompt_name="nope"),
    "prompt of no text": lambda m: m.encode(ONE, prompt=5),
    "batch of none": lambda m: m.encode(ONE, batch_size=0),
    "negative batch": lambda m: m.encode(MANY, batch_size=-1),
    "batch of a half": lambda m: m.encode(MANY, batch_size=2.5),
    "batch of text": lambda m: m.encode(MANY, batch_size="3"),
    "unknown precision": lambda m: m.encode(ONE, precision="int4"),
    "int8 of one": lambda m: m.encode(ONE, precision="int8"),
    "uint8 of a list of one": lambda m: m.encode([ONE], precision="uint8"),
    "dim of text": lambda m: m.encode(ONE, truncate_dim="a"),
    "unknown argument": lambda m: m.encode(ONE, nonsense=1),
    "unknown argument of a document": lambda m: m.encode_document(ONE, nonsense=1),
    "nothing passed": lambda m: m.encode(),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(ours: Embedder, reference: Any, name: str) -> None:
    assert observe(reference, ERRORS[name]).error is not None
    compare(ours, reference, ERRORS[name])


VECTORS = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
PAIRS: dict[str, tuple[Any, Any]] = {
    "matrices": (VECTORS, VECTORS[::-1].copy()),
    "vector and matrix": (VECTORS[0], VECTORS),
    "vectors": (VECTORS[0], VECTORS[1]),
    "lists of arrays": (list(VECTORS), list(VECTORS)),
    "lists of numbers": (VECTORS.tolist(), VECTORS),
    "halves": (VECTORS.astype(np.float16), VECTORS.astype(np.float16)),
    "doubles": (VECTORS.astype(np.float64), VECTORS.astype(np.float64)),
    "zeros": (np.zeros((2, 64), np.float32), np.zeros((2, 64), np.float32)),
}


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("method", ["similarity", "similarity_pairwise"])
@pytest.mark.parametrize("pair", PAIRS)
def test_similarity(ours: Embedder, reference: Any, function: Any, method: str, pair: str) -> None:
    def call(model: Any) -> Any:
        before, model.similarity_fn_name = model.similarity_fn_name, function
        try:
            return getattr(model, method)(*PAIRS[pair])
        finally:
            model.similarity_fn_name = before

    compare(ours, reference, call)


PROPERTIES: dict[str, Call] = {
    "prompts": lambda m: m.prompts,
    "order of prompts": lambda m: list(m.prompts),
    "default_prompt_name": lambda m: m.default_prompt_name,
    "max_seq_length": lambda m: m.max_seq_length,
    "similarity_fn_name": lambda m: m.similarity_fn_name,
    "truncate_dim": lambda m: m.truncate_dim,
    "device": lambda m: str(m.device),
    "get_embedding_dimension": lambda m: m.get_embedding_dimension(),
    "get_sentence_embedding_dimension": lambda m: m.get_sentence_embedding_dimension(),
    "unknown similarity": lambda m: setattr(m, "similarity_fn_name", "foo"),
    "input_ids": lambda m: m.tokenize(MANY)["input_ids"],
    "attention_mask": lambda m: m.tokenize(MANY)["attention_mask"],
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties(ours: Embedder, reference: Any, name: str) -> None:
    reference.tokenize(["told once"])
    compare(ours, reference, PROPERTIES[name])


def test_truncate_embeddings(ours: Embedder, reference: Any) -> None:
    def call(model: Any) -> Any:
        with model.truncate_embeddings(16):
            return [model.get_embedding_dimension(), model.encode(MANY, normalize_embeddings=True)]

    compare(ours, reference, call)


def test_the_older_name_of_inputs(ours: Embedder, reference: Any) -> None:
    compare(ours, reference, lambda m: m.encode(sentences=MANY))


@pytest.mark.parametrize(
    "options",
    [
        {"default_prompt_name": "STS"},
        {"truncate_dim": 16},
        {"similarity_fn_name": "dot"},
        {"prompts": {"a": "b"}},
    ],
    ids=str,
)
def test_loading_options(tiny_checkpoint: Path, tiny_bundle: Path, options: dict[str, Any]) -> None:
    reference = SentenceTransformer(str(tiny_checkpoint), device="cpu", **options)
    with Embedder(tiny_bundle, device="cpu", **options) as ours:
        for call in (
            lambda m: m.encode(MANY, normalize_embeddings=True),
            lambda m: m.encode_query(ONE, normalize_embeddings=True),
            lambda m: m.similarity(VECTORS, VECTORS),
            lambda m: m.get_embedding_dimension(),
        ):
            compare(ours, reference, call)
        assert set(ours.prompts) == set(reference.prompts)


def test_there_are_enough_combinations() -> None:
    assert len(INPUTS) * len(PROMPTS) * len(SHAPES) + len(ERRORS) + 8 * len(PAIRS) > 250
