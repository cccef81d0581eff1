"""`embed-text --into`: rows are added to a file of the same kind of vectors, and to no other."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import Embedder, read_stamp
from embedding_runtime.embed_text.cli import main
from embedding_runtime.embed_text.resume import notes_path

Captured = pytest.CaptureFixture[str]
FIRST, SECOND = ["the red planet", "a deep ocean"], ["a small river", "mars", "stone"]
SUFFIXES = ["npy", "jsonl", "parquet"]


def add(bundle: Path, texts: list[str], out: Path, *options: str, by: str = "--into") -> int:
    if out.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    given = out.parent / "in.txt"
    given.write_text("".join(f"{text}\n" for text in texts))
    common = ["--precision", "fp32", "--threads", "1", "--task", "document"]
    return main([str(bundle), str(given), by, str(out), *common, *options])


def rows(path: Path) -> list[tuple[int, list[float]]]:
    """(index, vector) of every row."""
    if path.suffix == ".npy":
        return list(enumerate(np.load(path).tolist()))
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        parquet: Any = pytest.importorskip("pyarrow.parquet")
        lines = parquet.read_table(path).to_pylist()
    return [(line["index"], line["embedding"]) for line in lines]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_added(suffix: str, served_bundle: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / f"index.{suffix}", tmp_path / f"whole.{suffix}"
    for texts in (FIRST, [], SECOND):
        assert add(served_bundle, texts, out) == 0
    assert not notes_path(out).exists()
    found = rows(out)
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    with Embedder(served_bundle, precision="fp32", threads=1) as embedder:
        np.testing.assert_allclose([v for _, v in found], embedder.encode_document(FIRST + SECOND), atol=2e-6)
    assert add(served_bundle, FIRST + SECOND, whole, by="--output") == 0
    assert read_stamp(out) == read_stamp(whole)
    assert add(served_bundle, FIRST, whole) == 0, "a file of --output takes rows too"
    assert len(rows(whole)) == 7


def test_ids(served_bundle: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text('{"id": "a", "text": "red"}\n')
    command = [str(served_bundle), str(given), "--into", str(out), "--id-field", "id", "--threads", "1"]
    assert main(command) == main(command) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a", "a"]
    assert main([*command[:-4], "--threads", "1"]) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dim", "32"], "of 64 components; those to add are of 32 components. Ask for 64"),
        (["--vector-precision", "ubinary"], "in float32; those to add are in ubinary"),
        (["--task", "query"], "(side: document); those to add are with the prompt 'task: search"),
        (["--prompt", "é: "], "--prompt 'title: none | text: '"),
    ],
)
def test_nothing_is_mixed(
    suffix: str, options: list[str], said: str, served_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    out = tmp_path / f"index.{suffix}"
    assert add(served_bundle, FIRST, out) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "in.txt"}
    if "--prompt" in options:
        given = [str(served_bundle), str(tmp_path / "in.txt"), "--into", str(out), *options]
        assert main(given) == 2
    else:
        assert add(served_bundle, SECOND, out, *options) == 2
    assert said in capfd.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "in.txt"} == before


def test_other_ranges_are_refused(served_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "index.npy"
    for name, most in (("a", 0.5), ("b", 0.4)):
        np.save(tmp_path / f"{name}.npy", np.array([[-0.5] * 64, [most] * 64], dtype=np.float32))
    options = ["--vector-precision", "int8", "--ranges"]
    assert add(served_bundle, FIRST, out, *options, str(tmp_path / "a.npy")) == 0
    assert add(served_bundle, FIRST, out, *options, str(tmp_path / "b.npy")) == 2
    assert "Give the ranges that the file was made with" in capfd.readouterr().err
    assert add(served_bundle, FIRST, out, *options, str(tmp_path / "a.npy")) == 0
    assert np.load(out).shape == (4, 64)


def test_another_space_is_refused(
    served_bundle: Path, litert_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    """A stamp of another space is refused; of the same space, other graphs may add their vectors."""
    out = tmp_path / "index.npy"
    assert add(served_bundle, FIRST, out) == 0
    beside = tmp_path / "index.npy.stamp.json"
    sound = beside.read_text()
    beside.write_text(sound.replace(read_stamp(out).space_id, "0" * 32))
    assert add(served_bundle, SECOND, out) == 2
    assert "(space 000000000000); those to add are of tiny" in capfd.readouterr().err
    beside.write_text(sound)
    assert add(litert_bundle, SECOND, out, "--precision", "int8") == 0
    assert read_stamp(out).graphs == ("onnx/fp32", "onnx/int8")
    assert len(np.load(out)) == 5


def test_files_that_rows_cannot_be_added_to(served_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    bare = tmp_path / "bare.npy"
    np.save(bare, np.zeros((2, 64), dtype=np.float32))
    assert add(served_bundle, FIRST, bare) == 2
    assert "has no stamp" in capfd.readouterr().err
    out = tmp_path / "index.npy"
    assert add(served_bundle, FIRST, out) == 0
    np.save(out, np.asfortranarray(np.load(out)))
    assert add(served_bundle, FIRST, out) == 2
    assert "as embed-text writes it" in capfd.readouterr().err
    lines = tmp_path / "index.jsonl"
    assert add(served_bundle, FIRST, lines) == 0
    sound = lines.read_text()
    for damaged in (sound[:-1], sound + "{}\n", sound + '{"index": 2, "embedding": [1]}\n', sound + "\n"):
        lines.write_text(damaged)
        assert add(served_bundle, FIRST, lines) == 2
        assert "would not have written here" in capfd.readouterr().err
        assert lines.read_text() == damaged
    assert add(served_bundle, FIRST, lines, "--output", str(out)) == 2
    assert "Give only one of them" in capfd.readouterr().err
    assert main([str(served_bundle), str(tmp_path / "in.txt"), "--into", "-"]) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_did_not_end(suffix: str, served_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    """Whatever was added is refused as a base, and gone on with: the file of a run that nothing stopped."""
    out, whole = tmp_path / f"index.{suffix}", tmp_path / f"whole.{suffix}"
    given, again = tmp_path / "more.jsonl", "--on-error"
    good = [json.dumps({"text": text}) for text in SECOND * 50]
    common = [str(served_bundle), str(given), "--precision", "fp32", "--threads", "1", "--task", "document"]
    for path in (out, whole):
        assert add(served_bundle, FIRST, path) == 0
    given.write_text("\n".join(good))
    assert main([*common, "--into", str(whole)]) == 0
    given.write_text("\n".join([*good[:60], '{"text": 3}', *good[60:]]))
    assert main([*common, "--into", str(out)]) == 2
    assert len(rows(out)) == 62
    given.write_text("\n".join(good))
    assert main([*common, "--into", str(out), again, "stop"]) == 2
    assert "--resume continues it" in capfd.readouterr().err
    assert main([*common, "--into", str(out), "--resume"]) == 0
    assert rows(out) == rows(whole)
    assert not notes_path(out).exists()
    assert add(served_bundle, FIRST, out) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed(suffix: str, served_bundle: Path, tmp_path: Path) -> None:
    """At any time: the rows that were there stay, and --resume ends with each new row once."""
    out, given = tmp_path / f"index.{suffix}", tmp_path / "more.txt"
    assert add(served_bundle, FIRST, out) == 0
    given.write_text("".join(f"row {i}\n" for i in range(400)))
    code = "import sys; from embedding_runtime.embed_text.cli import main; sys.exit(main())"
    options = ["--precision", "fp32", "--threads", "1", "--task", "document", "--batch-size", "1"]
    command = [sys.executable, "-c", code, str(served_bundle), str(given), "--into", str(out), *options]
    process = subprocess.Popen(command)
    while not notes_path(out).exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, check=False).returncode == 2
    assert subprocess.run([*command, "--resume"], check=False).returncode == 0
    assert [index for index, _ in rows(out)] == list(range(402))
    vectors = np.array([v for _, v in rows(out)], dtype=np.float32)
    with Embedder(served_bundle, precision="fp32", threads=1) as embedder:
        expected = embedder.encode_document([*FIRST, *(f"row {i}" for i in range(400))])
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
