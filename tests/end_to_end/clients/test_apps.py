"""The Kotlin of the page on ONNX graphs, compiled and run on the JVM as it stands there. `make test-apps`.

The newest Java classes with a library for Linux are of ONNX Runtime 1.17, which is too old for the bundle's
int8 graphs. Their library asks for one of its own version; a small one of that name gives it the installed
one.
"""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from embedding_runtime import Embedder
from embedding_runtime.bundle import Precision
from embedding_runtime.machine.cpu import cpu_kind

pytestmark = pytest.mark.apps

ROOT = Path(__file__).parents[3]
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

# ONNX Runtime's C API is reached through the first function; the second one is for Java's addCPU alone.
GO_BETWEEN = """
#include <dlfcn.h>
static void *found(const char *name)
{
    return dlsym(dlopen("LIBRARY", RTLD_NOW), name);
}
const void *OrtGetApiBase(void)
{
    return ((const void *(*)(void))found("OrtGetApiBase"))();
}
void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int arena)
{
    return ((void *(*)(void *, int))found("OrtSessionOptionsAppendExecutionProvider_CPU"))(options, arena);
}
"""


@pytest.fixture(scope="module")
def natives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Java classes' library, and one by which it reaches the installed ONNX Runtime."""
    compiler = shutil.which("cc")
    if compiler is None or not JVM_CLASSES.is_file():
        pytest.skip("no C compiler (cc), or no Java classes (`make test-apps` fetches them)")
    folder = tmp_path_factory.mktemp("natives")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    with zipfile.ZipFile(JVM_CLASSES) as archive:
        own = "libonnxruntime4j_jni.so"
        (folder / own).write_bytes(archive.read(f"ai/onnxruntime/native/linux-x64/{own}"))
    (folder / "between.c").write_text(GO_BETWEEN.replace("LIBRARY", str(library)), encoding="utf-8")
    (folder / "versions").write_text("VERS_1.17.0 { global: *; };\n", encoding="utf-8")
    options = [
        "-shared",
        "-fPIC",
        "-Wl,-soname,libonnxruntime.so.1.17.0",
        "-Wl,--version-script=versions",
        "-ldl",
    ]
    command = [compiler, "between.c", "-o", "libonnxruntime.so", *options]
    subprocess.run(command, cwd=folder, check=True)
    return folder


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
        options = [
            "-Werror",
            "-include-runtime",
            "-classpath",
            str(classes),
            "-d",
            str(folder / "program.jar"),
        ]
        done = subprocess.run(
            ["bash", COMPILER, folder / "Encoder.kt", *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder / "program.jar"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_kotlin_class(program: Path, natives: Path, served_bundle: Path, precision: Precision) -> None:
    if precision == "int8" and cpu_kind() == "x86":
        pytest.skip("without VNNI the runtime runs int8 in another way")
    with Embedder.load(served_bundle, precision=precision, device_cache=False) as embedder:
        graph = served_bundle / embedder.graph.file
        for dim in (64, 16):
            rows = [embedder.tokenize([text])["input_ids"][0].tolist() for text in TEXTS]
            lines = "\n".join(" ".join(map(str, [dim, *ids])) for ids in rows)
            classes = f"{program}:{JVM_CLASSES}"
            libraries = f"-Donnxruntime.native.path={natives}"
            command = ["java", libraries, "-classpath", classes, "EncoderKt", str(graph)]
            done = subprocess.run(command, input=lines, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
            np.testing.assert_allclose(found, embedder.encode(TEXTS, dim=dim), rtol=0, atol=1e-7)
