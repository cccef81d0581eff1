"""A LiteRT graph at work: buckets, batches, threads, what it refuses, and a quiet standard error."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
from ai_edge_litert.interpreter import Interpreter
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.engines.litert_log import SHOW, quiet
from embedding_runtime.engines.litert_session import LitertSession
from embedding_runtime.engines.registry import Ids
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.vectors import Floats

PAD, OUTPUT = 0, ("sentence_embedding",)


@pytest.fixture(scope="module")
def graph(litert_bundle: Path) -> Path:
    return litert_bundle / "litert" / "model_int8.tflite"


@pytest.fixture(scope="module")
def session(graph: Path) -> Iterator[LitertSession]:
    yield LitertSession(graph, 1, PAD)


@pytest.fixture(scope="module")
def plain(graph: Path) -> Any:
    """LiteRT's own interpreter on the same file."""
    return Interpreter(model_path=str(graph), num_threads=1)


def interpreted(plain: Any, row: Ids, bucket: int) -> Floats:
    """What a signature of the file gives for a row, padded by hand."""
    tokens = np.full((1, bucket), PAD, dtype=np.int32)
    tokens[0, : len(row)] = row
    found: Floats = plain.get_signature_runner(f"embed_{bucket}")(tokens=tokens)["sentence_embedding"]
    return found


def texts(*lengths: int) -> list[Ids]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(5, 300, size=n) for n in lengths]


def run(session: LitertSession, rows: list[Ids], width: int = 0) -> Floats:
    """The vectors of rows, padded to the longest or to `width`."""
    shape = (len(rows), max(width, *map(len, rows)))
    ids, mask = np.full(shape, PAD, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return session.run(ids, mask, OUTPUT)[0]


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, 32), (31, 32), (32, 32), (33, 64), (64, 64), (65, 512), (512, 512)]
)
def test_each_length_runs_in_the_smallest_bucket(
    session: LitertSession, plain: Any, length: int, bucket: int
) -> None:
    assert session.bucket(length) == bucket
    (row,) = texts(length)
    np.testing.assert_array_equal(run(session, [row]), interpreted(plain, row, bucket))


def test_a_vector_does_not_depend_on_its_batch(session: LitertSession) -> None:
    rows = texts(3, 40, 17, 300, 64, 1)
    alone = np.concatenate([run(session, [row]) for row in rows])
    np.testing.assert_array_equal(run(session, rows), alone)
    np.testing.assert_array_equal(run(session, rows[::-1], width=511), alone[::-1])


def test_a_vector_does_not_depend_on_its_bucket(session: LitertSession, plain: Any) -> None:
    (row,) = texts(20)
    for bucket in session.buckets:
        np.testing.assert_allclose(interpreted(plain, row, bucket), run(session, [row]), atol=1e-5)


