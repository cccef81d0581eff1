"""The runtime on a 64-bit ARM board, emulated, from the real wheels: `make test-arm`.

Three kinds of CPU: without dot products (Raspberry Pi 4), with them (Raspberry Pi 5), and with 8-bit matrix
products too. Emulated times say nothing about a board's.
"""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from arm.board import CPUS, Board, NoBoardError, prepare, state_of
from conftest import assumed
from onnx import TensorProto, helper, numpy_helper

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import load_manifest

pytestmark = pytest.mark.arm
ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build" / "arm"
SUPPORT = ROOT / "tests/support"
VECTORS = SUPPORT / "other_cpus/arm/vectors.py"
# The runtime's own tests: those that need nothing but the runtime and the bundles.
MODULES = {
    "cortex-a72": ("bundle", "integrity", "overflow", "prompts", "threads", "tokenizer_bpe"),
    "cortex-a76": ("integrity", "overflow", "prompts"),
    "neoverse-v1,sve=off": ("bundle",),
}
# Tests that say something of the machine they run on, or of tools that are not on the board.
LEFT_OUT = "not test_kind_of_cpu"
# Largest difference of a component to x86, and the least cosine. The sums of floats differ in their last
# digits; where activations are rounded to 8 bits, a value on an edge then falls on the other side. The same
# integer products are exact everywhere.
BOUNDS = {
    "onnx/fp32": (2e-6, 1 - 1e-6),
    "onnx/fp16": (2e-6, 1 - 1e-6),
    "onnx/int8": (1e-2, 0.9995),
    "onnx/int8_q4": (1e-2, 0.9995),
    "onnx/int4": (1e-2, 0.9995),
    "litert/int8": (1e-2, 0.9995),
}


