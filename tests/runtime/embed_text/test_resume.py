"""`embed-text --resume`: killed, interrupted or out of disk, a run goes on to the very same file."""

import importlib.util
import json
import random
import resource as limits
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import read_stamp
from embedding_runtime.embed_text import resume
from embedding_runtime.embed_text.cli import main
from embedding_runtime.embed_text.files.rows import Row
from embedding_runtime.embed_text.resume import Digest, Mark, Notes, pass_over
from embedding_runtime.errors import InputError

Captured = pytest.CaptureFixture[str]
# Notes as often as the disk allows, so that kills meet as many of them as possible.
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from embedding_runtime.embed_text import resume; resume.INTERVAL_SECONDS = 0\n"
    "from embedding_runtime.embed_text.cli import main; sys.exit(main())",
]
ROWS = 2_000
WORDS = ["the", "red", "planet", "mars", "ocean", "deep", "search", "small", "text", "river", "stone"]
SUFFIXES = [
    "npy",
    "jsonl",
    pytest.param(
        "parquet",
        marks=pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is not installed"),
    ),
]


def row(index: int, source: random.Random) -> str:
    """Most are short; some are long, some have no text, and some are no JSON at all."""
    kind = source.random()
    words = source.choices(WORDS, k=400 if kind < 0.001 else source.randint(1, 8))
    if kind > 0.995:
        return "{bad" if kind > 0.9975 else json.dumps({"text": None})
    return json.dumps({"text": f"{index} {' '.join(words)}"})


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = random.Random(0)
    path = tmp_path_factory.mktemp("resume") / "in.jsonl"
    path.write_text("".join(f"{row(i, source)}\n" for i in range(ROWS)))
    return path


def arguments(bundle: Path, given: Path, out: Path) -> list[str]:
    options = ["--threads", "1", "--batch-size", "4", "--on-error", "null", "--json"]
    return [str(bundle), str(given), *options, "-o", str(out), "--write-ranges", str(out) + ".ranges.npy"]


