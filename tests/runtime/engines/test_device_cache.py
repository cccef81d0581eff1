"""Prepared files never give a wrong vector: each fault shown without the guard, and mended with it."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import WITHOUT_POWERS, assumed, read_only

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_runtime.engines.onnx_prepacked import DATA, MODEL, TABLES, build, open_prepacked
from embedding_runtime.errors import BundleError, EngineError
from embedding_runtime.machine.device_cache import (
    KEPT_SECONDS,
    SEAL,
    CacheKey,
    entries_folder,
    open_prepared,
    require_room,
)
from embedding_runtime.vectors import Floats

pytestmark = pytest.mark.usefixtures("cache")
TEXT = "Which planet is known as the Red Planet?"
KEY = CacheKey("graph", "engine", "1", "cpu", "layout")


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> Floats:
    """The vector of `TEXT` without a device cache."""
    return vector(tiny_bundle, device_cache=False)


@pytest.fixture(scope="module")
def int8_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(("int8",)), assumed)
    return folder


def vector(bundle: Path, device_cache: bool | None = True) -> Floats:
    with Embedder.load(bundle, precision="fp32", threads=1, device_cache=device_cache) as embedder:
        found: Floats = embedder.encode(TEXT)
    return found


def entry() -> Path:
    (found,) = entries_folder().iterdir()
    return found


def unguarded(folder: Path, bundle: Path) -> Floats:
    """The first golden input's vector, by what lies in `folder` as it is."""
    graph = load_manifest(bundle).graphs[0]
    session = open_prepacked(folder, bundle / graph.file, 1)
    ids = np.array([golden(bundle)[0]], dtype=np.int64)
    found: Floats = session.run(ids, np.ones_like(ids), ("sentence_embedding",))[0][0]
    return found


def golden(bundle: Path) -> tuple[tuple[int, ...], Floats]:
    found = max(load_manifest(bundle).graphs[0].golden, key=lambda g: len(g.ids))
    return found.ids, found.vector


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def norm(folder: Path) -> tuple[int, int]:
    """(offset, length) in the data file of the last external tensor with one dimension: a norm's weights."""
    model = onnx.load(str(folder / MODEL), load_external_data=False)
    places = [
        {e.key: e.value for e in t.external_data}
        for t in model.graph.initializer
        if t.external_data and not any(e.key.startswith("prepacked") for e in t.external_data)
    ]
    return int(places[-1]["offset"]), int(places[-1]["length"])


def test_the_same_vector_from_the_cache(tiny_bundle: Path, plain: Floats) -> None:
    built, reopened = vector(tiny_bundle), vector(tiny_bundle)
    np.testing.assert_array_equal(built, plain)
    np.testing.assert_array_equal(reopened, plain)
    assert {p.name for p in entry().iterdir()} == {SEAL, MODEL, DATA, TABLES}


def test_a_sound_entry_is_kept(tiny_bundle: Path) -> None:
    vector(tiny_bundle)
    before = (entry() / DATA).stat()
    vector(tiny_bundle)
    assert (entry() / DATA).stat().st_ino == before.st_ino


def test_a_copied_bundle_shares_the_entry(tiny_bundle: Path, plain: Floats, tmp_path: Path) -> None:
    vector(tiny_bundle)
    before = (entry() / DATA).stat()
    np.testing.assert_array_equal(vector(Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))), plain)
    assert (entry() / DATA).stat().st_ino == before.st_ino


def test_fp32_does_without_unless_asked(tiny_bundle: Path) -> None:
    vector(tiny_bundle, device_cache=None)
    vector(tiny_bundle, device_cache=False)
    assert not entries_folder().exists()


def test_int8_is_prepared_unless_told_otherwise(int8_bundle: Path) -> None:
    with Embedder.load(int8_bundle, threads=1, device_cache=False) as embedder:
        expected = embedder.encode(TEXT)
    assert not entries_folder().exists()
    for threads in (1, 1, 2):
        with Embedder.load(int8_bundle, threads=threads) as embedder:
            np.testing.assert_array_equal(embedder.encode(TEXT), expected)
    assert {p.name for p in entry().iterdir()} == {SEAL, MODEL, DATA, TABLES}


def test_a_graph_under_study_is_not_prepared(int8_bundle: Path) -> None:
    """Nothing vouches for what a graph gives whose checks are put aside."""
    with Embedder.load(int8_bundle, threads=1, allow_failed=True) as embedder:
        embedder.encode(TEXT)
    assert not entries_folder().exists()


