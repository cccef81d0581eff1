"""`embed-text` as a process: interruptions, pipes, full disks; whatever ends it, rows are complete."""

import json
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_command import COMMAND, TEXTS, records

from embedding_runtime.embed_text.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def start(bundle: Path, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    command = [*COMMAND, str(bundle), "-", "--batch-size", "1", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stderr=pipe, **{"stdout": pipe, **options})


def feed(process: "subprocess.Popen[bytes]", count: int) -> None:
    assert process.stdin
    process.stdin.write(b"the red planet\n" * count)
    process.stdin.flush()


def wait_for_rows(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 5_000:
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_complete_rows(
    tiny_bundle: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    out = tmp_path / name
    process = start(tiny_bundle, "-o", str(out))
    feed(process, 200)
    wait_for_rows(out)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert process.stderr
    assert b"interrupted; the rows written so far are complete" in process.stderr.read()
    rows = np.load(out) if name == "out.npy" else [r["embedding"] for r in records(out.read_text())]
    assert len(rows) >= 32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)


def test_even_a_kill_leaves_a_readable_npy(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    process = start(tiny_bundle, "-o", str(out))
    feed(process, 200)
    wait_for_rows(out)
    process.kill()
    process.wait(60)
    rows = np.load(out)
    assert len(rows) >= 16
    assert np.isfinite(rows).all()


def test_a_broken_pipe(tiny_bundle: Path) -> None:
    process = start(tiny_bundle)
    assert process.stdout
    assert process.stdin
    feed(process, 100)
    assert process.stdout.readline().startswith(b'{"index": 0')
    process.stdout.close()
    feed(process, 100)
    process.stdin.close()
    assert process.wait(60) == 1
    assert process.stderr
    told = process.stderr.read()
    assert b"the reader of the output went away" in told
    assert b"Traceback" not in told


def limit() -> None:
    """Files of at most 40 kB, so that a write fails half way as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
def test_a_full_disk_leaves_complete_rows(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    process = start(tiny_bundle, "-o", str(out), preexec_fn=limit)
    _, err = process.communicate(b"the red planet\n" * 400, timeout=60)
    assert process.returncode == 1
    assert b"File too large" in err
    assert b"Traceback" not in err
    rows = np.load(out) if name == "out.npy" else [r["embedding"] for r in records(out.read_text())]
    assert len(rows) >= 32
    assert len(rows) % 32 == 0


def test_a_full_standard_output(tiny_bundle: Path, lines: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, str(tiny_bundle), str(lines)], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_output_is_appended_to(tiny_bundle: Path, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    for _ in range(2):
        with out.open("ab") as file:
            subprocess.run([*COMMAND, str(tiny_bundle), str(lines)], stdout=file, check=True)
    assert [r["index"] for r in records(out.read_text())] == [0, 1, 2, 3] * 2


def test_progress(tiny_bundle: Path, lines: Path, capfd: Captured) -> None:
    assert main([str(tiny_bundle), str(lines), "--progress"]) == 0
    assert "4 texts" in capfd.readouterr().err
    assert main([str(tiny_bundle), str(lines)]) == 0
    assert "4 texts" not in capfd.readouterr().err


def test_rows_flow_before_the_input_ends(tiny_bundle: Path) -> None:
    """A pipe is answered while it is still open."""
    process = start(tiny_bundle)
    assert process.stdout
    feed(process, 100)
    assert json.loads(process.stdout.readline())["index"] == 0
    process.kill()
    process.wait(60)
