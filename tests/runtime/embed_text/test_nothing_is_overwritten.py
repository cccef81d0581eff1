"""`embed-text` writes over nothing that it should keep: others' rows, its input, what was there before."""

import json
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_command import COMMAND

from embedding_runtime.embed_text.cli import main

Captured = pytest.CaptureFixture[str]
SUFFIXES = ["npy", "jsonl", "parquet"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("the red planet\na deep ocean\n")
    return path


def rows_of(path: Path) -> int:
    if path.suffix == ".npy":
        return len(np.load(path))
    if path.suffix == ".jsonl":
        return len([json.loads(line) for line in path.read_text().splitlines()])
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    return int(parquet.read_table(path).num_rows)


def lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def begun(bundle: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """A run that waits for rows, when it has its output."""
    out = Path(arguments[-1])
    command = [*COMMAND, str(bundle), "-", "--batch-size", "1", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(b"the red planet\n" * 200)
    process.stdin.flush()
    written = out.with_name(f".{out.name}.rows") if out.suffix == ".parquet" else out
    while not written.exists() or written.stat().st_size < 5_000:
        assert process.poll() is None
    return process


@pytest.mark.parametrize("option", ["--output", "--into"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_runs_at_one_file(
    suffix: str, option: str, tiny_bundle: Path, lines: Path, tmp_path: Path, capfd: Captured
) -> None:
    """The second is refused, under whatever name, and costs the first nothing."""
    pytest.importorskip("pyarrow")
    out, other = tmp_path / f"out.{suffix}", tmp_path / f"other.{suffix}"
    first = begun(tiny_bundle, option, str(out))
    other.symlink_to(out)
    for name in (out, other):
        for again in (option, "--output"):
            assert main([str(tiny_bundle), str(lines), again, str(name)]) == 2
            assert "is being written by another run of embed-text" in capfd.readouterr().err
    first.communicate()
    assert first.returncode == 0
    assert rows_of(out) == 200
    assert not lock_of(out).exists()


def test_what_a_killed_run_leaves_locks_nothing(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    process = begun(tiny_bundle, "--output", str(out))
    process.kill()
    process.communicate()
    assert lock_of(out).exists()
    assert main([str(tiny_bundle), str(lines), "--output", str(out)]) == 0
    assert rows_of(out) == 2
    assert not lock_of(out).exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_header_that_does_not_fit_costs_no_vectors(
    suffix: str, tiny_bundle: Path, lines: Path, tmp_path: Path, capfd: Captured
) -> None:
    pytest.importorskip("pyarrow")
    out, table, cut = tmp_path / f"out.{suffix}", tmp_path / "in.csv", tmp_path / "in.parquet"
    assert main([str(tiny_bundle), str(lines), "--output", str(out)]) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    table.write_text("id,text\n1,a\n")
    cut.write_bytes(b"PAR1 and then it is cut off")
    for given in ([str(table), "--text-field", "body"], [str(cut)]):
        assert main([str(tiny_bundle), *given, "--output", str(out)]) == 2
        assert "body" in (told := capfd.readouterr().err) or "damaged Parquet" in told
    table.unlink()
    cut.unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_ranges_over_what_is_read_or_written(
    tiny_bundle: Path, lines: Path, tmp_path: Path, capfd: Captured
) -> None:
    out, before = tmp_path / "out.npy", lines.read_bytes()
    (tmp_path / "link.txt").symlink_to(lines)
    for ranges, which in ((out, "output"), (lines, "input"), (tmp_path / "link.txt", "input")):
        command = [str(tiny_bundle), str(lines), "--output", str(out), "--write-ranges", str(ranges)]
        assert main(command) == 2
        assert f"is the {which}; choose another file" in capfd.readouterr().err
    assert lines.read_bytes() == before
    assert not out.exists()


@pytest.mark.parametrize("way", ["< in -o in", ">> in", "< in >> in"])
def test_the_input_by_way_of_the_shell(way: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """Lines that a run appends to its own input would be read in turn, without end."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n')
    arguments = [] if "<" in way else [str(path)]
    arguments += ["-o", str(path)] if "-o" in way else []
    with path.open("rb") as read, path.open("ab") as written:
        done = subprocess.run(
            [*COMMAND, str(tiny_bundle), *arguments],
            stdin=read if "<" in way else subprocess.DEVNULL,
            stdout=written if ">>" in way else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert b"is the input; choose another file" in done.stderr
    assert path.read_text() == '{"text": "a"}\n'


def test_ranges_on_a_full_disk(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    """The former ones stay whole."""
    out, ranges = tmp_path / "out.npy", tmp_path / "ranges.npy"
    np.save(ranges, np.ones((2, 64), dtype=np.float32))
    before = ranges.read_bytes()
    lines.write_text("a\n")
    command = [*COMMAND, str(tiny_bundle), str(lines), "-o", str(out), "--write-ranges", str(ranges)]

    def limit() -> None:
        """Room for a vector and its stamp, not for ranges."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    done = subprocess.run(command, preexec_fn=limit, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"File too large" in done.stderr
    assert len(np.load(out)) == 1
    assert ranges.read_bytes() == before


def test_ranges_go_to_a_device(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    command = [str(tiny_bundle), str(lines), "-o", str(tmp_path / "out.npy"), "--write-ranges", "/dev/null"]
    assert main(command) == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["embedding", "error", ""])
def test_an_id_that_would_be_lost(name: str, tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"text": "a", name: 7}))
    assert main([str(tiny_bundle), str(path), "--id-field", name]) == 2
    said, told = capfd.readouterr()
    assert said == ""
    assert ("cannot be the id" if name else "has an empty name") in told
