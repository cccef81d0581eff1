"""Parquet as other programs leave it, and names of files that are hard to open: no traceback, no row lost."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import InputError, read_stamp
from embedding_runtime.embed_text.cli import main

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")
Captured = pytest.CaptureFixture[str]


def undecodable() -> Any:
    """A column of strings of which the second is not UTF-8, as programs in C and Java write it."""
    ends = np.array([0, 2, 4, 6], dtype=np.int32).tobytes()
    return arrow.Array.from_buffers(
        arrow.string(), 3, [None, arrow.py_buffer(ends), arrow.py_buffer(b"ab\xff\xfecd")]
    )


def write(path: Path, **columns: Any) -> Path:
    with path.open("wb") as file:
        parquet.write_table(arrow.table(columns), file)
    return path


def embedded(bundle: Path, path: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    assert main([str(bundle), str(path), "--output", str(out), *options]) == 0
    if out.suffix == ".jsonl":
        return [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return rows


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_bytes_that_are_not_utf8_are_a_bad_row(
    suffix: str, tiny_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    path = write(tmp_path / "in.parquet", text=undecodable(), id=["x", "y", "z"])
    assert main([str(tiny_bundle), str(path), "--output", str(tmp_path / "stopped.npy")]) == 2
    assert "line 2 is not valid UTF-8" in capfd.readouterr().err
    assert len(np.load(tmp_path / "stopped.npy")) == 1
    rows = embedded(tiny_bundle, path, tmp_path / f"out.{suffix}", "--on-error=null", "--id-field=id")
    assert [r["embedding"] is None for r in rows] == [False, True, False]
    assert [r["id"] for r in rows] == ["x", None, "z"]
    path = write(tmp_path / "ids.parquet", text=["x", "y", "z"], id=undecodable())
    rows = embedded(tiny_bundle, path, tmp_path / f"out.{suffix}", "--on-error=null", "--id-field=id")
    assert [r.get("error") for r in rows] == [None, "is not valid UTF-8", None]


IDS = {
    "dates in a list": ([[datetime.date(2026, 1, 2)], []], ['["2026-01-02"]', "[]"]),
    "decimals in a struct": ([{"k": decimal.Decimal("1.5")}, None], ['{"k": "1.5"}', None]),
    "numbers with a gap": ([1.5, float("nan")], ["1.5", None]),
    "a day too far": (arrow.array([1, 10_000_000], arrow.date32()), ["1970-01-02", None]),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_that_json_has_not(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    given, wanted = IDS[name]
    path = write(tmp_path / "in.parquet", text=["a", "b"], id=given)
    options = ("--id-field=id", "--on-error=null")
    assert [r["id"] for r in embedded(tiny_bundle, path, tmp_path / "o.parquet", *options)] == wanted
    found = [r["id"] for r in embedded(tiny_bundle, path, tmp_path / "o.jsonl", *options)]
    assert [json.dumps(i) if isinstance(i, list | dict | float) else i for i in found] == wanted


def test_an_id_with_a_lone_surrogate(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "\\ud800", "text": "a"}\n{"id": {"k": "\\udfff"}, "text": "b"}\n')
    rows = embedded(tiny_bundle, path, tmp_path / "out.parquet", "--id-field=id")
    assert [r["id"] for r in rows] == ["\\ud800", '{"k": "\\udfff"}']
    rows = embedded(tiny_bundle, path, tmp_path / "out.jsonl", "--id-field=id")
    assert [r["id"] for r in rows] == ["\ud800", {"k": "\udfff"}]


def test_damage_that_only_a_checksum_shows(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    path = tmp_path / "in.parquet"
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    parquet.write_table(arrow.table({"text": ["the red planet"] * 3}), path, **options)
    assert len(embedded(tiny_bundle, path, tmp_path / "out.jsonl")) == 3
    raw = bytearray(path.read_bytes())
    last = raw.rfind(b"planet", 0, len(raw) - 8 - int.from_bytes(raw[-8:-4], "little"))
    raw[last : last + 6] = b"comets"
    path.write_bytes(raw)
    assert main([str(tiny_bundle), str(path), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "in.parquet is a damaged Parquet file" in capfd.readouterr().err


def test_a_damaged_footer(served_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    """pyarrow calls it an error of the operating system, which it is not."""
    given, out = tmp_path / "in.txt", tmp_path / "out.parquet"
    given.write_text("a\n")
    assert main([str(served_bundle), str(given), "--into", str(out)]) == 0
    raw = bytearray(out.read_bytes())
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    raw[start : start + 16] = b"\xff" * 16
    out.write_bytes(raw)
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        read_stamp(out)
    assert main([str(served_bundle), str(given), "--into", str(out)]) == 2
    assert "is not a readable Parquet file" in capfd.readouterr().err
    assert out.read_bytes() == raw


def test_rows_are_added_behind_an_empty_group(served_bundle: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "in.txt", tmp_path / "out.parquet"
    given.write_text("a\nb\n")
    assert main([str(served_bundle), str(given), "--into", str(out)]) == 0
    table = parquet.read_table(out)
    with parquet.ParquetWriter(out, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table.slice(0, 0))
    assert parquet.read_metadata(out).num_row_groups == 2
    assert main([str(served_bundle), str(given), "--into", str(out)]) == 0
    assert parquet.read_table(out)["index"].to_pylist() == [0, 1, 2, 3]


NAMES = ["s3:a/b.parquet", "a%41#?.parquet", "line\nbreak.parquet", "é\u2028☃.parquet", "\udcff.parquet"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names(name: str, served_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, read, added to; a relative name such as s3:a/b is a file's, not an address."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path("in.txt").write_text("a\nb\n")
    for rows in (2, 4):
        assert main([str(served_bundle), "in.txt", "--into", name]) == 0
        with Path(name).open("rb") as file:
            assert parquet.read_metadata(file).num_rows == rows
    assert read_stamp(name).dim == 64
    assert main([str(served_bundle), name, "--text-field=error", "--on-error=skip", "-o", "out.jsonl"]) == 2


def test_no_copy_is_made_of_a_file(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus may be larger than what is left of the disk."""
    path = write(tmp_path / "in.parquet", text=["a", "b"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there is no such folder"))
    assert len(embedded(tiny_bundle, path, tmp_path / "out.jsonl")) == 2
