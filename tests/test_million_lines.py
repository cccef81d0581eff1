"""A million short lines through `embed-text`: flat memory, and hardly slower than the engine by itself."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.stream import WINDOW_BATCHES, batches, pad

LINES = 1_000_000
SAMPLE = 30_000
BATCH = 32
WORDS = ["the", "red", "planet", "mars", "ocean", "deep", "search", "small", "text", "river", "stone"]
COMMAND = [sys.executable, "-c", "import sys; from embedding_runtime.cli import main; sys.exit(main())"]

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


def engine_rate(bundle: Path, lines: list[str]) -> float:
    """Lines a second of the engine alone, at the batches that `embed-text` makes."""
    with Embedder(bundle, threads=1) as embedder:
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
        return len(lines) / (time.perf_counter() - started)


def test_a_million_lines(tiny_bundle: Path, tmp_path: Path) -> None:
    source = random.Random(0)
    texts = [f"{i} " + " ".join(source.choices(WORDS, k=source.randint(2, 8))) for i in range(LINES)]
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    before = engine_rate(tiny_bundle, texts[:SAMPLE])
    argv = [str(tiny_bundle), str(tmp_path / "lines.txt"), "--threads", "1", "--json"]
    out = tmp_path / "out.npy"
    with subprocess.Popen([*COMMAND, *argv, "-o", str(out)], stdout=subprocess.PIPE) as process:
        seen: list[float] = []
        while process.poll() is None:
            if out.exists() and out.stat().st_size > 10_000 * 64 * 4:
                seen.append(resident(process.pid))
            time.sleep(0.25)
        assert process.stdout
        report = json.loads(process.stdout.read())
    after = engine_rate(tiny_bundle, texts[-SAMPLE:])
    rate, alone = LINES / report["seconds"], (before + after) / 2
    sys.stdout.write(
        f"embed-text {rate:,.0f}/s, engine alone {before:,.0f} and {after:,.0f}/s; resident "
        f"{seen[0]:.0f} MB after the first 10,000 lines, {max(seen):.0f} MB at most\n"
    )
    assert np.load(out, mmap_mode="r").shape == (LINES, 64)
    assert max(seen) - seen[0] <= 20
    assert rate >= 0.9 * alone
