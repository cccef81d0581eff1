"""x86 without VNNI: u8 x s8 products saturate there, and the runtime takes 7 bits or kernels that do not.

`make test-haswell` runs this very Python as if on a Haswell: with AVX-512 and VNNI hidden from it where the
CPU and the kernel can do that (`without_vnni.c`), else under qemu's user emulation. Either way /proc/cpuinfo
has to be one that fits.
"""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import avx2_machine
import machines
import numpy as np
import pytest
from conftest import assumed
from numpy.typing import NDArray

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import SEVEN_BITS, Precision, load_manifest
from embedding_runtime.engines.litert_packed import WEIGHTS, open_packed
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.cpu import cpu_kind
from embedding_runtime.machine.device_cache import entries_folder

pytestmark = [
    pytest.mark.haswell,
]
TEXTS = ["Which planet is known as the Red Planet?", "a", "Mars, known for its reddish appearance " * 8]

# One u8 x s8 product with values that saturate pairwise sums in 16 bits.
PRODUCT = """
import numpy as np, onnx, sys
from pathlib import Path
from onnx import TensorProto, helper, numpy_helper
from embedding_runtime.machine.cpu import cpu_kind
from embedding_runtime.engines import onnx_session

assert cpu_kind() == "x86", cpu_kind()
rng = np.random.default_rng(0)
w = rng.integers(-127, 128, (64, 32)).astype(np.int8)
x = rng.integers(200, 256, (3, 64)).astype(np.uint8)
value = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "product",
    [value("x", TensorProto.UINT8, [3, 64])], [value("y", TensorProto.INT32, None)],
    [numpy_helper.from_array(w, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
bare = onnx_session.engine().SessionOptions()
for options in (bare, onnx_session.session_options(1)):
    session = onnx_session.create_session(model.SerializeToString(), options, Path("product"))
    print(np.abs(session.run(None, {"x": x})[0] - x.astype(int) @ w.astype(int)).max())
"""

VECTORS = """
import base64, io, json, sys
import numpy as np
from embedding_runtime.machine import cpu
from embedding_runtime.engines import onnx_session
if sys.argv[3] == "as if it had VNNI":
    onnx_session.cpu_kind = lambda: "x86-vnni"
from embedding_runtime import Embedder
texts = json.loads(sys.argv[2])
with Embedder.load(sys.argv[1], precision=sys.argv[4], threads=1) as embedder:
    out = io.BytesIO()
    np.save(out, [embedder.encode(texts), [embedder.encode(text) for text in texts]])
print(base64.b64encode(out.getvalue()).decode())
"""

# A process that takes itself for a Raspberry Pi 4.
PRETENDING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from machines import another_cpu
from embedding_runtime import Embedder
from embedding_runtime.machine.cpu import cpu_kind
with another_cpu("aarch64", "Features : fp asimd\\n", Path(sys.argv[3])):
    with Embedder.load(sys.argv[1], precision="int8", threads=1) as embedder:
        print(cpu_kind(), embedder.check_golden())
"""


@pytest.fixture
def emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that runs Python code on such a CPU."""
    before = avx2_machine.command()
    if before is None:
        pytest.skip("needs Linux on x86-64, and a CPU whose CPUID can trap (with cc) or qemu-user-static")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return [*before, sys.executable, "-c"]


def test_a_product_is_exact(emulated: list[str]) -> None:
    done = subprocess.run([*emulated, PRODUCT], capture_output=True, text=True, check=True)
    bare, ours = map(int, done.stdout.split())
    assert bare > 0, "this CPU does not saturate: the test shows nothing"
    assert ours == 0


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("haswell") / "bundle"
    export_bundle(
        load_checkpoint(tiny_checkpoint), folder, ExportOptions(("fp32", "int8", "int8_q4", "int4")), assumed
    )
    return folder


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "int4"])
def test_a_bundle_gives_its_vectors(emulated: list[str], bundle: Path, precision: Precision) -> None:
    """Twice: the first load builds the device's cache and checks the golden vectors, the second reads it.

    Together and alone, to the last bit.
    """
    with Embedder.load(bundle, precision=precision, threads=1) as embedder:
        expected = embedder.encode(TEXTS)
    for _ in range(2):
        together, alone = vectors(emulated, bundle, "as it is", precision)
        assert np.sum(together * expected, axis=-1).min() > 0.9995
        np.testing.assert_array_equal(together, alone)


