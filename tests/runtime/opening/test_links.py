"""Bundles and files as hub caches and shared disks keep them, as links: the same vectors and device cache."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedding_export.onnx.reader import read_stored
from embedding_runtime import Embedder, EmbeddingWarning
from embedding_runtime.machine import device_cache
from embedding_runtime.machine.device_cache import entries_folder
from embedding_runtime.notices import Notices
from embedding_validate.audit.foreign_onnx import open_onnx
from embedding_validate.reference.answers import Answers

pytestmark = pytest.mark.usefixtures("cache")


def moved_to(place: Path, file: Path) -> None:
    """The file goes there, and a relative link stays in its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, place)
    file.symlink_to(os.path.relpath(place, file.parent))


def hub(bundle: Path, root: Path) -> None:
    """A snapshot of links to blobs without a name or a suffix."""
    for i, file in enumerate(sorted(p for p in bundle.rglob("*") if p.is_file())):
        moved_to(root / "blobs" / f"{i:040x}", file)


def two_disks(bundle: Path, root: Path) -> None:
    """Graphs and their data in different folders."""
    for i, file in enumerate(sorted(bundle.glob("onnx/*"))):
        moved_to(root / ("data" if file.name.endswith("_data") else "graphs") / str(i), file)


def data_elsewhere(bundle: Path, root: Path) -> None:
    """Only what is large is a link."""
    for file in bundle.glob("onnx/*_data"):
        moved_to(root / "large" / "deep" / file.name, file)


def graphs_elsewhere(bundle: Path, root: Path) -> None:
    for file in bundle.glob("onnx/*.onnx"):
        moved_to(root / "graphs" / file.name, file)


def folder(bundle: Path, root: Path) -> None:
    moved_to(root / "elsewhere" / "onnx", bundle / "onnx")


def chain(bundle: Path, root: Path) -> None:
    """Links to links."""
    hub(bundle, root)
    for file in sorted((root / "blobs").iterdir()):
        moved_to(root / "store" / file.name, file)


LAYOUTS: list[Callable[[Path, Path], None]] = [
    hub,
    two_disks,
    data_elsewhere,
    graphs_elsewhere,
    folder,
    chain,
]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def linked(request: pytest.FixtureRequest, litert_bundle: Path, tmp_path: Path) -> Path:
    bundle = Path(shutil.copytree(litert_bundle, tmp_path / "snapshots" / "bundle"))
    request.param(bundle, tmp_path / "real")
    return bundle


@pytest.mark.parametrize("graph", ["onnx/fp32", "onnx/int8", "litert/int8"])
@pytest.mark.filterwarnings("error::embedding_runtime.EmbeddingWarning")
def test_the_same_vectors_and_a_device_cache(graph: str, linked: Path, litert_bundle: Path) -> None:
    format, precision = graph.split("/")
    options = {"format": format, "precision": precision, "threads": 1}
    plain = Embedder(litert_bundle, device_cache=False, **options).encode("a text")  # type: ignore[arg-type]
    for _ in range(2):
        with Embedder(linked, device_cache=True, **options) as embedder:  # type: ignore[arg-type]
            np.testing.assert_array_equal(embedder.encode("a text"), plain)
        assert len(list(entries_folder().iterdir())) == 1
    with Embedder(linked, device_cache=False, **options) as embedder:  # type: ignore[arg-type]
        np.testing.assert_array_equal(embedder.encode("a text"), plain)


def test_stored_weights_are_read(linked: Path, litert_bundle: Path) -> None:
    for name in ("model.onnx", "model_int8.onnx"):
        found, wanted = (read_stored(b / "onnx" / name) for b in (linked, litert_bundle))
        assert found.keys() == wanted.keys()


def test_files_for_an_audit(linked: Path, answers: Answers, tmp_path: Path) -> None:
    """Links, a link to a link, and a link to the graph alone, whose data lies beside what it links to."""
    graph = linked / "onnx" / "model.onnx"
    alone = tmp_path / "alone" / "model.onnx"
    alone.parent.mkdir()
    alone.symlink_to(graph)
    assert open_onnx(graph, answers, True).graph.precision == "fp32"
    assert open_onnx(alone, answers, True).graph.precision == "fp32"
    assert open_onnx(graph.with_name("model_int8.onnx"), answers, True).graph.precision == "int8"
    assert read_stored(alone).keys() == read_stored(graph).keys()


def test_what_cannot_be_kept_is_said_once(
    tiny_bundle: Path, cache: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_cache, "_NOTICES", Notices())  # another test may have been told
    cache.write_text("a file where a folder should be")
    with pytest.warns(EmbeddingWarning, match="Packed weights cannot be kept in .* XDG_CACHE_HOME"):
        Embedder(tiny_bundle, device_cache=True, threads=1).close()
    recwarn.clear()
    Embedder(tiny_bundle, device_cache=True, threads=1).close()
    Embedder(tiny_bundle, device_cache=False, threads=1).close()
    assert not [w for w in recwarn if issubclass(w.category, EmbeddingWarning)]
