"""`embed-text`: formats in and out, bad rows, reports, exit codes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_command import COMMAND, TEXTS, close, records

from embedding_runtime import Embedder, quantize_embeddings
from embedding_runtime.embed_text.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Embedder:
    return Embedder(tiny_bundle)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{t}\n" for t in TEXTS), encoding="utf-8")
    return path


def test_lines_to_jsonl_on_standard_output(
    tiny_bundle: Path, lines: Path, embedder: Embedder, capfd: Captured
) -> None:
    assert main([str(tiny_bundle), str(lines)]) == 0
    found = records(capfd.readouterr().out)
    assert [r["index"] for r in found] == [0, 1, 2, 3]
    close([r["embedding"] for r in found], embedder.encode(TEXTS))


def test_jsonl_gives_back_the_very_float32(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    for name in ("a.npy", "a.jsonl"):
        assert main([str(tiny_bundle), str(lines), "-o", str(tmp_path / name)]) == 0
    exact = np.load(tmp_path / "a.npy")
    read = [r["embedding"] for r in records((tmp_path / "a.jsonl").read_text())]
    np.testing.assert_array_equal(np.array(read, dtype=np.float32), exact)


def test_npy_can_be_mapped(tiny_bundle: Path, lines: Path, tmp_path: Path, embedder: Embedder) -> None:
    out = tmp_path / "out.npy"
    assert main([str(tiny_bundle), str(lines), "--task", "query", "--dim", "32", "-o", str(out)]) == 0
    mapped = np.load(out, mmap_mode="r")
    assert mapped.dtype == np.float32
    close(mapped, embedder.encode_query(TEXTS, dim=32))


def test_standard_input(tiny_bundle: Path, embedder: Embedder) -> None:
    """Windows line ends and a byte order mark are no text."""
    done = subprocess.run(
        [*COMMAND, str(tiny_bundle), "-"], input=b"\xef\xbb\xbfone\r\ntwo", capture_output=True, check=True
    )
    close([r["embedding"] for r in records(done.stdout.decode())], embedder.encode(["one", "two"]))


def test_jsonl_with_titles_and_ids(
    tiny_bundle: Path, tmp_path: Path, embedder: Embedder, capfd: Captured
) -> None:
    rows = [{"key": 7, "body": "rust", "name": "Mars"}, {"key": "b", "body": "ice", "name": None}]
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n".join(json.dumps(r) for r in rows))
    fields = ["--text-field", "body", "--title-field", "name", "--id-field", "key"]
    assert main([str(tiny_bundle), str(path), *fields]) == 0
    found = records(capfd.readouterr().out)
    assert [r["key"] for r in found] == [7, "b"]
    close([r["embedding"] for r in found], embedder.encode_document(["rust", "ice"], titles=["Mars", None]))


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_tables(
    suffix: str, mark: str, tiny_bundle: Path, tmp_path: Path, embedder: Embedder, capfd: Captured
) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_text(f'id{mark}text\n1{mark}"two\nlines, {mark} and ""quotes"""\n2{mark}plain\n')
    assert main([str(tiny_bundle), str(path), "--id-field", "id"]) == 0
    found = records(capfd.readouterr().out)
    assert [r["id"] for r in found] == ["1", "2"]
    close([r["embedding"] for r in found], embedder.encode([f'two\nlines, {mark} and "quotes"', "plain"]))


BAD_ROWS = b'{"text": "good"}\n{"text": null}\n{bad\n\xff\n[1]\n{"text": "\\ud800"}\n{"text": "last"}\n'
BAD_LINES = {2: "has no text", 3: "not valid JSON", 4: "not valid UTF-8", 5: "is a list", 6: "U+D800"}