@pytest.fixture(scope="module")
def seven_bits_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, as if 7 bits changed its golden vectors little."""
    folder = tmp_path_factory.mktemp("haswell-seven") / "bundle"
    shutil.copytree(bundle, folder)
    document = json.loads((folder / "manifest.json").read_text())
    for graph in document["graphs"]:
        if graph["precision"] != "fp32":
            graph["golden_tolerance"][SEVEN_BITS] = 0.1
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "int4"])
def test_seven_bits_are_the_same_everywhere(
    emulated: list[str], seven_bits_bundle: Path, precision: Precision
) -> None:
    """What VNNI computes of the same codes: no sum saturated. Nor do 8 bits give this."""
    manifest = load_manifest(seven_bits_bundle)
    (graph,) = (g for g in manifest.graphs if g.precision == precision)
    here = OnnxSession(seven_bits_bundle / graph.file, 1, seven_bits=True)
    with Embedder.load(seven_bits_bundle, precision=precision, threads=1) as embedder:
        eight = embedder.encode(TEXTS)
        tokens = embedder.tokenize(TEXTS)
    (seven,) = here.run(tokens["input_ids"], tokens["attention_mask"], ("sentence_embedding",))
    for _ in range(2):
        together, alone = vectors(emulated, seven_bits_bundle, "as it is", precision)
        np.testing.assert_array_equal(together, alone)
        assert np.abs(together - seven).max() < np.abs(eight - seven).max() / 3


@pytest.fixture(scope="module")
def phone_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phone") / "bundle"
    options = ExportOptions(("int8", "int8_q4", "mixed"), formats=("litert",), buckets=(32, 256))
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "mixed"])
def test_litert_on_two_cpus_with_one_cache(
    emulated: list[str], phone_bundle: Path, precision: Precision, tmp_path: Path
) -> None:
    """Each has packed weights of its own; unguarded, the engine writes the other's file anew, in place."""
    with Embedder.load(phone_bundle, precision=precision, threads=1) as embedder:
        expected, graph = embedder.encode(TEXTS), phone_bundle / embedder.graph.file
    (mine,) = entries_folder().iterdir()
    before = identity(mine / WEIGHTS)
    for _ in range(2):
        together, alone = vectors(emulated, phone_bundle, "as it is", precision)
        np.testing.assert_allclose(together, expected, atol=1e-2)
        np.testing.assert_array_equal(together, alone)
    assert identity(mine / WEIGHTS) == before
    (theirs,) = {*entries_folder().iterdir()} - {mine}
    shutil.copyfile(theirs / WEIGHTS, tmp_path / WEIGHTS)
    with pytest.raises(EngineError, match="rewrote"):
        open_packed(tmp_path, graph, 1, 0)
    assert (tmp_path / WEIGHTS).read_bytes() != (theirs / WEIGHTS).read_bytes()


def identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def vectors(
    emulated: list[str], bundle: Path, how: str, precision: Precision = "int8"
) -> NDArray[np.float32]:
    """Of the texts together, and of each alone: (2, texts, dim)."""
    command = [*emulated, VECTORS, str(bundle), json.dumps(TEXTS), how, precision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: NDArray[np.float32] = np.load(io.BytesIO(base64.b64decode(done.stdout)))
    return found


def test_graphs_run_with_the_real_cpu_s_settings(emulated: list[str], bundle: Path, tmp_path: Path) -> None:
    """Also in tests that pretend to be on another CPU, on which nothing saturates."""
    command = [*emulated, PRETENDING, str(bundle), str(Path(machines.__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, difference = done.stdout.split()
    assert kind == "arm"
    assert float(difference) < 1e-2


# The oldest version that pyproject.toml allows, the last that ends the process, the first that does not.
VERSIONS = {"1.22.0": False, "1.29.0": False, "1.30.0": True}


@pytest.fixture(scope="module", params=VERSIONS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version of onnxruntime and a folder with it, which goes before the installed one."""
    version, folder = str(request.param), tmp_path_factory.mktemp("engine")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, f"onnxruntime=={version}"], check=True, capture_output=True)
    return version, folder


OPENED = """
import sys
sys.path.insert(0, sys.argv[2])
import onnxruntime
from embedding_runtime import Embedder, EngineError
from embedding_runtime.engines import registry as engines
if sys.argv[4] == "unguarded":
    engines._FLOORS.clear()
try:
    with Embedder.load(sys.argv[1], precision=sys.argv[3], threads=1) as embedder:
        print(onnxruntime.__version__, "off by", embedder.check_golden())
except EngineError as e:
    print(onnxruntime.__version__, "refused:", e)
"""


def opened(python: list[str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*python, *map(str, arguments)], capture_output=True, text=True)


def test_no_version_ends_the_process(emulated: list[str], bundle: Path, engine: tuple[str, Path]) -> None:
    """int8 is refused before a session is opened where opening one would be the end."""
    version, folder = engine
    done = opened([*emulated, OPENED], bundle, folder, "int8", "guarded")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{version} {'off by' if VERSIONS[version] else 'refused:'}")
    assert VERSIONS[version] or "pip install 'onnxruntime>=1.30.0'" in done.stdout
    bare = opened([*emulated, OPENED], bundle, folder, "int8", "unguarded")
    assert (bare.returncode == 0) == VERSIONS[version], "the floor is not where it was measured"


def test_with_seven_bits_every_version_runs_int8(
    emulated: list[str], seven_bits_bundle: Path, engine: tuple[str, Path]
) -> None:
    """Nothing has to be rewritten then, which is what ends the process before 1.30."""
    version, folder = engine
    done = opened([*emulated, OPENED], seven_bits_bundle, folder, "int8", "guarded")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{version} off by")


def test_what_every_version_runs(emulated: list[str], bundle: Path, engine: tuple[str, Path]) -> None:
    """fp32 without VNNI, and everything on the CPU that this is."""
    version, folder = engine
    here = [sys.executable, "-c"]
    runs = [([*emulated, OPENED], "fp32"), ([*here, OPENED], "fp32"), ([*here, OPENED], "int4")]
    if VERSIONS[version] or cpu_kind() != "x86":
        runs.append(([*here, OPENED], "int8"))
    for python, precision in runs:
        done = opened(python, bundle, folder, precision, "guarded")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{version} off by"), (precision, done.stdout)


def test_the_golden_vector_shows_saturation(emulated: list[str], bundle: Path) -> None:
    """With the CPU taken for one that has VNNI, the first load refuses what it computes."""
    with pytest.raises(AssertionError, match="off by"):
        vectors(emulated, bundle, "as if it had VNNI")
