"""An Embedder in other processes: pickled as its bundle's path and its options, and opened anew there."""

import copy
import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import BundleError, Embedder, EngineError


def vector_of(embedder: Embedder) -> Any:
    """At the top of a module, where other processes find it."""
    return embedder.encode_query("hello")


@pytest.fixture
def set_up(tiny_bundle: Path) -> Embedder:
    """Opened and set otherwise than by default, in every way."""
    embedder = Embedder(tiny_bundle, threads=1, prompts={"own": "own: "}, verify="always")
    embedder.max_seq_length = 70
    embedder.truncate_dim = 16
    embedder.prompts["query"] = "my query: "
    embedder.default_prompt_name = "own"
    embedder.similarity_fn_name = "dot"
    embedder.overflow = "error"
    return embedder


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(set_up: Embedder, protocol: int) -> None:
    data = pickle.dumps(set_up, protocol)
    assert len(data) < 5_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.encode("hello"), set_up.encode("hello"))
    np.testing.assert_array_equal(again.encode_query("hi"), set_up.encode_query("hi"))
    for name in ("max_seq_length", "truncate_dim", "prompts", "default_prompt_name", "similarity_fn_name"):
        assert getattr(again, name) == getattr(set_up, name), name
    assert (again.overflow, again.graph.key, again._choice.threads) == ("error", "onnx/fp32", 1)
    assert again._choice.verify == "always"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_copies_live_by_themselves(make: Any, tiny_bundle: Path) -> None:
    embedder = Embedder(tiny_bundle, threads=1)
    other = make(embedder)
    other.prompts["query"] = "changed: "
    assert embedder.prompts["query"] != "changed: "
    wanted = embedder.encode("a")
    embedder.close()
    np.testing.assert_array_equal(other.encode("a"), wanted)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_begin_anew(set_up: Embedder, method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(vector_of, (set_up,)), vector_of(set_up))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("graph", ["onnx/int8", "litert/fp32", "litert/int8"])
def test_every_engine_in_processes_that_begin_anew(graph: str, method: str, litert_bundle: Path) -> None:
    format, precision = graph.split("/")
    chosen = Embedder(litert_bundle, format=format, precision=precision, threads=1)  # type: ignore[arg-type]
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(vector_of, (chosen,)), vector_of(chosen))


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(set_up: Embedder, backend: str) -> None:
    joblib: Any = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(vector_of)(set_up) for _ in range(2))
    np.testing.assert_array_equal(found, [vector_of(set_up)] * 2)


def test_a_function_that_holds_one(set_up: Embedder) -> None:
    """As Spark, Ray and Dask send them: by value, with what they refer to."""
    cloudpickle: Any = pytest.importorskip("cloudpickle")
    again = pickle.loads(cloudpickle.dumps(lambda text: set_up.encode(text)))
    np.testing.assert_array_equal(again("hello"), set_up.encode("hello"))


def test_a_subclass_stays_one(tiny_bundle: Path) -> None:
    assert type(pickle.loads(pickle.dumps(Named(tiny_bundle, threads=1)))) is Named


class Named(Embedder):
    """A subclass."""


def test_a_relative_path_means_the_folder_it_was_opened_in(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    embedder = Embedder(tiny_bundle.name, threads=1)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).encode("a"), embedder.encode("a"))


def test_a_graph_that_was_chosen_stays_chosen(litert_bundle: Path) -> None:
    chosen = Embedder(litert_bundle, precision="fp32", format="litert", threads=1)
    assert pickle.loads(pickle.dumps(chosen)).graph.key == "litert/fp32"


def test_what_cannot_be_opened_anew_is_said(tiny_bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(tiny_bundle)
    embedder = Embedder(link, threads=1)
    data = pickle.dumps(embedder)
    link.unlink()
    with pytest.raises(BundleError, match="copy the bundle to that path on every machine"):
        pickle.loads(data)
    embedder.close()
    with pytest.raises(EngineError, match="closed"):
        pickle.dumps(embedder)


def test_another_bundle_at_the_same_path_is_refused(
    tiny_bundle: Path, litert_bundle: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(litert_bundle)
    int8 = pickle.dumps(Embedder(link, format="onnx", precision="int8", threads=1))
    data = pickle.dumps(Embedder(link, format="litert", precision="fp32", threads=1))
    link.unlink()
    link.symlink_to(tiny_bundle)
    for pickled in (int8, data):
        with pytest.raises(Exception, match="no graph for"):
            pickle.load(io.BytesIO(pickled))
