"""XNNPACK's packed weights in the device's cache never give a wrong vector.

Each fault is shown without the guard, where XNNPACK reads the file as it is, and mended with it.
"""

import io
import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import standin
from conftest import WITHOUT_POWERS, assumed, read_only

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.engines.litert_packed import WEIGHTS, build, open_packed
from embedding_runtime.engines.litert_session import LitertSession
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.device_cache import SEAL, entries_folder
from embedding_runtime.vectors import Floats

pytestmark = pytest.mark.usefixtures("cache")
TEXT = "Which planet is known as the Red Planet?"
IDS = np.array([[2, *range(40, 80), 1]])
GRAPH = Path("litert") / "model_int8.tflite"


@pytest.fixture(scope="module")
def plain(litert_bundle: Path) -> Floats:
    """The vector of `TEXT` without a device cache."""
    return vector(litert_bundle, device_cache=False)


@pytest.fixture(scope="module")
def right(litert_bundle: Path) -> Floats:
    """The vector of `IDS` with packed weights in memory."""
    return run(LitertSession(litert_bundle / GRAPH, 1, 0))


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    folder = tmp_path_factory.mktemp("other")
    standin.write(folder / "checkpoint", standin.Options(seed=7))
    options = ExportOptions(("int8",), formats=("litert",), buckets=(32, 64, 512))
    export_bundle(load_checkpoint(folder / "checkpoint"), folder / "bundle", options, assumed)
    return folder / "bundle"


def vector(bundle: Path, device_cache: bool | None = None) -> Floats:
    options = {"format": "litert", "precision": "int8", "threads": 1}
    with Embedder.load(bundle, **options, device_cache=device_cache) as embedder:  # type: ignore[arg-type]
        found: Floats = embedder.encode(TEXT)
    return found


def run(session: LitertSession) -> Floats:
    found: Floats = session.run(IDS, np.ones_like(IDS), ("sentence_embedding",))[0][0]
    return found


def unguarded(bundle: Path, weights: Path, at: Path) -> Floats:
    """The vector of `IDS` by a copy of a file of packed weights, as it is."""
    shutil.copyfile(weights, at)
    found = run(LitertSession(bundle / GRAPH, 1, 0, at))
    assert at.read_bytes() == weights.read_bytes(), "taken as it is"
    return found


def entry() -> Path:
    (found,) = entries_folder().iterdir()
    return found


def damage(file: Path, change: Callable[[bytearray], object]) -> None:
    """Change a file that is read-only."""
    content = bytearray(file.read_bytes())
    change(content)
    file.unlink()
    file.write_bytes(content)


def flip(at: int) -> Callable[[bytearray], object]:
    """A change of one bit."""

    def change(content: bytearray) -> None:
        content[at] ^= 0x10

    return change


