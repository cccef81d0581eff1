"""The Kotlin of the page on ONNX graphs, compiled and run on the JVM as it stands there. `make test-apps`."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.machine.cpu import cpu_kind

pytestmark = pytest.mark.apps

ROOT = Path(__file__).parents[2]
# Where `make test-apps` puts the compiler and ONNX Runtime's Java classes: Android's, and the JVM's.
COMPILER = ROOT / "build" / "apps" / "package" / "bin" / "kotlinc"
JVM_CLASSES = ROOT / "build" / "apps" / "anserini.jar"
ANDROID_CLASSES = ROOT / "build" / "onnxruntime" / "classes.jar"
TEXTS = ["Which planet is known as the Red Planet?", "a", "Привет, 世界! " * 20]
# A line is a dim and ids; the answer is the vector.
MAIN = """
fun main(arguments: Array<String>) {
    Encoder(arguments[0], 1).use { encoder ->
        generateSequence(::readlnOrNull).forEach { line ->
            val numbers = line.split(" ").map(String::toInt)
            println(encoder.embed(numbers.drop(1).toIntArray(), numbers[0]).joinToString(" "))
        }
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's class and `MAIN`, compiled against both archives; what runs is the JVM's."""
    if shutil.which("java") is None:
        pytest.skip("no Java on this machine")
    if missing := [path for path in (COMPILER, JVM_CLASSES, ANDROID_CLASSES) if not path.exists()]:
        pytest.skip(f"no {missing[0].relative_to(ROOT)} (`make test-apps` fetches it)")
    folder = tmp_path_factory.mktemp("kotlin")
    page = (ROOT / "runtime" / "ONNX.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```kotlin\n(.*?)```", page, re.S)
    (folder / "Encoder.kt").write_text(block + MAIN, encoding="utf-8")
    for classes in (ANDROID_CLASSES, JVM_CLASSES):
        options = ["-Werror", "-include-runtime", "-classpath", classes, "-d", folder / "program.jar"]
        done = subprocess.run(
            ["bash", COMPILER, folder / "Encoder.kt", *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder / "program.jar"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 2e-3)])
def test_the_kotlin_class(program: Path, served_bundle: Path, precision: str, tolerance: float) -> None:
    if precision == "int8" and cpu_kind() == "x86":
        pytest.skip("ONNX Runtime 1.17 does not run int8 on a CPU without VNNI")
    with Embedder.load(served_bundle, precision=precision, device_cache=False) as embedder:
        graph = served_bundle / embedder.graph.file
        for dim in (64, 16):
            rows = [embedder.tokenize([text])["input_ids"][0].tolist() for text in TEXTS]
            lines = "\n".join(" ".join(map(str, [dim, *ids])) for ids in rows)
            command = ["java", "-classpath", f"{program}:{JVM_CLASSES}", "EncoderKt", str(graph)]
            done = subprocess.run(command, input=lines, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
            np.testing.assert_allclose(found, embedder.encode(TEXTS, dim=dim), atol=tolerance)