def test_a_damaged_weight(tiny_bundle: Path, plain: Floats) -> None:
    """The engine reads damaged weights without a word."""
    vector(tiny_bundle)
    data = entry() / DATA
    offset, length = norm(entry())
    content = bytearray(data.read_bytes())
    weights = np.frombuffer(content, dtype="<f4", count=length // 4, offset=offset)
    weights[: length // 8] *= -1
    data.write_bytes(content)
    assert cosine(unguarded(entry(), tiny_bundle), golden(tiny_bundle)[1]) < 0.995
    np.testing.assert_array_equal(vector(tiny_bundle), plain)
    assert cosine(unguarded(entry(), tiny_bundle), golden(tiny_bundle)[1]) > 0.99999


@pytest.mark.parametrize("name", [DATA, MODEL, TABLES, SEAL])
def test_one_flipped_bit_anywhere(tiny_bundle: Path, plain: Floats, name: str) -> None:
    """A golden vector need not show it (a row of a table, say); the checksum does."""
    vector(tiny_bundle)
    sound = (entry() / name).read_bytes()
    for place in np.linspace(0, len(sound) - 1, 5).astype(int):
        content = bytearray(sound)
        content[place] ^= 1 << 3
        (entry() / name).write_bytes(content)
        np.testing.assert_array_equal(vector(tiny_bundle), plain)
    assert (entry() / name).read_bytes() == sound


def test_a_bit_that_a_golden_vector_misses(tiny_bundle: Path) -> None:
    """Why the checksum is needed: this bit changes no golden vector, so only the checksum can see it."""
    vector(tiny_bundle)
    offset, _ = norm(entry())
    content = bytearray((entry() / DATA).read_bytes())
    content[offset] ^= 1
    (entry() / DATA).write_bytes(content)
    assert np.abs(unguarded(entry(), tiny_bundle) - golden(tiny_bundle)[1]).max() < 1e-4
    damaged = zlib.crc32(content)
    vector(tiny_bundle)
    assert zlib.crc32((entry() / DATA).read_bytes()) != damaged


@pytest.mark.parametrize("then", ["short", "zeros"])
def test_a_truncated_file(tiny_bundle: Path, plain: Floats, then: str) -> None:
    """Cut short, the engine refuses it; grown again (as after a power cut), it reads zeros."""
    vector(tiny_bundle)
    data = entry() / DATA
    size = data.stat().st_size
    os.truncate(data, size // 3)
    if then == "zeros":
        os.truncate(data, size)
    try:
        difference = np.abs(unguarded(entry(), tiny_bundle) - golden(tiny_bundle)[1]).max()
        assert not difference < 0.01
    except EngineError:
        assert then == "short"
    np.testing.assert_array_equal(vector(tiny_bundle), plain)


def test_the_entry_of_another_graph(tiny_bundle: Path, other_bundle: Path, plain: Floats) -> None:
    """Sound files, of the same size, in the wrong place."""
    vector(tiny_bundle)
    mine = entry()
    vector(other_bundle)
    (theirs,) = set(entries_folder().iterdir()) - {mine}
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    assert cosine(unguarded(mine, tiny_bundle), golden(tiny_bundle)[1]) < 0.9
    np.testing.assert_array_equal(vector(tiny_bundle), plain)


def test_another_graph_under_a_forged_seal(tiny_bundle: Path, other_bundle: Path, plain: Floats) -> None:
    """Checksums and key agree; only the golden vector can tell."""
    vector(tiny_bundle)
    mine = entry()
    seal = json.loads((mine / SEAL).read_text())
    build(other_bundle / load_manifest(other_bundle).graphs[0].file, emptied(mine))
    files = {p.name: [p.stat().st_size, zlib.crc32(p.read_bytes())] for p in mine.iterdir()}
    (mine / SEAL).write_text(json.dumps(seal | {"files": files}))
    assert cosine(unguarded(mine, tiny_bundle), golden(tiny_bundle)[1]) < 0.9
    np.testing.assert_array_equal(vector(tiny_bundle), plain)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("field", ["graph", "engine", "version", "cpu", "layout"])
def test_a_foreign_entry_is_built_anew(tiny_bundle: Path, plain: Floats, field: str) -> None:
    vector(tiny_bundle)
    seal = json.loads((entry() / SEAL).read_text())
    seal["key"][field] = "another"
    (entry() / SEAL).write_text(json.dumps(seal))
    np.testing.assert_array_equal(vector(tiny_bundle), plain)
    assert json.loads((entry() / SEAL).read_text())["key"][field] != "another"


def test_a_file_too_many(tiny_bundle: Path, plain: Floats) -> None:
    vector(tiny_bundle)
    (entry() / "stray").write_text("?")
    np.testing.assert_array_equal(vector(tiny_bundle), plain)
    assert not (entry() / "stray").exists()


def test_no_folder_to_write_to(tiny_bundle: Path, plain: Floats, cache: Path) -> None:
    cache.write_text("a file where the cache should be")
    np.testing.assert_array_equal(vector(tiny_bundle), plain)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and Linux's capabilities")
@pytest.mark.parametrize("state", ["empty", "sound", "damaged"])
def test_a_cache_that_can_only_be_read(tiny_bundle: Path, plain: Floats, cache: Path, state: str) -> None:
    """A sound entry serves; a damaged one is left alone, and not used."""
    if state != "empty":
        vector(tiny_bundle)
    if state == "damaged":
        content = bytearray((entry() / DATA).read_bytes())
        content[len(content) // 2] ^= 1
        (entry() / DATA).write_bytes(content)
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    used = f"assert ({DATA!r} in open('/proc/self/maps').read()) is {state == 'sound'}"
    with read_only(cache):
        found = in_process(f"{WITHOUT_POWERS}\nimport sys; {RUN}\n{used}", tiny_bundle)()
    np.testing.assert_array_equal(found, plain)
    assert {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()} == before


def test_a_full_disk(tiny_bundle: Path, plain: Floats) -> None:
    """The system refuses to let files grow past 1 MB: the vector is right, and nothing stays behind."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"{RUN}"
    )
    np.testing.assert_array_equal(in_process(code, tiny_bundle)(), plain)
    assert list(entries_folder().iterdir()) == []


def test_room_is_asked_for_first(tmp_path: Path) -> None:
    require_room(tmp_path, 0)
    with pytest.raises(OSError, match="bytes needed"):
        require_room(tmp_path, 1 << 60)


RUN = (
    "import numpy as np; from embedding_runtime import Embedder\n"
    "e = Embedder.load(sys.argv[1], precision='fp32', threads=1, device_cache=True)\n"
    f"np.save(sys.stdout.buffer, e.encode({TEXT!r}))"
)


def in_process(code: str, bundle: Path) -> Callable[[], Floats]:
    """Start a process; the result waits for the vector it writes."""
    running = subprocess.Popen([sys.executable, "-c", code, str(bundle)], stdout=subprocess.PIPE)

    def wait() -> Floats:
        assert running.stdout
        found: Floats = np.load(io.BytesIO(running.stdout.read()))
        assert running.wait() == 0
        return found

    return wait


def test_processes_that_build_at_once(tiny_bundle: Path, plain: Floats) -> None:
    waiting = [in_process(f"import sys; {RUN}", tiny_bundle) for _ in range(4)]
    for wait in waiting:
        np.testing.assert_array_equal(wait(), plain)
    assert {p.name for p in entry().iterdir()} == {SEAL, MODEL, DATA, TABLES}


def test_an_entry_in_use_is_replaced(tiny_bundle: Path, plain: Floats) -> None:
    """A process keeps what it has mapped while another throws the entry away."""
    with Embedder.load(tiny_bundle, precision="fp32", threads=1, device_cache=True) as embedder:
        (entry() / SEAL).write_text("{}")
        np.testing.assert_array_equal(vector(tiny_bundle), plain)
        np.testing.assert_array_equal(embedder.encode(TEXT), plain)


def test_leavings_and_unused_entries_go(tiny_bundle: Path) -> None:
    for name, age in ((".building-x", 2 * KEPT_SECONDS), ("unused", 2 * KEPT_SECONDS), ("recent", 60.0)):
        folder = entries_folder() / name
        folder.mkdir(parents=True)
        (folder / SEAL).write_text("{}")
        os.utime(folder / SEAL, (time.time() - age, time.time() - age))
    vector(tiny_bundle)
    assert {p.name for p in entries_folder().iterdir()} >= {"recent"}
    assert not {".building-x", "unused"} & {p.name for p in entries_folder().iterdir()}


def write(folder: Path) -> None:
    (folder / "file").write_bytes(b"prepared")


def read(folder: Path) -> bytes:
    return (folder / "file").read_bytes()


def test_the_guard_knows_no_engine() -> None:
    assert open_prepared(KEY, write, read, len) == b"prepared"


def test_what_never_passes_its_check_is_not_used() -> None:
    def refuse(_: bytes) -> None:
        raise BundleError("off")

    assert open_prepared(KEY, write, read, refuse) is None
    assert list(entries_folder().iterdir()) == []


def test_an_entry_swapped_while_it_is_opened() -> None:
    """By a process that was building too, and came in second: its entry is as good."""
    openings = 0

    def swapped(folder: Path) -> bytes:
        nonlocal openings
        openings += 1
        if openings == 1:
            raise FileNotFoundError(folder)
        return read(folder)

    assert open_prepared(KEY, write, swapped, len) == b"prepared"
    assert [p.name for p in entries_folder().iterdir()] == [KEY.name]


@pytest.mark.parametrize("error", [OSError("full"), EngineError("does not load")])
def test_what_cannot_be_built_is_done_without(error: Exception) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise error

    assert open_prepared(KEY, fail, read, len) is None
    assert list(entries_folder().iterdir()) == []