def run(argv: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def undisturbed(
    tiny_bundle: Path, given: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """By suffix: the file and the report of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done: dict[str, tuple[Path, dict[str, Any]]] = {}

    def of(suffix: str) -> tuple[Path, dict[str, Any]]:
        if suffix not in done:
            out = folder / f"out.{suffix}"
            done[suffix] = out, json.loads(run(arguments(tiny_bundle, given, out), check=True).stdout)
        return done[suffix]

    return of


def same(out: Path, report: str, expected: tuple[Path, dict[str, Any]]) -> None:
    """The file, the ranges and the report, but for its time; and nothing else is left beside them."""
    path, wanted = expected
    assert out.read_bytes() == path.read_bytes()
    assert Path(f"{out}.ranges.npy").read_bytes() == Path(f"{path}.ranges.npy").read_bytes()
    found = json.loads(report)
    assert {k: v for k, v in found.items() if k not in ("seconds", "output")} == {
        k: v for k, v in wanted.items() if k not in ("seconds", "output")
    }
    stamp = [] if out.suffix == ".parquet" else [f"{out.name}.stamp.json"]
    assert sorted(p.name for p in out.parent.iterdir()) == [out.name, f"{out.name}.ranges.npy", *stamp]
    assert read_stamp(out) == read_stamp(path)


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.full)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_at_random_moments(
    suffix: str,
    kills: int,
    tiny_bundle: Path,
    given: Path,
    tmp_path: Path,
    undisturbed: Callable[[str], tuple[Path, dict[str, Any]]],
) -> None:
    """Not even Python learns of the kill; the first one comes when something is noted, so that runs go on.

    What ends before its kill is compared, and begun anew.
    """
    out, source = tmp_path / f"out.{suffix}", random.Random(kills)
    argv = [*arguments(tiny_bundle, given, out), "--resume"]
    started = time.monotonic()
    expected = undisturbed(suffix)
    seconds = time.monotonic() - started
    for turn in range(kills):
        with subprocess.Popen([*COMMAND, *argv], stdout=subprocess.PIPE, text=True) as process:
            if turn:
                time.sleep(seconds * source.uniform(0.1, 1))
            else:
                wait_for_notes(out)
            process.kill()
            printed, _ = process.communicate()
        if process.returncode == 0:
            same(out, printed, expected)
            out.unlink()
    done = run(argv)
    assert done.returncode == 0, done.stderr
    same(out, done.stdout, expected)


def wait_for_notes(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not Notes(out, {}).path.exists():
        assert time.monotonic() < deadline, "nothing was noted"
        time.sleep(0.01)


def limit(size: int) -> Callable[[], None]:
    """Files of at most `size` bytes, so that a write fails half way as on a full disk."""

    def set_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits.setrlimit(limits.RLIMIT_FSIZE, (size, limits.RLIM_INFINITY))

    return set_limit


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(
    suffix: str,
    tiny_bundle: Path,
    given: Path,
    tmp_path: Path,
    undisturbed: Callable[[str], tuple[Path, dict[str, Any]]],
) -> None:
    out = tmp_path / f"out.{suffix}"
    argv = [*arguments(tiny_bundle, given, out), "--resume"]
    for size in (200_001, 500_003):
        full = run(argv, preexec_fn=limit(size))
        assert full.returncode == 1
        assert "the same command with --resume continues" in full.stderr
    done = run(argv)
    assert "resuming after" in done.stderr
    same(out, done.stdout, undisturbed(suffix))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_interrupted_from_the_keyboard(
    suffix: str,
    tiny_bundle: Path,
    given: Path,
    tmp_path: Path,
    undisturbed: Callable[[str], tuple[Path, dict[str, Any]]],
) -> None:
    """A first run needs no --resume; what it leaves can be read."""
    out = tmp_path / f"out.{suffix}"
    argv = arguments(tiny_bundle, given, out)
    process = subprocess.Popen([*COMMAND, *argv], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for_notes(out)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert 0 < rows_of(out) < ROWS
    done = run([*argv, "--resume"])
    assert "resuming after" in done.stderr
    same(out, done.stdout, undisturbed(suffix))


def rows_of(out: Path) -> int:
    if out.suffix == ".npy":
        return len(np.load(out))
    if out.suffix == ".jsonl":
        return len([json.loads(line) for line in out.read_text().splitlines()])
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    return int(parquet.read_table(out).num_rows)


@pytest.fixture
def stopped(tiny_bundle: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run that a bad row has stopped, its blocks noted."""
    monkeypatch.setattr(resume, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(resume, "_SHARE", 0)
    lines = given.read_text().splitlines()
    good = [line for line in lines if line.startswith('{"text": "')]
    (tmp_path / "in.jsonl").write_text("\n".join([*good[:1000], "{bad", *good[1000:1300]]))
    argv = arguments(tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out.npy")
    argv[argv.index("null")] = "stop"
    assert main(argv) == 2
    return argv


def test_a_bad_row_mended(stopped: list[str], tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    """A window cut short by the bad row is no boundary: the rest is grouped as if it had never been bad."""
    mended = (tmp_path / "in.jsonl").read_text().replace("{bad", '{"text": "mended"}')
    (tmp_path / "in.jsonl").write_text(mended)
    assert main([*stopped, "--resume"]) == 0
    assert "resuming after 896 rows" in capfd.readouterr().err
    resumed = (tmp_path / "out.npy").read_bytes()
    assert main(stopped) == 0
    assert (tmp_path / "out.npy").read_bytes() == resumed


def test_what_does_not_go_on(stopped: list[str], tmp_path: Path, capfd: Captured) -> None:
    """Nothing is touched: the right command still goes on afterwards."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.npy"
    whole = source.read_text()

    def refused(words: str, *more: str) -> None:
        assert main([*stopped, "--resume", *more]) == 2
        assert words in capfd.readouterr().err

    refused("'threads': 1", "--threads", "2")
    refused("'prompt'", "--task", "query")
    refused("'allow_special'", "--allow-special")
    source.write_text(whole.replace("planet", "comet", 1))
    refused("first 896 rows of the input are not those")
    source.write_text("\n".join(whole.splitlines()[:700]))
    refused("had read 896 rows, but the input has 700")
    source.write_text(whole)
    refused("line 1001 is not valid JSON")
    assert main([*stopped, "--resume", "--on-error", "skip"]) == 2
    left = out.read_bytes()
    np.save(out, np.ones((2000, 64), dtype=np.float32))
    refused("is not the file that the interrupted run has left")
    assert len(np.load(out)) == 2000
    out.write_bytes(left[:1000])
    refused("has 1000 bytes; the interrupted run had written")
    Notes(out, {}).path.write_text("{")
    refused("cannot be read")


def test_beginning_anew(stopped: list[str], tmp_path: Path, capfd: Captured) -> None:
    """Without --resume the notes go; with it, and without notes or output, the run begins anew."""
    out, notes = tmp_path / "out.npy", Notes(tmp_path / "out.npy", {}).path
    out.unlink()
    assert main([*stopped, "--resume"]) == 2
    assert "starting from the beginning" in capfd.readouterr().err
    assert notes.exists()
    (tmp_path / "in.jsonl").write_text('{"text": "one"}')
    assert main(stopped) == 0
    assert not notes.exists()
    assert main([*stopped, "--resume"]) == 0
    assert "starting from the beginning" in capfd.readouterr().err
    assert len(np.load(out)) == 1


def test_resume_needs_a_file(tiny_bundle: Path, given: Path, capfd: Captured) -> None:
    assert main([str(tiny_bundle), str(given), "--resume"]) == 2
    assert "--resume needs the --output FILE" in capfd.readouterr().err


def test_a_folder_that_takes_no_notes(
    tiny_bundle: Path, given: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on without them, and says so."""
    monkeypatch.setattr(resume, "INTERVAL_SECONDS", 0)
    out = tmp_path / "out.npy"
    Path(f"{Notes(out, {}).path}.new").mkdir()
    assert main(arguments(tiny_bundle, given, out)) == 0
    assert capfd.readouterr().err.count("--resume cannot continue") == 1
    assert len(np.load(out)) == ROWS


def test_rows_are_told_apart() -> None:
    rows = [Row(1, "a"), Row(2, "b", "t", {"k": 1}), Row(3, error="is bad")]
    digest = Digest()
    for each in rows:
        digest.add(each)
    mark = Mark(3, digest.hex(), 0, {})
    pass_over(iter(rows), mark, Digest())
    for other in (Row(2, "b", "t", {"k": 2}), Row(2, "b", None, {"k": 1}), Row(2, "c", "t", {"k": 1})):
        with pytest.raises(InputError, match="are not those"):
            pass_over(iter([rows[0], other, rows[2]]), mark, Digest())


def test_notes_keep_their_distance(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "out.npy", {"threads": 1})
    assert not notes.due()
    assert notes.read() is None
    mark = Mark(7, "00", 100, {"texts": 7})
    notes.write(mark)
    assert notes.read() == mark
    assert not notes.due()
    with pytest.raises(InputError, match="'threads': 1"):
        Notes(tmp_path / "out.npy", {"threads": 2}).read()
