"""The Embedder on a tiny bundle: results, batches, overflow, warnings, threads, and what it refuses."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentences import sentences

from embedding_runtime import (
    Embedder,
    EmbeddingWarning,
    EngineError,
    InputError,
    InputTypeError,
)
from embedding_runtime.encoding.stream import TOKEN_BUDGET, batches


def test_shapes_and_types(embedder: Embedder) -> None:
    one = embedder.encode("hello")
    assert one.shape == (64,)
    assert one.dtype == np.float32
    assert embedder.encode(["a", "b", ""]).shape == (3, 64)
    assert embedder.encode([]).shape == (0,)
    assert embedder.encode(iter(["a", "b"])).shape == (2, 64)
    assert embedder.encode(()).shape == (0,)
    np.testing.assert_array_equal(embedder.encode(np.array(["hello"]))[0], one)


def test_order_and_batches_do_not_matter(embedder: Embedder) -> None:
    texts = sentences(90)
    alone = np.stack([embedder.encode(t) for t in texts])
    for size in (1, 7, 32):
        np.testing.assert_allclose(embedder.encode(texts, batch_size=size), alone, atol=2e-6)
    np.testing.assert_allclose(embedder.encode(iter(texts), batch_size=2), alone, atol=2e-6)


def test_windows_are_put_together_in_order(embedder: Embedder) -> None:
    """batch_size 1 makes windows of 32 texts: three full ones, and one that is not; then full ones only."""
    for count in (100, 64):
        texts = sentences(count, seed=1)
        found = list(embedder.encode_iter(iter(texts), batch_size=1))
        assert [i for i, _ in found] == list(range(count))
        np.testing.assert_allclose(np.stack([v for _, v in found]), embedder.encode(texts), atol=2e-6)


def test_encode_iter_reads_as_it_goes(embedder: Embedder) -> None:
    seen = 0

    def texts() -> Iterator[str]:
        nonlocal seen
        for text in sentences(1000):
            seen += 1
            yield text

    first = next(embedder.encode_iter(texts(), batch_size=1))
    assert first[0] == 0
    assert seen < 200


def test_a_generator_stays_in_its_thread(embedder: Embedder) -> None:
    """A database cursor, for one, may only be read where it was made."""
    here = threading.get_ident()
    found = set()

    def texts() -> Iterator[str]:
        for text in sentences(100):
            found.add(threading.get_ident())
            yield text

    embedder.encode(texts(), batch_size=1)
    assert found == {here}


def test_batches_hold_rows_and_tokens_down() -> None:
    lengths = np.array([2048, 5, 2048, 100, 3000, 7, 9000])
    groups = list(batches(lengths, 3))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= TOKEN_BUDGET
        assert len(group) <= 3


def test_prompts_reach_the_text(embedder: Embedder) -> None:
    query = embedder.prompts["query"]
    expected = embedder.encode(query + "red", prompt="")
    for found in (
        embedder.encode_query("red"),
        embedder.encode("red", prompt_name="query"),
        embedder.encode("red", prompt=query),
        embedder.encode("red", task="QUERY"),
        embedder.encode("red", task="search result"),
    ):
        np.testing.assert_array_equal(found, expected)
    assert not np.allclose(embedder.encode("red"), expected)


def test_titles_reach_the_prompt(embedder: Embedder) -> None:
    texts = ["rust", "ice"]
    found = embedder.encode_document(texts, titles=["Mars", None])
    expected = embedder.encode(["title: Mars | text: rust", "title: none | text: ice"], prompt="")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    single = embedder.encode_document("rust", titles="Mars")
    np.testing.assert_allclose(single, expected[0], atol=1e-6)


def test_default_prompt(tiny_bundle: Path) -> None:
    with Embedder(tiny_bundle, default_prompt_name="STS", prompts={"own": "own: "}) as embedder:
        plain, sts = embedder.encode("x", prompt=""), embedder.encode("x", task="sts")
        np.testing.assert_array_equal(embedder.encode("x"), sts)
        assert not np.allclose(plain, sts)
        np.testing.assert_array_equal(
            embedder.encode("x", prompt_name="own"), embedder.encode("own: x", prompt="")
        )
    with pytest.raises(InputError, match="'nope' is unknown"):
        Embedder(tiny_bundle, default_prompt_name="nope")


def test_dim(embedder: Embedder) -> None:
    whole = embedder.encode("red")
    with pytest.warns(EmbeddingWarning, match="dim is 16"):
        short = embedder.encode("red", dim=16)
    np.testing.assert_allclose(short, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
    raw = embedder.encode("red", truncate_dim=16, normalize_embeddings=False)
    np.testing.assert_array_equal(raw, whole[:16])
    with embedder.truncate_embeddings(16):
        np.testing.assert_array_equal(embedder.encode("red"), short)
        assert embedder.get_embedding_dimension() == 16
    assert embedder.get_embedding_dimension() == 64


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"dim": 0}, InputError, "dim is 0; expected an int from 1 to 64"),
        ({"dim": 4096}, InputError, "dim is 4096"),
        ({"truncate_dim": -1}, InputError, "dim is -1"),
        ({"dim": 1.5}, InputTypeError, r"dim is 1\.5"),
        ({"dim": 16, "truncate_dim": 32}, InputError, "they mean the same"),
        ({"batch_size": 0}, InputError, "batch_size is 0"),
        ({"batch_size": True}, InputTypeError, "batch_size is True"),
        ({"task": "nope"}, InputError, "Task 'nope' is unknown.*STS"),
        ({"prompt_name": "nope"}, InputError, "'nope' is unknown.*STS"),
        ({"prompt": "\ud800"}, InputError, r"inputs\[0\] holds the lone surrogate U\+D800"),
        ({"precision": "int4"}, InputError, "'int4' is unknown"),
        ({"output_value": "tokens"}, InputError, "output_value is 'tokens'"),
        ({"output_value": None, "precision": "int8"}, InputError, "is for output_value"),
        ({"device": "cuda"}, InputError, "CPU only"),
        ({"pool": {}}, InputError, "pool and chunk_size"),
        ({"overflow": "drop"}, InputError, "overflow is 'drop'"),
        ({"nonsense": 1}, InputError, r"no arguments \['nonsense'\]"),
    ],
)
def test_refused_options(embedder: Embedder, options: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        embedder.encode(["a", "b"], **options)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, "inputs is None"),
        (5, "inputs is a int"),
        (b"x", "inputs is a bytes"),
        ({"a": "b"}, "inputs is a dict"),
        (["a", None], r"inputs\[1\] is None"),
        (iter(["a", b"b"]), r"inputs\[1\] is a bytes"),
        ([["a"]], r"inputs\[0\] is a list"),
        (np.array("a"), r"inputs is an array of shape \(\)"),
    ],
)
def test_refused_inputs(embedder: Embedder, inputs: Any, words: str) -> None:
    with pytest.raises(InputTypeError, match=words) as raised:
        embedder.encode(inputs)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, ValueError)


def test_a_lone_surrogate_is_named(embedder: Embedder) -> None:
    with pytest.raises(InputError, match=r"inputs\[2\] holds the lone surrogate U\+DC80 at position 1"):
        embedder.encode(["a", "é", "x\udc80"])


def test_control_tokens_are_text(embedder: Embedder) -> None:
    ids = embedder.tokenize("<eos><pad>")["input_ids"][0]
    assert (ids == embedder.manifest.tokenizer.eos_id).sum() == 1
    special = embedder.encode("<eos><pad>", allow_special=True)
    assert not np.allclose(embedder.encode("<eos><pad>"), special)


def test_nul_bytes_are_text(embedder: Embedder) -> None:
    assert not np.allclose(embedder.encode("a\0b"), embedder.encode("ab"))


def test_output_values(embedder: Embedder) -> None:
    texts = ["red planet", "a"]
    hidden = embedder.encode(texts, output_value="token_embeddings")
    assert isinstance(hidden, list)
    features = embedder.encode(texts, output_value=None)
    for text, tokens, feature in zip(texts, hidden, features, strict=True):
        ids = embedder.tokenize(text)["input_ids"][0]
        assert isinstance(feature, dict)
        assert isinstance(tokens, np.ndarray)
        np.testing.assert_array_equal(feature["input_ids"], ids)
        assert tokens.shape == (len(ids), 64)
        np.testing.assert_array_equal(feature["token_embeddings"], tokens)
        np.testing.assert_allclose(feature["sentence_embedding"], embedder.encode(text), atol=1e-6)


def test_lists_instead_of_one_array(embedder: Embedder) -> None:
    listed = embedder.encode(["a", "b"], convert_to_numpy=False)
    assert isinstance(listed, list)
    np.testing.assert_array_equal(np.array(listed), embedder.encode(["a", "b"]))


def test_precision(embedder: Embedder) -> None:
    bits = embedder.encode(["a", "b"], precision="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(embedder.encode(["a", "b"]) > 0, axis=-1))
    ((_, first),) = embedder.encode_iter(["a"], precision="binary")
    assert first.dtype == np.int8
    with pytest.raises(InputError, match="needs the ranges"):
        embedder.encode_iter(["a"], precision="int8")


def test_similarity(embedder: Embedder) -> None:
    a, b = embedder.encode(["red", "ocean"]), embedder.encode(["red", "stone", "light"])
    assert embedder.similarity(a, b).shape == (2, 3)
    assert embedder.similarity_pairwise(a, b[:2])[0] == pytest.approx(1, abs=1e-6)
    embedder.similarity_fn_name = "euclidean"
    assert embedder.similarity(a, b)[0, 0] == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match="'foo'; expected one of"):
        embedder.similarity_fn_name = "foo"  # type: ignore[assignment]
    embedder.similarity_fn_name = "cosine"


def test_closed(tiny_bundle: Path) -> None:
    with Embedder(tiny_bundle, threads=1) as embedder:
        embedder.encode("a")
    for use in (lambda: embedder.encode("a"), lambda: embedder.tokenize("a"), embedder.check_golden):
        with pytest.raises(EngineError, match="closed"):
            use()
    embedder.close()
    assert "dim=64" in repr(embedder)


def test_closing_lets_runs_under_way_finish(tiny_bundle: Path) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    running = embedder.encode_iter(sentences(200), batch_size=1)
    next(running)
    embedder.close()
    assert len(list(running)) == 199


def test_eight_threads_give_the_vectors_of_one(embedder: Embedder) -> None:
    texts = sentences(200, seed=5)
    calls: list[Callable[[int], Any]] = [
        lambda i: embedder.encode(texts[i]),
        lambda i: embedder.encode_query(texts[i : i + 5], batch_size=2),
        lambda i: embedder.encode_document([texts[i]], titles=["Mars"]),
        lambda i: embedder.encode(texts[i], normalize_embeddings=False, truncate_dim=64),
        lambda i: embedder.encode("<eos> " + texts[i], allow_special=True),
        lambda i: embedder.encode("<eos> " + texts[i]),
        lambda i: embedder.tokenize(texts[i])["input_ids"],
    ]
    work = [(i, calls[i % len(calls)]) for i in range(200)]
    expected = [call(i) for i, call in work]

    def run(thread: int) -> None:
        order = np.random.default_rng(thread).permutation(len(work))
        for place in order:
            i, call = work[place]
            np.testing.assert_allclose(call(i), expected[place], atol=2e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_encodes(tiny_bundle: Path) -> None:
    """Though the engine's second thread stays behind."""
    code = """
import os, sys, numpy as np
from embedding_runtime import Embedder
embedder = Embedder(sys.argv[1], threads=2)
texts = ["the red planet " * 200] * 20
expected = embedder.encode(texts)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(embedder.encode(texts), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tiny_bundle)]
    assert subprocess.run(command, timeout=120).returncode == 0


def test_threads(tiny_bundle: Path) -> None:
    for wrong, kind in ((0, InputError), (1.5, InputTypeError)):
        with pytest.raises(kind, match="threads is"):
            Embedder(tiny_bundle, threads=wrong)  # type: ignore[arg-type]
    with Embedder(tiny_bundle, threads=2) as two:
        assert two.encode("a").shape == (64,)


def test_names_of_sentence_transformers(embedder: Embedder) -> None:
    assert embedder.device == "cpu"
    assert embedder.to("cpu") is embedder
    with pytest.warns(FutureWarning, match="get_embedding_dimension"):
        assert embedder.get_sentence_embedding_dimension() == 64
    np.testing.assert_array_equal(embedder.encode(sentences=["a"])[0], embedder.encode("a"))  # type: ignore[call-overload]


def test_progress_goes_to_stderr(embedder: Embedder, capfd: pytest.CaptureFixture[str]) -> None:
    embedder.encode(["a", "b"], show_progress_bar=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "2 texts" in err
    embedder.encode(["a", "b"])
    assert capfd.readouterr().err == ""
