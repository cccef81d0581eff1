"""The Embedder on a LiteRT graph does what it does on an ONNX graph; and which of the two it takes."""

import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import assumed
from sentences import sentences

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import BundleError, Embedder, EngineError, InputError, OverflowWarning
from embedding_runtime.bundle import Format, Graph, Manifest, Precision, load_manifest
from embedding_runtime.embed_text.cli import main
from embedding_runtime.encoding.overflow import Overflow
from embedding_runtime.opening.selection import choose_graph

LONG = " ".join(sentences(60))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user cache of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))
        yield


@pytest.fixture(scope="module")
def onnx(litert_bundle: Path) -> Iterator[Embedder]:
    """Of which as many tokens are read as the LiteRT graph has in its largest bucket."""
    with Embedder.load(litert_bundle, format="onnx", precision="fp32", threads=1) as embedder:
        embedder.max_seq_length = 512
        yield embedder


@pytest.fixture(scope="module")
def litert(litert_bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(litert_bundle, format="litert", precision="fp32", threads=1) as embedder:
        yield embedder


@pytest.fixture
def fresh(litert_bundle: Path) -> Iterator[Embedder]:
    """One that has told no warning yet."""
    with Embedder.load(litert_bundle, format="litert", precision="int8", threads=1) as embedder:
        yield embedder


CALLS: list[Callable[[Embedder], Any]] = [
    lambda e: e.encode("red"),
    lambda e: e.encode([]),
    lambda e: e.encode(["red", "", LONG[:1500], "two words"]),
    lambda e: e.encode_query(["red", "ocean"]),
    lambda e: e.encode("red", task="STS"),
    lambda e: e.encode_document(["rust", "ice"], titles=["Mars", None]),
    lambda e: e.encode("red", dim=16),
    lambda e: e.encode("red", truncate_dim=16, normalize_embeddings=False),
    lambda e: e.encode(LONG),
    lambda e: e.encode([LONG, "short"], overflow="chunk"),
    lambda e: e.encode("<eos> red", allow_special=True),
    lambda e: e.encode(["a", "b"], precision="ubinary"),
    lambda e: np.stack([v for _, v in e.encode_iter(iter(sentences(50)), batch_size=1)]),
    lambda e: e.tokenize([LONG, "a"])["input_ids"],
]


@pytest.mark.filterwarnings("ignore::embedding_runtime.errors.EmbeddingWarning")
@pytest.mark.parametrize("call", CALLS)
def test_every_call_gives_what_onnx_gives(
    onnx: Embedder, litert: Embedder, call: Callable[[Embedder], Any]
) -> None:
    found, expected = call(litert), call(onnx)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_int8_is_near(onnx: Embedder, fresh: Embedder) -> None:
    texts = sentences(30)
    cosines = (onnx.encode(texts) * fresh.encode(texts)).sum(axis=1)
    assert cosines.min() > 0.98
    assert fresh.check_golden() < 1e-6


def test_a_vector_is_the_same_whatever_the_batch(fresh: Embedder) -> None:
    texts = sentences(40)
    alone = np.stack([fresh.encode(t) for t in texts])
    for size in (1, 7, 32):
        np.testing.assert_array_equal(fresh.encode(texts, batch_size=size), alone)


def test_the_largest_bucket_is_the_limit(fresh: Embedder) -> None:
    assert fresh.max_seq_length == 512
    with pytest.raises(InputError, match="max_seq_length is 513; expected an int from 3 to 512"):
        fresh.max_seq_length = 513
    with pytest.raises(InputError, match=r"inputs\[1\] has more than the 512 tokens"):
        fresh.encode(["a", LONG], overflow="error")
    with pytest.warns(OverflowWarning, match="litert/int8 was exported for 512, the model reads 2048"):
        cut = fresh.encode(LONG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.allclose(fresh.encode(LONG, overflow="chunk"), cut)
        fresh.encode(LONG)


def test_literal_padding(fresh: Embedder) -> None:
    """As text it is text; as a control token the graph would leave it out."""
    assert not np.allclose(fresh.encode("a <pad> b"), fresh.encode("a b"))
    with pytest.raises(InputError, match=r"inputs\[1\] holds the control token with id 0, which a LiteRT"):
        fresh.encode(["a", "a <pad> b"], allow_special=True)


@pytest.mark.parametrize("value", ["token_embeddings", None])
def test_there_are_no_token_vectors(fresh: Embedder, value: Any) -> None:
    with pytest.raises(InputError, match=r"'last_hidden_state', which the graph litert/int8 lacks.*'onnx'"):
        fresh.encode("a", output_value=value)


def test_threads_give_the_vectors_of_one(litert: Embedder) -> None:
    texts = sentences(60, seed=5)
    expected = [litert.encode(t) for t in texts]

    def run(thread: int) -> None:
        for i in np.random.default_rng(thread).permutation(len(texts)):
            np.testing.assert_array_equal(litert.encode(texts[i]), expected[i])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))


def test_more_engine_threads(litert_bundle: Path, litert: Embedder) -> None:
    texts = sentences(5)
    with Embedder.load(litert_bundle, format="litert", precision="fp32", threads=2) as two:
        np.testing.assert_allclose(two.encode(texts), litert.encode(texts), atol=1e-6)


