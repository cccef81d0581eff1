"""A million short lines through `embed-text`: flat memory, and hardly slower than the engine by itself."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.embed_text.cli import main
from embedding_runtime.encoding.stream import WINDOW_BATCHES, batches
from embedding_runtime.engines.padding import pad

LINES = 1_000_000
SAMPLE = 1_200
TURNS = 5
BATCH = 32
WORDS = ["the", "red", "planet", "mars", "ocean", "deep", "search", "small", "text", "river", "stone"]
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from embedding_runtime.embed_text.cli import main; sys.exit(main())",
]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="needs /proc to read a process's memory"
    ),
]


def resident(pid: int) -> float:
    """Megabytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1000


@pytest.fixture(scope="module")
def lines() -> list[str]:
    source = random.Random(0)
    return [f"{i} " + " ".join(source.choices(WORDS, k=source.randint(2, 8))) for i in range(LINES)]


def engine_seconds(embedder: Embedder, lines: list[str]) -> float:
    """Time of the engine alone, at the batches that `embed-text` makes."""
    opened = embedder._encoder.opened
    ids = [np.array(opened.tokenizer.encode(line), dtype=np.int32) for line in lines]
    ready = []
    for start in range(0, len(ids), BATCH * WINDOW_BATCHES):
        window = ids[start : start + BATCH * WINDOW_BATCHES]
        for rows in batches(np.array([len(i) for i in window]), BATCH):
            ready.append(pad([window[r] for r in rows], embedder.manifest.tokenizer.pad_id))
    started = time.perf_counter()
    for batch, mask in ready:
        opened.session.run(batch, mask, ("sentence_embedding",))
    return time.perf_counter() - started


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process and its threads on a single CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_hardly_slower_than_the_engine(
    full_checkpoint: Path, one_core: None, tmp_path: Path, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Full size, int8; turn and turn about, since the machine may have other work."""
    bundle, ratios = tmp_path / "bundle", []
    export_bundle(load_checkpoint(full_checkpoint), bundle, ExportOptions(("int8",)), assumed)
    with Embedder(bundle, threads=1) as embedder:
        for turn in range(TURNS):
            part = lines[turn * SAMPLE : (turn + 1) * SAMPLE]
            (tmp_path / "part.txt").write_text("\n".join(part))
            argv = [str(bundle), str(tmp_path / "part.txt"), "--threads", "1", "--json"]
            assert main([*argv, "-o", str(tmp_path / "part.npy")]) == 0
            ratios.append(engine_seconds(embedder, part) / json.loads(capfd.readouterr().out)["seconds"])
    with capfd.disabled():
        sys.stdout.write(f"rate of embed-text / engine alone: {[round(r, 2) for r in sorted(ratios)]}\n")
    assert np.median(ratios) >= 0.9


def test_memory_stays_flat(tiny_bundle: Path, tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    out = tmp_path / "out.npy"
    argv = [str(tiny_bundle), str(tmp_path / "lines.txt"), "--threads", "1", "-o", str(out)]
    seen: list[float] = []
    with subprocess.Popen([*COMMAND, *argv]) as process:
        while process.poll() is None:
            if out.exists() and out.stat().st_size > 10_000 * 64 * 4:
                seen.append(resident(process.pid))
            time.sleep(0.25)
    sys.stdout.write(f"resident {seen[0]:.0f} MB after the first 10,000 lines, {max(seen):.0f} MB at most\n")
    assert process.returncode == 0
    assert np.load(out, mmap_mode="r").shape == (LINES, 64)
    assert max(seen) - seen[0] <= 20