def test_bad_rows_stop(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    assert main([str(tiny_bundle), str(tmp_path / "in.jsonl")]) == 2
    out, err = capfd.readouterr()
    assert len(records(out)) == 1
    assert "error: line 2 has no text" in err
    assert "Traceback" not in err


def test_bad_rows_skip(tiny_bundle: Path, tmp_path: Path, embedder: Embedder, capfd: Captured) -> None:
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    out = tmp_path / "out.npy"
    argv = [str(tiny_bundle), str(tmp_path / "in.jsonl"), "--on-error", "skip", "-o", str(out), "--json"]
    assert main(argv) == 0
    close(np.load(out), embedder.encode(["good", "last"]))
    printed, err = capfd.readouterr()
    report = json.loads(printed)
    assert (report["texts"], report["written"]) == (7, 2)
    assert {e["line"] for e in report["errors"]} == set(BAD_LINES)
    for line, words in BAD_LINES.items():
        assert any(f"line {line} " in told and words in told for told in err.splitlines())


def test_bad_rows_null(tiny_bundle: Path, tmp_path: Path, embedder: Embedder, capfd: Captured) -> None:
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    argv = [str(tiny_bundle), str(tmp_path / "in.jsonl"), "--on-error", "null"]
    assert main(argv) == 0
    found = records(capfd.readouterr().out)
    assert [r["index"] for r in found] == list(range(7))
    assert [r["embedding"] is None for r in found] == [False, *[True] * 5, False]
    assert "not valid UTF-8" in found[3]["error"]
    assert main([*argv, "-o", str(tmp_path / "out.npy")]) == 0
    array = np.load(tmp_path / "out.npy")
    assert np.isnan(array).all(axis=1).tolist() == [False, *[True] * 5, False]
    close(array[6], embedder.encode("last"))


def test_csv_with_bad_rows(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,one\n2,x,y\n3,three\n")
    assert main([str(tiny_bundle), str(tmp_path / "in.csv"), "--on-error", "null"]) == 0
    out, err = capfd.readouterr()
    assert "line 3 has 3 fields; expected 2 (id, text)" in err
    assert [r["embedding"] is None for r in records(out)] == [False, True, False]
    assert main([str(tiny_bundle), str(tmp_path / "in.csv"), "--text-field", "nope"]) == 2
    assert "not ['nope']" in capfd.readouterr().err


def test_texts_that_are_cut_are_reported(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "in.txt").write_text("a\n" + "word " * 3000 + "\nb\n")
    argv = [str(tiny_bundle), str(tmp_path / "in.txt"), "-o", str(tmp_path / "o.npy"), "--json"]
    assert main(argv) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["cut_lines"] == [2]
    assert "warning: inputs[1] has more than 2048 tokens" in err
    assert main([*argv, "--overflow", "chunk"]) == 0
    assert json.loads(capfd.readouterr().out)["cut_lines"] == []
    assert main([*argv, "--overflow", "error"]) == 2
    assert "line 2 has more than the 2048 tokens" in capfd.readouterr().err
    assert len(np.load(tmp_path / "o.npy")) == 1


def test_vector_precision(tiny_bundle: Path, lines: Path, tmp_path: Path, embedder: Embedder) -> None:
    whole, ranges = embedder.encode(TEXTS), tmp_path / "ranges.npy"
    out = tmp_path / "out.npy"
    assert main([str(tiny_bundle), str(lines), "-o", str(out), "--write-ranges", str(ranges)]) == 0
    np.testing.assert_allclose(np.load(ranges), [whole.min(axis=0), whole.max(axis=0)], atol=2e-6)
    exact = np.load(out)
    for precision in ("int8", "uint8", "binary", "ubinary"):
        argv = [str(tiny_bundle), str(lines), "-o", str(out), "--vector-precision", precision]
        assert main([*argv, "--ranges", str(ranges)]) == 0
        expected = quantize_embeddings(exact, precision, np.load(ranges))
        np.testing.assert_array_equal(np.load(out), expected)
        assert np.load(out).dtype == expected.dtype


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet(tiny_bundle: Path, tmp_path: Path, embedder: Embedder) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    out = tmp_path / "out.parquet"
    argv = [str(tiny_bundle), str(tmp_path / "in.jsonl"), "--on-error", "null", "-o", str(out)]
    assert main(argv) == 0
    table = parquet.read_table(out).to_pydict()
    assert table["index"] == list(range(7))
    assert [e is None for e in table["error"]] == [True, *[False] * 5, True]
    close(table["embedding"][6], embedder.encode("last"))
    assert table["embedding"][1] is None
    assert sorted(p.name for p in tmp_path.iterdir() if "parquet" in p.name) == ["out.parquet"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_needs_pyarrow(tiny_bundle: Path, lines: Path, tmp_path: Path, capfd: Captured) -> None:
    assert main([str(tiny_bundle), str(lines), "-o", str(tmp_path / "o.parquet")]) == 1
    assert "embedding-edge[parquet]" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--json"], 2, "--json prints a report on standard output"),
        (["--output", "x.txt"], 2, "suffix '.txt'"),
        (["--task", "nope"], 2, "Task 'nope' is unknown"),
        (["--dim", "0"], 2, "dim is 0"),
        (["--dim", "4096"], 2, "dim is 4096"),
        (["--batch-size", "0"], 2, "batch_size is 0"),
        (["--threads", "0"], 2, "threads is 0"),
        (["--threads", "100000"], 2, "threads is 100000; expected 1 to 512"),
        (["--precision", "int4"], 2, "no graph for"),
        (["--vector-precision", "int8"], 2, "needs --ranges FILE"),
        (["--vector-precision", "int8", "--ranges", "/dev/null"], 2, "not a .npy file of ranges"),
        (["--vector-precision", "int8", "--ranges", "/nowhere"], 2, "No such file: /nowhere"),
        (["--task", "query", "--title-field", "t", "--input-format", "jsonl"], 2, "has no 'title: none'"),
        (["--id-field", "a", "--output", "x.npy"], 2, "holds vectors only"),
        (["--on-error", "null", "--output", "x.npy", "--vector-precision", "binary"], 2, "has no null"),
        (["--output", "/nowhere/x.npy"], 2, "no folder /nowhere to write x.npy in"),
        (["--write-ranges", "/nowhere/r.npy"], 2, "no folder /nowhere to write r.npy in"),
        (["--write-ranges", "/tmp"], 2, "/tmp is a folder"),
        (["--prompt", "\udcff"], 2, "The prompt holds the lone surrogate U+DCFF"),
    ],
)
def test_usage(
    arguments: list[str], code: int, words: str, tiny_bundle: Path, lines: Path, capfd: Captured
) -> None:
    assert main([str(tiny_bundle), str(lines), *arguments]) == code
    out, err = capfd.readouterr()
    assert words in err
    assert "embed-text: error: " in err
    assert "Traceback" not in err
    assert out == ""


def test_missing_bundle_and_missing_input(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "kept.npy"
    out.write_text("kept")
    assert main([str(tmp_path / "nowhere"), str(out)]) == 2
    assert "is not a folder" in capfd.readouterr().err
    assert main([str(tiny_bundle / "manifest.json"), str(out)]) == 2
    assert "manifest.json is not a folder" in capfd.readouterr().err
    assert main([str(tiny_bundle), str(tmp_path / "nothing"), "-o", str(out)]) == 2
    assert "No such file" in capfd.readouterr().err
    assert main([str(tiny_bundle), str(tmp_path), "-o", str(out)]) == 2
    assert "is a folder; expected a file of texts" in capfd.readouterr().err
    assert main([str(tiny_bundle), str(out), "-o", str(out)]) == 2
    assert out.read_text() == "kept"
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2


def test_ranges_that_are_no_numbers(tiny_bundle: Path, lines: Path, tmp_path: Path, capfd: Captured) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    ranges = ["--vector-precision", "int8", "--ranges", str(tmp_path / "words.npy")]
    assert main([str(tiny_bundle), str(lines), *ranges]) == 2
    assert "ranges holds <U1; expected numbers" in capfd.readouterr().err


def test_brackets_without_end(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + '\n{"text": "a"}\n')
    deep = [str(tiny_bundle), str(tmp_path / "deep.jsonl"), "--on-error", "skip"]
    assert main(deep) == 0
    out, err = capfd.readouterr()
    assert "line 1 is not valid JSON" in err
    assert len(records(out)) == 1


def test_nothing_to_read_from(tiny_bundle: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([str(tiny_bundle), "-"]) == 2
    assert "Standard input is closed" in capfd.readouterr().err


def test_a_report_in_any_encoding(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    """A file name need not be Unicode, and a terminal need not hold it."""
    out = tmp_path / "ünï\udcff.npy"
    arguments = [str(tiny_bundle), str(lines), "-o", str(out), "--json"]
    for encoding in ("utf-8:strict", "ascii:strict"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["output"] == str(out)
