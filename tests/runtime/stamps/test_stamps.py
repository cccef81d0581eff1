"""Stamps: every file of vectors says what it holds, and a bundle of another space is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service import serving

from embedding_runtime import (
    Embedder,
    InputError,
    InputTypeError,
    Stamp,
    check_space,
    make_stamp,
    quantization_ranges,
    read_stamp,
    write_stamp,
)
from embedding_runtime.embed_text.cli import main
from embedding_runtime.stamps.files import PARQUET_KEY, stamp_path

TEXTS = "the red planet\na deep ocean\n"
SUFFIXES = ["npy", "jsonl", "parquet"]


@pytest.fixture(scope="module")
def opened(served_bundle: Path) -> Iterator[Embedder]:
    with Embedder(served_bundle, precision="fp32", threads=1, truncate_dim=32) as embedder:
        yield embedder


def written(bundle: Path, folder: Path, suffix: str, *options: str) -> Path:
    """A file of vectors as embed-text makes it."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (folder / "in.txt").write_text(TEXTS)
    out = folder / f"out.{suffix}"
    command = [str(bundle), str(folder / "in.txt"), "-o", str(out), "--precision", "fp32", "--threads", "1"]
    assert main([*command, *options]) == 0
    return out


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_file_says_what_it_holds(
    suffix: str, served_bundle: Path, opened: Embedder, tmp_path: Path
) -> None:
    out = written(served_bundle, tmp_path, suffix, "--task", "document", "--dim", "32")
    stamp = read_stamp(out)
    assert stamp == make_stamp(opened)
    assert (stamp.dim, stamp.vector_precision, stamp.graphs) == (32, "float32", ("onnx/fp32",))
    assert (stamp.prompt, stamp.side, stamp.normalized) == ("title: none | text: ", "document", True)
    assert stamp.space_id == opened.manifest.space_id
    assert check_space(out, opened) == check_space(str(out), served_bundle) == stamp
    assert check_space(json.loads(stamp.to_json()), opened) == check_space(stamp, opened) == stamp


