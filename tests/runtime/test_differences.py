"""Every row of `runtime/DIFFERENCES.md`, tested as a difference: the reference does one thing, we another."""

import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator
from sentence_transformers.util import semantic_search as reference_search
from sentence_transformers.util.quantization import quantize_embeddings as reference_quantize

from embedding_runtime import (
    Embedder,
    EmbeddingWarning,
    EngineError,
    InputError,
    InputTypeError,
    OverflowWarning,
    quantize_embeddings,
    semantic_search,
)

TABLE = Path(__file__).parents[2] / "runtime" / "DIFFERENCES.md"
VECTORS = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)

Test = Callable[[Embedder, Any], None]
TESTS: dict[str, Test] = {}


def row(name: str) -> Callable[[Test], Test]:
    def register(test: Test) -> Test:
        TESTS[name] = test
        return test

    return register


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> SentenceTransformer:
    torch.set_num_threads(1)
    return SentenceTransformer(str(tiny_checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})


@pytest.fixture
def ours(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder(tiny_bundle, threads=1) as embedder:
        yield embedder


def test_the_table_and_the_tests_name_the_same() -> None:
    rows = [line.split("|")[1].strip() for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    assert sorted(rows[1:]) == sorted(TESTS)


def silent(call: Callable[[], Any]) -> Any:
    """The result of a call that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


@row("bundle")
def _(ours: Embedder, reference: Any) -> None:
    with Embedder.load(ours._encoder.opened.path, threads=1) as loaded:
        np.testing.assert_array_equal(loaded.encode("a"), ours.encode("a"))


@row("renormalised")
def _(ours: Embedder, reference: Any) -> None:
    assert np.linalg.norm(reference.encode("a", truncate_dim=16)) < 0.9
    assert np.linalg.norm(ours.encode("a", truncate_dim=16)) == pytest.approx(1)
    assert np.linalg.norm(ours.encode("a", truncate_dim=16, normalize_embeddings=False)) < 0.9


@row("dim-range")
def _(ours: Embedder, reference: Any) -> None:
    for dim, length in ((0, 0), (-1, 63), (4096, 64)):
        assert reference.encode("a", truncate_dim=dim).shape == (length,)
        with pytest.raises(InputError, match=f"dim is {dim}"):
            ours.encode("a", truncate_dim=dim)


@row("dim-told")
def _(ours: Embedder, reference: Any) -> None:
    silent(lambda: reference.encode("a", truncate_dim=16))
    with pytest.warns(EmbeddingWarning, match="dim is 16"):
        ours.encode("a", truncate_dim=16)
    silent(lambda: ours.encode("a", truncate_dim=16))


@row("dim-name")
def _(ours: Embedder, reference: Any) -> None:
    with pytest.raises(ValueError, match="dim"):
        reference.encode("a", dim=16)
    np.testing.assert_array_equal(ours.encode("a", dim=16), ours.encode("a", truncate_dim=16))


@row("control-tokens")
def _(ours: Embedder, reference: Any) -> None:
    text = "a <eos> b"
    theirs = reference.encode(text)
    assert np.abs(ours.encode(text) - theirs).max() > 1e-3
    np.testing.assert_allclose(ours.encode(text, allow_special=True), theirs, atol=1e-5)


@row("no-row")
def _(ours: Embedder, reference: Any) -> None:
    """`test_tokenizer_file` has the rest: here the stand-in's own token past its table."""
    (token,) = ours.manifest.tokenizer.without_row
    with pytest.raises(IndexError):
        reference.encode(f"a {token} b")
    assert ours.encode(f"a {token} b").shape == (64,)
    with pytest.raises(InputError, match=token):
        ours.encode(f"a {token} b", allow_special=True)


@row("prompt-twice")
def _(ours: Embedder, reference: Any) -> None:
    text = ours.prompts["query"] + "a"
    theirs = silent(lambda: reference.encode_query(text))
    with pytest.warns(EmbeddingWarning, match="already begins with a prompt"):
        np.testing.assert_allclose(ours.encode_query(text), theirs, atol=1e-5)


@row("overflow")
def _(ours: Embedder, reference: Any) -> None:
    text = "word " * 3000
    theirs = silent(lambda: reference.encode(text))
    with pytest.warns(OverflowWarning):
        np.testing.assert_allclose(ours.encode(text), theirs, atol=1e-5)
    with pytest.raises(InputError):
        ours.encode(text, overflow="error")
    assert np.abs(ours.encode(text, overflow="chunk") - theirs).max() > 1e-5


@row("task")
def _(ours: Embedder, reference: Any) -> None:
    np.testing.assert_array_equal(reference.encode("a", task="sts"), reference.encode("a"))
    np.testing.assert_allclose(
        ours.encode("a", task="sts"), reference.encode("a", prompt_name="STS"), atol=1e-5
    )


@row("titles")
def _(ours: Embedder, reference: Any) -> None:
    theirs = reference.encode("rust", prompt="title: Mars | text: ")
    np.testing.assert_allclose(ours.encode_document(["rust"], titles=["Mars"])[0], theirs, atol=1e-5)


@row("arrays")
def _(ours: Embedder, reference: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda m: m.similarity(VECTORS, VECTORS),
        lambda m: m.similarity_pairwise(VECTORS, VECTORS),
        lambda m: m.encode(["a"], convert_to_numpy=False)[0],
        lambda m: m.encode("a", output_value="token_embeddings"),
        lambda m: m.tokenize(["a"])["input_ids"],
    ]
    for call in calls:
        assert isinstance(call(reference), torch.Tensor)
        assert isinstance(call(ours), np.ndarray)
    tensors: Any = torch.from_numpy(VECTORS)
    assert isinstance(ours.similarity(tensors, VECTORS), torch.Tensor)


@row("tensors")
def _(ours: Embedder, reference: Any) -> None:
    assert isinstance(reference.encode("a", convert_to_tensor=True), torch.Tensor)
    options: Any = {"convert_to_tensor": True}
    assert isinstance(ours.encode("a", **options), torch.Tensor)
    opened = f"from embedding_runtime import Embedder; Embedder({ours._path!r})"
    code = f"{opened}.encode('a', convert_to_tensor=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "InputError: convert_to_tensor=True needs PyTorch" in done.stderr


@row("cpu")
def _(ours: Embedder, reference: Any) -> None:
    np.testing.assert_allclose(ours.encode("a", device="cpu"), reference.encode("a", device="cpu"), atol=1e-5)
    refused: list[Any] = [{"device": "cuda"}, {"device": ["cpu", "cpu"]}, {"pool": {}}, {"chunk_size": 5}]
    for options in refused:
        with pytest.raises(InputError):
            ours.encode("a", **options)


@row("keywords")
def _(ours: Embedder, reference: Any) -> None:
    theirs = list(inspect.signature(reference.encode).parameters)
    mine = list(inspect.signature(ours.encode).parameters)
    assert mine[:5] == theirs[:5]
    reference.encode("a", None, None, 32, False, "sentence_embedding")
    with pytest.raises(TypeError):
        ours.encode("a", None, None, 32, False, "sentence_embedding")  # type: ignore[call-overload]


@row("iterables")
def _(ours: Embedder, reference: Any) -> None:
    for inputs in (iter(["a", "b"]), {"a", "b"}):
        with pytest.raises(ValueError, match="Unsupported input type"):
            reference.encode(inputs)
        assert ours.encode(inputs).shape == (2, 64)


@row("pairs")
def _(ours: Embedder, reference: Any) -> None:
    for inputs in ([["a", "b"]], [("a", "b")], np.array([["a", "b"]])):
        assert reference.encode(inputs).shape == (1, 64)
        with pytest.raises(InputTypeError):
            ours.encode(inputs)  # type: ignore[arg-type]


@row("wrong-types")
def _(ours: Embedder, reference: Any) -> None:
    with pytest.raises(ValueError, match="Unsupported input type"):
        reference.encode(["a", None])
    for kind in (TypeError, ValueError, InputTypeError):
        with pytest.raises(kind, match=r"inputs\[1\] is None"):
            ours.encode(["a", None])  # type: ignore[list-item]


@row("surrogates")
def _(ours: Embedder, reference: Any) -> None:
    with pytest.raises(TypeError):
        reference.encode(["a", "\ud800"])
    with pytest.raises(InputError, match=r"inputs\[1\] .* at position 0"):
        ours.encode(["a", "\ud800"])


@row("output-value")
def _(ours: Embedder, reference: Any) -> None:
    with pytest.raises(KeyError):
        reference.encode("a", output_value="tokens")
    with pytest.raises(InputError):
        ours.encode("a", output_value="tokens")  # type: ignore[call-overload]


@row("features")
def _(ours: Embedder, reference: Any) -> None:
    texts = ["a", "a longer text"]
    theirs, mine = reference.encode(texts, output_value=None), ours.encode(texts, output_value=None)
    for one, other in zip(mine, theirs, strict=True):
        assert (
            set(one) == {"input_ids", "attention_mask", "token_embeddings", "sentence_embedding"} < set(other)
        )
        length = len(one["input_ids"])
        assert one["attention_mask"].sum() == length == other["attention_mask"].sum()
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"][:length])
        np.testing.assert_allclose(one["token_embeddings"], other["token_embeddings"][:length], atol=1e-4)
        np.testing.assert_allclose(one["sentence_embedding"], other["sentence_embedding"], atol=1e-5)


@row("hidden-precision")
def _(ours: Embedder, reference: Any) -> None:
    reference.encode("a", output_value="token_embeddings", precision="binary")
    with pytest.raises(InputError, match="is for output_value"):
        ours.encode("a", output_value="token_embeddings", precision="binary")


@row("max-length")
def _(ours: Embedder, reference: Any) -> None:
    for value in (4096, 2048):
        reference.max_seq_length = value
    for value in (4096, 2):
        with pytest.raises(InputError):
            ours.max_seq_length = value


@row("tokenize")
def _(ours: Embedder, reference: Any) -> None:
    np.testing.assert_array_equal(ours.tokenize(["a"])["input_ids"], reference.tokenize(["a"])["input_ids"])


@row("tokenizer")
def _(ours: Embedder, reference: Any) -> None:
    assert ours.tokenizer.encode("a b") == reference.tokenizer(["a b"])["input_ids"][0]
    assert not callable(ours.tokenizer)
    assert len(ours.tokenizer.offsets("a b")) == len(ours.tokenizer.encode("a b"))


@row("processes")
def _(ours: Embedder, reference: Any) -> None:
    assert len(pickle.dumps(reference)) > 1_000_000
    data = pickle.dumps(ours)
    assert len(data) < 5_000 and str(ours._path).encode() in data


@row("card")
def _(ours: Embedder, reference: Any) -> None:
    models: list[Any] = [ours, reference]
    for model in models:
        evaluator = TripletEvaluator(["a"], ["b"], ["c"])
        assert evaluator(model)
    assert reference.model_card_data.eval_results_dict
    assert vars(ours.model_card_data).keys() == {
        "model_name",
        "base_model",
        "base_model_revision",
        "language",
    }


@row("model-names")
def _(ours: Embedder, reference: Any) -> None:
    for name in ("modules", "train", "save_pretrained", "start_multi_process_pool"):
        assert hasattr(reference, name) and not hasattr(ours, name)
    assert reference[0] is not None
    with pytest.raises(TypeError):
        ours[0]  # type: ignore[index]


@row("similarity-integers")
def _(ours: Embedder, reference: Any) -> None:
    ours.similarity_fn_name = reference.similarity_fn_name = "dot"
    small = np.full((1, 64), 127, dtype=np.int8)
    assert int(reference.similarity(small, small)[0, 0]) != 64 * 127 * 127
    assert ours.similarity(small, small)[0, 0] == 64 * 127 * 127
    with pytest.raises(RuntimeError):
        reference.similarity(VECTORS, VECTORS.astype(np.float64))
    assert ours.similarity(VECTORS, VECTORS.astype(np.float64)).dtype == np.float64
    reference.similarity_fn_name = "cosine"


@row("similarity-shapes")
def _(ours: Embedder, reference: Any) -> None:
    for method in ("similarity", "similarity_pairwise"):
        with pytest.raises(RuntimeError):
            getattr(reference, method)(VECTORS, VECTORS[:, :5])
        with pytest.raises(InputError):
            getattr(ours, method)(VECTORS, VECTORS[:, :5])


@row("quantize-again")
def _(ours: Embedder, reference: Any) -> None:
    with pytest.raises(Exception, match="must be float") as raised:
        reference_quantize(VECTORS.astype(np.int8), "int8")
    assert type(raised.value) is Exception
    with pytest.raises(InputTypeError):
        quantize_embeddings(VECTORS.astype(np.int8), "int8")


@row("search-chunks")
def _(ours: Embedder, reference: Any) -> None:
    theirs = inspect.signature(reference_search).parameters
    mine = inspect.signature(semantic_search).parameters
    assert theirs["corpus_chunk_size"].default > mine["corpus_chunk_size"].default
    assert list(mine) == list(theirs)


@row("closed")
def _(ours: Embedder, reference: Any) -> None:
    assert not hasattr(reference, "close")
    ours.close()
    with pytest.raises(EngineError):
        ours.encode("a")


@pytest.mark.parametrize("name", TESTS)
def test_difference(name: str, ours: Embedder, reference: Any) -> None:
    TESTS[name](ours, reference)