def test_a_forked_child_encodes(fresh: Embedder) -> None:
    expected = fresh.encode("red planet")
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(fresh.encode("red planet"), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_closed(litert_bundle: Path) -> None:
    embedder = Embedder.load(litert_bundle, format="litert", threads=1)
    running = embedder.encode_iter(sentences(200), batch_size=1)
    next(running)
    embedder.close()
    assert len(list(running)) == 199
    with pytest.raises(EngineError, match="closed"):
        embedder.encode("a")


def test_golden_vectors_that_fit_are_compared(litert_bundle: Path, tmp_path: Path) -> None:
    """One that passes the largest bucket cannot be run; one that is off is told."""
    manifest = load_manifest(litert_bundle)
    (graph,) = [g for g in manifest.graphs if g.key == "litert/int8"]
    assert [len(g.ids) for g in graph.golden] == [3, 24, 301]
    too_long = dataclasses.replace(graph.golden[0], ids=(5,) * 513)
    bundle = linked(litert_bundle, tmp_path / "long", replaced(graph, golden=(*graph.golden, too_long)))
    with Embedder.load(bundle, format="litert", precision="int8", threads=1) as embedder:
        assert embedder.check_golden() < 1e-6
    off = dataclasses.replace(graph.golden[1], ids=graph.golden[2].ids)
    bundle = linked(litert_bundle, tmp_path / "off", replaced(graph, golden=(graph.golden[0], off)))
    with pytest.raises(BundleError, match=r"is off by .*Upgrade ai-edge-litert"):
        Embedder.load(bundle, format="litert", precision="int8", threads=1)


def replaced(graph: Graph, **fields: Any) -> Callable[[Manifest], Manifest]:
    """A change of one graph of a manifest."""
    other = dataclasses.replace(graph, **fields)
    return lambda m: dataclasses.replace(m, graphs=tuple(other if g == graph else g for g in m.graphs))


def linked(bundle: Path, at: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """A bundle of the same files with another manifest."""
    at.mkdir()
    for path in bundle.iterdir():
        (at / path.name).symlink_to(path)
    (at / "manifest.json").unlink()
    (at / "manifest.json").write_text(change(load_manifest(bundle)).to_json())
    return at


def only(manifest: Manifest, *keys: str) -> Manifest:
    return dataclasses.replace(manifest, graphs=tuple(g for g in manifest.graphs if g.key in keys))


@pytest.mark.parametrize(
    ("have", "missing", "taken"),
    [
        (["onnx/int8", "litert/int8"], None, "onnx/int8"),
        (["onnx/int8", "litert/int8"], "onnxruntime", "litert/int8"),
        (["onnx/int8", "litert/int8"], "ai_edge_litert", "onnx/int8"),
        (["onnx/fp32", "litert/int8"], None, "litert/int8"),
        (["onnx/fp32", "litert/int8"], "ai_edge_litert", "onnx/fp32"),
        (["onnx/int8", "litert/fp32"], "onnxruntime", "litert/fp32"),
        (["litert/fp32"], None, "litert/fp32"),
    ],
)
def test_the_engine_that_is_installed_is_taken(
    litert_bundle: Path, monkeypatch: pytest.MonkeyPatch, have: list[str], missing: str | None, taken: str
) -> None:
    """The better precision first, then the better format."""
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    assert choose_graph(only(load_manifest(litert_bundle), *have), None, None).key == taken


def test_no_engine_at_all(litert_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)
    both = (
        r"pip install onnxruntime \(for onnx/int8\); "
        r"or pip install 'embedding-edge\[litert\]' \(for litert/int8\)"
    )
    with pytest.raises(EngineError, match=both):
        Embedder.load(litert_bundle, precision="int8")


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_what_is_asked_for_is_taken(litert_bundle: Path, format: Format) -> None:
    for precision in cast("tuple[Precision, ...]", ("fp32", "int8")):
        assert choose_graph(load_manifest(litert_bundle), format, precision).key == f"{format}/{precision}"
    with pytest.raises(InputError, match=f"no graph for {format} in int4; it has: onnx/fp32"):
        choose_graph(load_manifest(litert_bundle), format, "int4")


@pytest.mark.parametrize("asked", [["--format", "litert"], []])
def test_embed_text_states_the_engine(
    litert_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    asked: list[str],
) -> None:
    if not asked:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "in.txt").write_text("red\nplanet\n")
    argv = [str(litert_bundle), str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "--json"]
    assert main([*argv, *asked]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert report["graph"] == "litert/int8"
    assert report["engine"].startswith("ai-edge-litert 2.")
    assert "accelerator" not in err
    assert np.load(tmp_path / "out.npy").shape == (2, 64)


@pytest.fixture(scope="module")
def single_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signature of 64 tokens, under the names of the published files."""
    folder = tmp_path_factory.mktemp("single") / "bundle"
    options = ExportOptions(("fp32",), formats=("onnx", "litert"), litert_single=64)
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.mark.filterwarnings("ignore::embedding_runtime.errors.OverflowWarning")
@pytest.mark.parametrize("overflow", ["truncate", "chunk"])
def test_a_single_length(single_bundle: Path, overflow: Overflow) -> None:
    """Cuts and chunks are made for what the graph takes; the names in the file are no matter."""
    with (
        Embedder.load(single_bundle, format="litert", threads=1, overflow=overflow) as litert,
        Embedder.load(single_bundle, format="onnx", threads=1, overflow=overflow) as onnx,
    ):
        assert litert.graph.outputs == ("output_0",)
        onnx.max_seq_length = litert.max_seq_length
        assert litert.max_seq_length == 64
        found, expected = (e.encode_query(["red", LONG[:600]]) for e in (litert, onnx))
        np.testing.assert_allclose(found, expected, atol=1e-5)