@pytest.fixture(scope="module")
def board() -> Board:
    """One board for all test processes; the first installs on it."""
    try:
        found = prepare(BUILD)
    except NoBoardError as e:
        pytest.skip(str(e))
    with (BUILD / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install(found, BUILD / "site")
    return found


def install(board: Board, site: Path) -> None:
    """The board's wheelhouse, unpacked for it here; and pytest."""
    wheelhouse = BUILD / "wheelhouse"
    wheel = ["ARCH=aarch64", f"PYTHON={board.python}", "EXTRAS=litert", f"WHEELHOUSE={wheelhouse}"]
    state = state_of(ROOT / "runtime/embedding_runtime")
    if not (site / state).exists():
        shutil.rmtree(site, ignore_errors=True)
        run(["make", "-s", "wheelhouse", *wheel])
        tags = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
        platforms = [word for tag in tags for word in ("--platform", f"{tag}_aarch64")]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *platforms]
        options = ["--python-version", board.python, "--target", str(site), "--find-links", str(wheelhouse)]
        run([*pip, *options, "embedding-edge[litert]", "pytest==9.2.0"])
        (site / state).touch()


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def bundles(
    tiny_checkpoint: Path, tiny_bundle: Path, litert_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with every bundle that runs on the board, and a model of one integer product."""
    folder = tmp_path_factory.mktemp("arm")
    checkpoint = load_checkpoint(tiny_checkpoint)
    options = ExportOptions(precisions=("fp32", "fp16", "int8", "int8_q4", "int4"))
    export_bundle(checkpoint, folder / "vectors", options, assumed)
    options = ExportOptions(("int8",), formats=("litert",), buckets=(32, 128), existing="extend")
    export_bundle(checkpoint, folder / "vectors", options, assumed)
    for name, bundle in (("tiny", tiny_bundle), ("litert", litert_bundle)):
        subprocess.run(["cp", "-r", bundle, folder / name], check=True)
    (folder / "product.onnx").write_bytes(product())
    return folder


def product() -> bytes:
    """u8 x s8, of the size of the model's own."""
    weights = np.random.default_rng(1).integers(-127, 128, (768, 64)).astype(np.int8)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [value("x", TensorProto.UINT8, [None, 768])],
        [value("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def here(bundles: Path) -> dict[str, Any]:
    """The vectors that this machine gives."""
    out = bundles / "here.npz"
    program = [sys.executable, str(VECTORS), str(bundles / "vectors"), str(out)]
    subprocess.run([*program, str(bundles / "product.onnx")], check=True, capture_output=True)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def python(board: Board, bundles: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the board's Python with the runtime installed."""

    def start(cpu: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        if not board.has(cpu):
            pytest.skip(f"{board.emulator} does not know {cpu}, and no newer emulator can be fetched")
        settings = {"PYTHONPATH": str(BUILD / "site"), "XDG_CACHE_HOME": str(bundles / f"cache-{cpu}")}
        return board.run(cpu, arguments, {**settings, "OMP_NUM_THREADS": "1", **environment})

    return start


@pytest.mark.parametrize("cpu", CPUS)
def test_vectors_are_those_of_x86(
    cpu: str,
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    bundles: Path,
    here: dict[str, Any],
) -> None:
    """Every graph opens with all its checks, golden vectors among them, packed weights built and read."""
    out = bundles / f"{cpu}.npz"
    program = (VECTORS, bundles / "vectors", out, bundles / "product.onnx")
    done = python(cpu, *map(str, program))
    assert done.returncode == 0, done.stderr
    told, found = json.loads(done.stdout.splitlines()[-1]), dict(np.load(out))
    np.testing.assert_array_equal(found["product"], here["product"])
    assert told["cpu"] == CPUS[cpu]
    assert ("i8mm" in told["flags"]) == cpu.startswith("neoverse")
    assert len(told["refused"]) == (CPUS[cpu] == "arm"), "LiteRT needs dot products"
    for graph in load_manifest(bundles / "vectors").graphs:
        if graph.key not in found:
            assert "needs a CPU with dot-product instructions" in told["refused"][0]
            continue
        one, other = here[graph.key], found[graph.key]
        difference, cosine = float(np.abs(one - other).max()), float((one * other).sum(axis=1).min())
        batch = float(np.abs(found[f"{graph.key} batch"] - other).max())
        same = int((np.abs(one - other).max(axis=1) < 1e-6).sum())
        sys.stdout.write(
            f"{cpu} {graph.key}: largest difference to x86 {difference:.1e}, least cosine {cosine:.6f}, "
            f"{same} of {len(one)} texts within 1e-6; alone to batched {batch:.1e}; golden vectors "
            f"{told['golden'][graph.key]:.1e} of {graph.golden_tolerance}\n"
        )
        if graph.bit_stable:
            assert same >= len(one) / 2, "the manifest says that this graph computes the same everywhere"
        most, least = BOUNDS[graph.key]
        assert difference <= most
        assert batch <= most, "a padded row is summed in another order here: a value falls to the next step"
        assert cosine >= least


@pytest.mark.parametrize("cpu", CPUS)
def test_the_runtime_s_own_tests(
    cpu: str,
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    bundles: Path,
) -> None:
    modules = [str(next((ROOT / "tests").rglob(f"test_{name}.py"))) for name in MODULES[cpu]]
    options = ["-c", "/dev/null", "--rootdir", "/tmp", "-p", "no:cacheprovider", "--noconftest", "-q"]
    options += ["-p", "arm.given", "-k", LEFT_OUT, "--basetemp", str(bundles / f"temporary-{cpu}")]
    paths = ":".join(map(str, (BUILD / "site", *sorted(SUPPORT.iterdir()))))
    plugin = {"PYTHONPATH": paths, "ARM_BUNDLES": str(bundles), "PYTHONDONTWRITEBYTECODE": "1"}
    done = python(cpu, "-m", "pytest", *options, *modules, **plugin)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    sys.stdout.write(f"{cpu}: {done.stdout.strip().splitlines()[-1]}\n")