def test_readers_meet_nothing_new(served_bundle: Path, tmp_path: Path) -> None:
    """The rows of a file are as they were before there were stamps, but for a key in Parquet's metadata."""
    arrow: Any = pytest.importorskip("pyarrow.parquet")
    array = np.load(written(served_bundle, tmp_path, "npy"))
    rows = [json.loads(r) for r in written(served_bundle, tmp_path, "jsonl").read_text().splitlines()]
    table = arrow.read_table(written(served_bundle, tmp_path, "parquet"))
    assert array.shape == (2, 64)
    assert [list(row) for row in rows] == [["index", "embedding"]] * 2
    assert table.column_names == ["index", "embedding", "error"]
    assert set(table.schema.metadata) == {PARQUET_KEY.encode()}
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), array)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_vectors(precision: str, served_bundle: Path, opened: Embedder, tmp_path: Path) -> None:
    ranges = quantization_ranges(opened.encode_document(["one", "two", "three"], dim=64))
    np.save(tmp_path / "ranges.npy", ranges)
    given = ["--ranges", str(tmp_path / "ranges.npy")] if "int" in precision else []
    out = written(served_bundle, tmp_path, "npy", "--vector-precision", precision, *given)
    stamp = check_space(out, served_bundle)
    assert (stamp.vector_precision, stamp.dim, stamp.side) == (precision, 64, None)
    assert (stamp.ranges_sha256 is None) == (precision.endswith("binary"))
    with opened.truncate_embeddings(None):
        used = ranges if given else None
        assert make_stamp(opened, None, precision=precision, ranges=used) == stamp
        if given:
            assert make_stamp(opened, None, precision=precision, ranges=ranges + 1) != stamp
            with pytest.raises(InputError, match="pass ranges"):
                make_stamp(opened, None, precision=precision)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_space_is_refused(
    suffix: str, served_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    out = written(served_bundle, tmp_path, suffix)
    for path in (out, str(out)):
        with pytest.raises(InputError, match=r"space .* Scores between them mean nothing: open a bundle"):
            check_space(path, other_bundle)
    with (
        Embedder(other_bundle, threads=1) as embedder,
        pytest.raises(InputError, match="Scores between"),
    ):
        check_space(read_stamp(out), embedder)


def test_another_dim_is_refused(served_bundle: Path, opened: Embedder, tmp_path: Path) -> None:
    out = written(served_bundle, tmp_path, "npy", "--dim", "16")
    with pytest.raises(InputError, match=r"of 16 components.* gives 32\. Open .* truncate_dim=16"):
        check_space(out, opened)
    assert check_space(out, served_bundle).dim == 16


def test_files_without_a_stamp(served_bundle: Path, opened: Embedder, tmp_path: Path) -> None:
    arrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    np.save(tmp_path / "bare.npy", np.zeros((2, 64), dtype=np.float32))
    parquet.write_table(arrow.table({"embedding": [[1.0]]}), tmp_path / "bare.parquet")
    for name in ("bare.npy", "bare.parquet"):
        with pytest.raises(InputError, match=r"bare\.\w+ has no stamp"):
            check_space(tmp_path / name, served_bundle)
    with pytest.raises(InputError, match="No such file"):
        check_space(tmp_path / "none.npy", served_bundle)
    with opened.truncate_embeddings(None):
        write_stamp(tmp_path / "bare.npy", make_stamp(opened))
    assert check_space(tmp_path / "bare.npy", served_bundle).dim == 64
    with pytest.raises(InputError, match="metadata"):
        write_stamp(tmp_path / "bare.parquet", make_stamp(opened))


def test_a_file_written_over_by_another_program(served_bundle: Path, tmp_path: Path) -> None:
    out = written(served_bundle, tmp_path, "npy")
    np.save(out, np.zeros((2, 32), dtype=np.float32))
    with pytest.raises(InputError, match=r"shape \(2, 32\); its stamp .* \(N, 64\)"):
        check_space(out, served_bundle)
    shutil.copy(stamp_path(out), tmp_path / "text.npy.stamp.json")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match=r"not a readable \.npy file"):
        check_space(tmp_path / "text.npy", served_bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stamp_version": 2}, "version 2.*Upgrade"),
        ({"stamp_version": None}, "version None"),
        ({"dim": "64"}, "'dim' is 64"),
        ({"dim": True}, "'dim' is True"),
        ({"side": "left"}, "'side' is left"),
        ({"graphs": "onnx/fp32"}, "'graphs'"),
        ({"new": 1}, "'new' is 1"),
        ({"dim": 65}, "this space has 64"),
    ],
)
def test_damaged_stamps(change: dict[str, Any], said: str, served_bundle: Path, opened: Embedder) -> None:
    sound = json.loads(make_stamp(opened).to_json())
    with pytest.raises(InputError, match=said):
        check_space({**sound, **change}, served_bundle)
    del sound["space_id"]
    with pytest.raises(InputError, match="'space_id' is missing"):
        check_space(sound, served_bundle)


def test_what_is_no_index(served_bundle: Path, tmp_path: Path) -> None:
    wrong: Any = 3
    with pytest.raises(InputTypeError, match="is a int"):
        check_space(wrong, served_bundle)
    out = tmp_path / "x.usearch"
    out.write_bytes(b"index")
    for text in ("{", "[]", "[" * 100_000):
        stamp_path(out).write_text(text)
        with pytest.raises(InputError, match="holds no stamp"):
            check_space(out, served_bundle)


def test_the_service_says_it_too(served_bundle: Path, opened: Embedder) -> None:
    with serving(served_bundle, "--precision", "fp32") as service:
        found = service.post(input="red", dimensions=32, task="document", title="Mars")
        stamp = check_space(json.loads(found.headers["Embedding-Stamp"]), opened)
        assert stamp == make_stamp(opened)
        plain = service.post(input="red").headers["Embedding-Stamp"]
        assert (json.loads(plain)["dim"], json.loads(plain)["prompt"]) == (64, "")
        ids = opened.tokenize("red")["input_ids"][0].tolist()
        by_ids = Stamp.from_mapping(json.loads(service.post(input=ids).headers["Embedding-Stamp"]), "it")
        assert by_ids.prompt is None
        assert "Embedding-Stamp" not in service.post(input=[]).headers
