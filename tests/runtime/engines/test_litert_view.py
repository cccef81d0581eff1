"""One signature of a LiteRT file at a time: the same vectors, for the price of what is used."""

import ctypes
import gc
import mmap
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from embedding_runtime.engines import litert_model
from embedding_runtime.engines.litert_mapping import Views, supported
from embedding_runtime.engines.litert_model import OneByOne, Whole
from embedding_runtime.engines.litert_packed import WEIGHTS, build
from embedding_runtime.engines.litert_session import LitertSession
from embedding_runtime.errors import EngineError
from embedding_runtime.vectors import Floats

pytestmark = pytest.mark.skipif(not supported(), reason="views need CPython on Linux")

PAD = 0


@pytest.fixture(scope="module")
def graph(litert_bundle: Path) -> Path:
    return litert_bundle / "litert" / "model_int8.tflite"


@pytest.fixture(scope="module")
def weights(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    build(graph, folder, PAD)
    return folder / WEIGHTS


@pytest.fixture
def views(graph: Path) -> Iterator[Views]:
    opened = Views(graph)
    yield opened
    opened.close()


def run(session: LitertSession, length: int) -> Floats:
    ids = np.random.default_rng(length).integers(5, 300, size=(1, length))
    found: Floats = session.run(ids, np.ones_like(ids), ("sentence_embedding",))[0][0]
    return found


def opened(session: LitertSession) -> list[int]:
    assert isinstance(session._model, OneByOne)
    return sorted(session._model._compiled)


def test_the_signatures_of_a_file(views: Views, graph: Path) -> None:
    assert views.names == {32: "embed_32", 64: "embed_64", 512: "embed_512"}
    assert set(views.names.values()) == set(Interpreter(model_path=str(graph)).get_signature_list())


@pytest.mark.parametrize("length", [32, 64, 512])
def test_a_view_is_the_file_with_one_signature(views: Views, graph: Path, length: int) -> None:
    before = graph.read_bytes()
    view = views.open(length)
    assert type(view.data) is bytes
    assert len(view.data) == len(before)
    assert 0 < sum(a != b for a, b in zip(view.data, before, strict=True)) <= 20
    interpreter = Interpreter(model_content=view.data, num_threads=1)
    assert list(interpreter.get_signature_list()) == [f"embed_{length}"]
    tokens = np.full((1, length), 9, dtype=np.int32)
    found = interpreter.get_signature_runner()(tokens=tokens)["sentence_embedding"]
    whole = Interpreter(model_path=str(graph), num_threads=1).get_signature_runner(f"embed_{length}")
    np.testing.assert_array_equal(found, whole(tokens=tokens)["sentence_embedding"])
    assert graph.read_bytes() == before
    del interpreter


def mappings(graph: Path) -> int:
    """How often this process has mapped a file, or parts of it."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(str(graph))


def test_a_view_is_unmapped_unless_it_is_held(views: Views, graph: Path) -> None:
    before = mappings(graph)
    held = views.open(32)
    kept, with_one = held.data, mappings(graph)
    view = views.open(64)
    assert mappings(graph) > with_one > before
    view.close()
    held.close()
    held.close()
    assert mappings(graph) == with_one
    assert kept[4:8] == b"TFL3"
    del kept
    held.close()
    assert mappings(graph) == before


def test_a_view_of_whole_pages_ends_with_a_zero(graph: Path, tmp_path: Path) -> None:
    """As all bytes do, behind their last one: C code may look there."""
    file = tmp_path / "model.tflite"
    content = graph.read_bytes()
    file.write_bytes(content + bytes(-len(content) % mmap.PAGESIZE))
    views = Views(file)
    view = views.open(32)
    views.close()
    size = len(view.data)
    assert size % mmap.PAGESIZE == 0
    assert ctypes.string_at(id(view.data) + bytes.__basicsize__ - 1 + size - 8, 9) == view.data[-8:] + b"\0"
    view.close()


def test_buckets_are_opened_when_they_are_needed(graph: Path, weights: Path) -> None:
    """And give what the whole file gives."""
    whole, session = LitertSession(graph, 1, PAD), LitertSession(graph, 1, PAD, weights)
    assert isinstance(whole._model, Whole)
    assert (session.buckets, session.signatures) == (whole.buckets, whole.signatures)
    for length, expected in ((5, [32]), (400, [32, 512]), (400, [32, 512]), (40, [32, 64, 512])):
        np.testing.assert_array_equal(run(session, length), run(whole, length))
        assert opened(session) == expected


def test_buckets_that_were_not_used_for_long_go(
    graph: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And come again when they are needed."""
    monkeypatch.setattr(litert_model, "KEPT_TOKENS", 550)
    whole, session = LitertSession(graph, 1, PAD), LitertSession(graph, 1, PAD, weights)
    run(session, 5)
    mapped = set()
    for length, expected in 3 * ((40, [32, 64]), (400, [512]), (5, [32, 512])):
        np.testing.assert_array_equal(run(session, length), run(whole, length))
        assert opened(session) == expected
        mapped.add((length, mappings(graph)))
    assert len(mapped) == 3, "none stays behind"


def test_another_python_takes_the_whole_file(
    graph: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(LitertSession(graph, 1, PAD, weights), 40)
    monkeypatch.setattr(litert_model, "supported", lambda: False)
    session = LitertSession(graph, 1, PAD, weights)
    assert isinstance(session._model, Whole)
    np.testing.assert_array_equal(run(session, 40), expected)


def test_later_buckets_come_from_the_same_files(graph: Path, weights: Path, tmp_path: Path) -> None:
    """Although others have taken their paths meanwhile."""
    copy, packed = tmp_path / "model.tflite", tmp_path / WEIGHTS
    shutil.copyfile(graph, copy)
    shutil.copyfile(weights, packed)
    expected = run(LitertSession(graph, 1, PAD), 400)
    session = LitertSession(copy, 1, PAD, packed)
    for file in (copy, packed):
        file.unlink()
        file.write_bytes(b"another")
    np.testing.assert_array_equal(run(session, 400), expected)
    assert packed.read_bytes() == b"another"


def test_sessions_leave_nothing_open(graph: Path, weights: Path) -> None:
    def open_files() -> int:
        return sum(str(graph.parent) in str(p.resolve()) for p in Path("/proc/self/fd").iterdir())

    gc.collect()
    before = open_files()
    session = LitertSession(graph, 1, PAD, weights)
    run(session, 400)
    assert open_files() > before
    del session
    gc.collect()
    assert open_files() == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b"x" * 100, "begins with"),
        (lambda b: b[:8] + bytes(100), "damaged"),
        (lambda b: b[:200], "damaged"),
        (lambda b: b"\xff\xff\xff\x7f" + b[4:], "damaged"),
    ],
)
def test_what_is_not_a_litert_file(
    graph: Path, weights: Path, tmp_path: Path, damage: Any, words: str
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(damage(graph.read_bytes()))
    with pytest.raises(ValueError, match=words):
        Views(file)
    with pytest.raises(EngineError, match=f"does not load .*{words}"):
        LitertSession(file, 1, PAD, weights)