def halve(content: bytearray) -> None:
    """Cut the end off."""
    del content[len(content) // 2 :]


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_same_vector_from_the_cache(litert_bundle: Path, plain: Floats) -> None:
    built, reopened = vector(litert_bundle), vector(litert_bundle)
    np.testing.assert_array_equal(built, plain)
    np.testing.assert_array_equal(reopened, plain)
    assert {p.name for p in entry().iterdir()} == {SEAL, WEIGHTS}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_precision_is_prepared_unless_told_otherwise(litert_bundle: Path, precision: str) -> None:
    options = {"format": "litert", "precision": precision, "threads": 1}
    with Embedder.load(litert_bundle, **options, device_cache=False):  # type: ignore[arg-type]
        assert not entries_folder().exists()
    with Embedder.load(litert_bundle, **options):  # type: ignore[arg-type]
        assert {p.name for p in entry().iterdir()} == {SEAL, WEIGHTS}


def test_no_opening_changes_the_file(litert_bundle: Path) -> None:
    """Nor does a run in any bucket: all of them are packed when the file is made."""
    vector(litert_bundle)
    before = (entry() / WEIGHTS).stat()
    for threads in (1, 2):
        session = open_packed(entry(), litert_bundle / GRAPH, threads, 0)
        for length in (3, 40, 500):
            ids = np.arange(5, 5 + length)[None] % 200 + 5
            session.run(ids, np.ones_like(ids), ("sentence_embedding",))
    vector(litert_bundle)
    after = (entry() / WEIGHTS).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_stale_file(
    litert_bundle: Path, other_bundle: Path, plain: Floats, right: Floats, tmp_path: Path
) -> None:
    """The weights of an earlier checkpoint: same sizes, and XNNPACK takes them without a word."""
    build(other_bundle / GRAPH, tmp_path, 0)
    assert cosine(unguarded(litert_bundle, tmp_path / WEIGHTS, tmp_path / "copy"), right) < 0.5
    vector(litert_bundle)
    (tmp_path / WEIGHTS).replace(entry() / WEIGHTS)
    np.testing.assert_array_equal(vector(litert_bundle), plain)


def test_a_stale_file_under_a_forged_seal(
    litert_bundle: Path, other_bundle: Path, plain: Floats, right: Floats, tmp_path: Path
) -> None:
    """Checksum and key agree; only the golden vector can tell."""
    vector(litert_bundle)
    build(other_bundle / GRAPH, tmp_path, 0)
    (tmp_path / WEIGHTS).replace(entry() / WEIGHTS)
    content = (entry() / WEIGHTS).read_bytes()
    seal = json.loads((entry() / SEAL).read_text())
    seal["files"] = {WEIGHTS: [len(content), zlib.crc32(content)]}
    (entry() / SEAL).write_text(json.dumps(seal))
    assert cosine(run(open_packed(entry(), litert_bundle / GRAPH, 1, 0)), right) < 0.5
    np.testing.assert_array_equal(vector(litert_bundle), plain)


@pytest.mark.parametrize("field", ["graph", "engine", "version", "cpu", "layout"])
def test_a_foreign_file_is_made_anew(litert_bundle: Path, plain: Floats, field: str) -> None:
    """Of another engine, version or CPU, whose packing may differ."""
    vector(litert_bundle)
    seal = json.loads((entry() / SEAL).read_text())
    seal["key"][field] = "another"
    (entry() / SEAL).write_text(json.dumps(seal))
    np.testing.assert_array_equal(vector(litert_bundle), plain)
    assert json.loads((entry() / SEAL).read_text())["key"][field] != "another"


def test_a_file_with_a_hole(litert_bundle: Path, plain: Floats, right: Floats, tmp_path: Path) -> None:
    """Cut short and grown again, as after a power cut, its end in place: XNNPACK sees nothing wrong."""

    def hollow(content: bytearray) -> None:
        third = len(content) // 3
        content[third : 2 * third] = bytes(third)

    vector(litert_bundle)
    damage(entry() / WEIGHTS, hollow)
    assert cosine(unguarded(litert_bundle, entry() / WEIGHTS, tmp_path / "copy"), right) < 0.9
    np.testing.assert_array_equal(vector(litert_bundle), plain)


def test_a_truncated_file(litert_bundle: Path, plain: Floats) -> None:
    """XNNPACK would write it anew in place, under others that have it mapped; the guard does not ask it."""
    vector(litert_bundle)
    damage(entry() / WEIGHTS, halve)
    with pytest.raises(EngineError, match="rewrote"):
        open_packed(entry(), litert_bundle / GRAPH, 1, 0)
    damage(entry() / WEIGHTS, halve)
    np.testing.assert_array_equal(vector(litert_bundle), plain)


def test_one_flipped_bit_anywhere(litert_bundle: Path, plain: Floats, right: Floats, tmp_path: Path) -> None:
    vector(litert_bundle)
    sound, wrong = (entry() / WEIGHTS).read_bytes(), 0
    for place in np.linspace(64, len(sound) - 400, 12).astype(int):
        damage(entry() / WEIGHTS, flip(place))
        wrong += not np.array_equal(unguarded(litert_bundle, entry() / WEIGHTS, tmp_path / "copy"), right)
        np.testing.assert_array_equal(vector(litert_bundle), plain)
        assert (entry() / WEIGHTS).read_bytes() == sound
    assert wrong > 3


def test_a_bit_that_a_golden_vector_misses(litert_bundle: Path, plain: Floats) -> None:
    """Why the checksum is needed: with it put aside, the golden vector lets this bit pass."""
    vector(litert_bundle)
    seal, passed = json.loads((entry() / SEAL).read_text()), 0
    for at in np.linspace(64, (entry() / WEIGHTS).stat().st_size - 400, 12).astype(int):
        damage(entry() / WEIGHTS, flip(at))
        content = (entry() / WEIGHTS).read_bytes()
        sums = {"files": {WEIGHTS: [len(content), zlib.crc32(content)]}}
        (entry() / SEAL).write_text(json.dumps(seal | sums))
        passed += not np.array_equal(vector(litert_bundle), plain)
        for kept in entries_folder().iterdir():  # none where the golden vector has seen it, as some CPUs do
            (kept / SEAL).write_text(json.dumps(seal))
        np.testing.assert_array_equal(vector(litert_bundle), plain)
    assert passed, "each of these bits was seen, or changed nothing"


def test_the_file_is_read_only(litert_bundle: Path) -> None:
    vector(litert_bundle)
    assert (entry() / WEIGHTS).stat().st_mode & 0o222 == 0


def test_no_folder_to_write_to(litert_bundle: Path, plain: Floats, cache: Path) -> None:
    cache.write_text("a file where the cache should be")
    np.testing.assert_array_equal(vector(litert_bundle), plain)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and Linux's capabilities")
@pytest.mark.parametrize("state", ["empty", "sound", "damaged"])
def test_a_cache_that_can_only_be_read(litert_bundle: Path, plain: Floats, cache: Path, state: str) -> None:
    """A sound file serves; a damaged one is left alone, and not used."""
    if state != "empty":
        vector(litert_bundle)
    if state == "damaged":
        damage(entry() / WEIGHTS, flip((entry() / WEIGHTS).stat().st_size // 2))
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    used = f"assert ({WEIGHTS!r} in open('/proc/self/maps').read()) is {state == 'sound'}"
    with read_only(cache):
        found = in_process(litert_bundle, WITHOUT_POWERS, used)()
    np.testing.assert_array_equal(found, plain)
    assert {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()} == before


RUN = (
    "import sys, numpy as np; from embedding_runtime import Embedder\n"
    "e = Embedder.load(sys.argv[1], format='litert', precision='int8', threads=1)\n"
    f"np.save(sys.stdout.buffer, e.encode({TEXT!r}))"
)


def in_process(bundle: Path, before: str = "", after: str = "") -> Callable[[], Floats]:
    """Start a process; the result waits for the vector it writes."""
    code = [sys.executable, "-c", f"{before}\n{RUN}\n{after}", str(bundle)]
    running = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait() -> Floats:
        out, err = running.communicate()
        assert running.returncode == 0 and err.count(b"Warning") <= 1, err
        assert err == b"" or b"Packed weights cannot be kept" in err
        found: Floats = np.load(io.BytesIO(out))
        return found

    return wait


def test_processes_that_build_at_once(litert_bundle: Path, plain: Floats) -> None:
    for wait in [in_process(litert_bundle) for _ in range(4)]:
        np.testing.assert_array_equal(wait(), plain)
    assert {p.name for p in entry().iterdir()} == {SEAL, WEIGHTS}


def test_an_entry_in_use_is_replaced(litert_bundle: Path, plain: Floats) -> None:
    """A process keeps what it has mapped while another throws the entry away."""
    options = {"format": "litert", "precision": "int8", "threads": 1}
    with Embedder.load(litert_bundle, **options) as embedder:  # type: ignore[arg-type]
        (entry() / SEAL).write_text("{}")
        np.testing.assert_array_equal(vector(litert_bundle), plain)
        np.testing.assert_array_equal(embedder.encode(TEXT), plain)


def test_a_full_disk(litert_bundle: Path, tmp_path: Path) -> None:
    """XNNPACK ends the process there; so it packs into memory first, and the copy may fail in peace."""
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    (tmp_path / WEIGHTS).symlink_to("/dev/full")
    code = (
        "import sys; from pathlib import Path\n"
        "from embedding_runtime.engines.litert_session import LitertSession\n"
        "LitertSession(Path(sys.argv[1]), 1, 0, Path(sys.argv[2]))"
    )
    alone = [sys.executable, "-c", code, str(litert_bundle / GRAPH), str(tmp_path / WEIGHTS)]
    assert subprocess.run(alone, capture_output=True).returncode < 0
    with pytest.raises(OSError, match="No space left"):
        build(litert_bundle / GRAPH, tmp_path, 0)


def test_a_disk_that_fills_up_is_done_without(litert_bundle: Path, plain: Floats) -> None:
    """The system refuses to let the copy grow past 1 KB: the vector is right, and nothing stays behind."""
    full = """
import resource, shutil
copy, most = shutil.copyfile, resource.RLIM_INFINITY
def on_a_full_disk(source, target):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        return copy(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
shutil.copyfile = on_a_full_disk
"""
    np.testing.assert_array_equal(in_process(litert_bundle, full)(), plain)
    assert list(entries_folder().iterdir()) == []