def test_threads_take_turns(session: LitertSession) -> None:
    """Several threads share the buffers of a bucket."""
    rows = texts(*range(1, 60), 200)
    alone = [run(session, [row]) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(lambda row: run(session, [row]), rows), alone, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_more_engine_threads_give_the_same(graph: Path, session: LitertSession) -> None:
    rows = texts(10, 64, 400)
    np.testing.assert_allclose(run(LitertSession(graph, 2, PAD), rows), run(session, rows), atol=1e-6)


def test_padding_inside_a_text_is_refused(session: LitertSession) -> None:
    """The graph would leave the token out without a word."""
    with pytest.raises(InputError, match=r"id 0, which a LiteRT graph takes for padding.*format='onnx'"):
        run(session, [np.array([2, 9, PAD, 9, 1])])
    with pytest.raises(InputError, match=r"^holds the control token"):
        session.check_ids(np.array([2, PAD, 1], dtype=np.int32))


def test_more_tokens_than_the_largest_bucket(session: LitertSession) -> None:
    with pytest.raises(InputError, match="has 513 tokens; the graph's largest bucket holds 512"):
        run(session, texts(513))


def test_there_is_one_output(session: LitertSession) -> None:
    ids = np.array([[2, 1]])
    with pytest.raises(InputError, match=r"gives 'sentence_embedding' only.*last_hidden_state"):
        session.run(ids, np.ones_like(ids), ("sentence_embedding", "last_hidden_state"))


def test_what_is_not_a_graph(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"not a graph" * 100)
    with pytest.raises(EngineError, match=r"ai-edge-litert \d.* does not load .*model.tflite"):
        LitertSession(file, 1, PAD)
    with pytest.raises(EngineError, match="does not load"):
        LitertSession(tmp_path / "nothing.tflite", 1, PAD)


def test_an_engine_interrupted_while_it_opens_a_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports more of itself then; that part says only that it could not be initialised, and why."""

    def stopped(*_: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("embedding_runtime.engines.litert_model.Whole", stopped)
    with pytest.raises(KeyboardInterrupt):
        LitertSession(graph, 1, PAD)


def test_a_missing_engine_says_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EngineError, match=r"pip install 'embedding-edge\[litert\]'"):
        LitertSession(graph, 1, PAD)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_buckets_share_one_copy_of_packed_weights_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file may be written: the engine by itself packs a copy for each bucket that is run."""
    shape = replace(standin.SHAPES["tiny"], hidden=256, intermediate=8192, layers=(False, True))
    monkeypatch.setitem(standin.SHAPES, "tiny", shape)
    standin.write(tmp_path / "checkpoint", standin.Options())
    options = ExportOptions(("fp32",), formats=("litert",), buckets=(4, 8, 16, 24, 32))
    export_bundle(load_checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle", options, assumed)
    file = tmp_path / "bundle" / "litert" / "model_fp32.tflite"
    grown: dict[str, int] = {}
    for weights in (":memory", ""):
        done = subprocess.run(
            [sys.executable, "-c", EVERY_BUCKET, file, weights], capture_output=True, check=True
        )
        grown[weights] = int(done.stdout)
    assert grown[":memory"] < 2 * file.stat().st_size < grown[""]


EVERY_BUCKET = """
import sys
from pathlib import Path
import numpy as np
from embedding_runtime.engines import litert_model
from embedding_runtime.engines.litert_session import LitertSession
from embedding_runtime.machine.process_memory import process_memory
if not sys.argv[2]:
    litert_model.IN_MEMORY = ""
before = process_memory().anonymous
session = LitertSession(Path(sys.argv[1]), 1, 0)
for size in session.buckets:
    ids = np.arange(5, 5 + size)[None]
    session.run(ids, np.ones_like(ids), ("sentence_embedding",))
print(process_memory().anonymous - before)
"""
WORKS = """
import sys
from pathlib import Path
import numpy as np
from embedding_runtime.errors import EngineError
from embedding_runtime.engines.litert_session import LitertSession
session = LitertSession(Path(sys.argv[1]), 2, 0)
ids = np.array([[2, 9, 1]])
session.run(ids, np.ones_like(ids), ("sentence_embedding",))
try:
    LitertSession(Path(sys.argv[0]), 1, 0)
except EngineError:
    pass
print("a person's line", file=sys.stderr)
"""


def stderr_of(code: str, *arguments: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != SHOW} | environment,
    )
    return done.stderr


def test_the_engine_keeps_off_standard_error(graph: Path) -> None:
    """From opening to the end of the process, and where a file does not load."""
    assert stderr_of(WORKS, graph) == "a person's line\n"


def test_the_engine_speaks_when_asked(graph: Path) -> None:
    found = stderr_of(WORKS, graph, **{SHOW: "1"})
    assert "XNNPACK" in found
    assert f"`{SHOW}=1`" in (Path(__file__).parents[3] / "runtime" / "LITERT.md").read_text(encoding="utf-8")
    assert "a person's line\n" in found


def test_a_traceback_is_not_lost(graph: Path) -> None:
    code = f"{WORKS}\nimport atexit; atexit.register(lambda: 1 / 0)\nraise KeyError('the last words')"
    found = stderr_of(code, graph)
    assert "KeyError: 'the last words'" in found
    assert "ZeroDivisionError" in found


def test_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    """Of another thread's words, say, while a graph is being opened."""
    with quiet():
        os.write(
            2, b"INFO: [environment.cc:36] Creating\n\xe2\x94\x94 Could not load\nTraceback (most recent\n"
        )
        with quiet():
            os.write(2, b"within\n")
        os.write(2, b"no newline")
    assert capfd.readouterr().err == "Traceback (most recent\nwithin\nno newline"


def test_without_standard_error(graph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import os, sys; os.close(2); sys.stderr = None\n{WORKS}\nopen(sys.argv[2], 'w').write('done')"
    stderr_of(code, graph, out)
    assert out.read_text() == "done"


def test_a_forked_child_goes_on(graph: Path) -> None:
    """With more than one engine thread too: threads do not survive a fork."""
    code = """
import os, sys, numpy as np
from pathlib import Path
from embedding_runtime.engines.litert_session import LitertSession
session = LitertSession(Path(sys.argv[1]), 2, 0)
ids = np.arange(5, 65)[None]
run = lambda: session.run(ids, np.ones_like(ids), ("sentence_embedding",))[0]
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(run(), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, graph], timeout=60).returncode == 0
