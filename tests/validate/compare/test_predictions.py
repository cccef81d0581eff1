"""The work counted in a graph's file is the configuration's and the engine's; predictions are labelled."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from embedding_runtime.bundle import BundleGraph, Manifest, bundle_graphs, load_manifest
from embedding_validate.compare import cli as compare
from embedding_validate.compare import predictions
from embedding_validate.compare.cost import litert_work, onnx_work
from embedding_validate.compare.cost.device import typical
from embedding_validate.compare.cost.predict import predicted_ms, rate
from embedding_validate.compare.cost.work import Step, Work
from embedding_validate.compare.document import store
from embedding_validate.compare.document.prediction import DeviceProfile

# Mean pooling of ONNX graphs sums runs of so many tokens.
POOLED_RUN = 64


def linear(manifest: Manifest) -> int:
    """Multiply-accumulates of the layers' matrices for one token, by the configuration."""
    a = manifest.architecture
    heads, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    attention = a.hidden_size * (2 * heads + 2 * keys)
    return a.num_hidden_layers * (attention + 3 * a.hidden_size * a.intermediate_size)


def attention(manifest: Manifest, tokens: int) -> int:
    """Of scores and what they weigh, where every token's keys are all tokens."""
    a = manifest.architecture
    return a.num_hidden_layers * 2 * a.num_attention_heads * a.head_dim * tokens**2


def dense(manifest: Manifest) -> int:
    """Of the Dense stages, which the exporter multiplies into one matrix where it can."""
    stages = [s for s in manifest.stages if s.type == "dense"]
    assert all(s.activation == "identity" and not s.bias for s in stages)
    return (stages[0].in_features or 0) * (stages[-1].out_features or 0)


def graph(folder: Path, key: str) -> BundleGraph:
    return next(g for g in bundle_graphs(folder, load_manifest(folder)) if g.key == key)


@pytest.mark.parametrize("tokens", [1, 16, 77, 512])
def test_onnx_macs_are_the_configuration_s(litert_bundle: Path, tokens: int) -> None:
    manifest, hidden = load_manifest(litert_bundle), load_manifest(litert_bundle).architecture.hidden_size
    pooling = -(-tokens // POOLED_RUN) * POOLED_RUN * hidden
    found = onnx_work.work_of(graph(litert_bundle, "onnx/fp32").path)(tokens).macs
    assert found["fp32"] == tokens * linear(manifest) + dense(manifest)
    assert found["scores"] == attention(manifest, tokens) + pooling
    int8 = onnx_work.work_of(graph(litert_bundle, "onnx/int8").path)(tokens).macs
    assert int8["int8"] == tokens * linear(manifest)
    assert int8["scores"] == found["scores"]


@pytest.mark.parametrize(("tokens", "bucket"), [(5, 32), (32, 32), (33, 64), (512, 512)])
def test_litert_macs_are_the_configuration_s(litert_bundle: Path, tokens: int, bucket: int) -> None:
    manifest, hidden = load_manifest(litert_bundle), load_manifest(litert_bundle).architecture.hidden_size
    found = litert_work.work_of(graph(litert_bundle, "litert/fp32").path)(tokens).macs
    assert found["fp32"] == bucket * linear(manifest) + dense(manifest)
    blocks = attention(manifest, bucket) + bucket * hidden
    assert found["scores"] == blocks if bucket < 512 else found["scores"] <= blocks
    int8 = litert_work.work_of(graph(litert_bundle, "litert/int8").path)(tokens).macs
    assert int8["int8"] == bucket * linear(manifest)


def test_too_long_for_a_file(litert_bundle: Path) -> None:
    with pytest.raises(ValueError, match="512 tokens at most, not 513"):
        litert_work.work_of(graph(litert_bundle, "litert/fp32").path)(513)


@pytest.mark.parametrize("key", ["onnx/fp32", "onnx/int8"])
@pytest.mark.parametrize("tokens", [9, 300, 700])
def test_onnx_macs_are_the_engine_s(litert_bundle: Path, key: str, tokens: int, tmp_path: Path) -> None:
    """Node for node what ONNX Runtime says that it multiplied, beyond the blocks' length too."""
    path = graph(litert_bundle, key).path
    if tokens > load_manifest(litert_bundle).max_seq_length:
        pytest.skip("the stand-in reads fewer tokens")
    counted = onnx_work.work_of(path)(tokens)
    assert sorted(macs(path, tokens, tmp_path)) == sorted(s.macs for s in counted.steps if s.macs)


def macs(path: Path, tokens: int, folder: Path) -> list[int]:
    """Of every product in a profile of one run, nothing optimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids = np.full((1, tokens), 7, np.int64)
    session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = []
    for event in events:
        arguments: dict[str, Any] = event.get("args", {})
        if arguments.get("op_name", "").startswith("MatMul") and event["name"].endswith("kernel_time"):
            (left,), (out,) = (
                list(arguments[name][0].values()) for name in ("input_type_shape", "output_type_shape")
            )
            found.append(math.prod(out) * left[-1])
    return found


def test_bytes_of_weights(litert_bundle: Path) -> None:
    """The matrices once, and for each token a row of the table, and of the rotations of queries and keys."""
    manifest = load_manifest(litert_bundle)
    a = manifest.architecture
    one, many = (onnx_work.work_of(graph(litert_bundle, "onnx/fp32").path)(n).weight_bytes for n in (1, 64))
    matrices = 4 * (linear(manifest) + dense(manifest))
    assert matrices < one < matrices * 1.2
    assert many - one == 63 * 4 * (a.hidden_size + a.num_hidden_layers * 2 * a.head_dim)


DEVICE = DeviceProfile(
    "onnx", 1, {"int8": {"16": 1e9, "64": 4e9}}, 1e9, {"arithmetic": 1e-9}, 1e-6, 1000, 1.0
)


def test_the_rate_of_so_many_rows() -> None:
    rates = DEVICE.macs_per_s["int8"]
    assert [rate(rates, n) for n in (8, 16, 32, 64, 999)] == pytest.approx([5e8, 1e9, 2e9, 4e9, 4e9])


def test_a_product_takes_what_takes_longer() -> None:
    def ms(weight_bytes: int) -> float:
        return predicted_ms(Work(64, (Step("MatMul", "int8", 4_000_000, 64, weight_bytes),)), DEVICE)

    assert ms(0) == ms(1000) == pytest.approx(1)
    assert ms(5_000_000) == pytest.approx(5)


def test_an_operator_takes_its_elements_or_what_all_take() -> None:
    few, many = (Work(1, (Step("Mul", "arithmetic", elements=n),) * 3) for n in (10, 5000))
    assert [predicted_ms(work, DEVICE) for work in (few, many)] == pytest.approx([3e-3, 15e-3])


def test_rates_of_different_times_meet_in_their_middle() -> None:
    """A machine that is slow once does not make every prediction slow."""
    slow, fast = (replace(DEVICE, operator_s=n, element_s={"arithmetic": n}) for n in (1e-3, 1e-12))
    found = typical([slow, DEVICE, fast])
    assert found == replace(DEVICE, benchmark_s=3.0)


def test_predictions_stand_beside_measurements(litert_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan = ["--graphs", "onnx/int8,litert/int8", "--threads", "1", "--lengths", "8,40,2x8"]
    quick = ["--seconds", "0.01", "--rounds", "1", "--predict"]
    assert compare.main([str(litert_bundle), "--output", str(output), *plan, *quick]) == 0
    (run,) = store.load(output / "compare.json").measured
    assert [d.engine for d in run.devices or ()] == ["onnx", "litert"]
    assert all(d.benchmark_s < 10 and d.bytes_per_s > 1e8 for d in run.devices or ())
    predicted = run.predictions or ()
    assert [(p.system, p.tokens) for p in predicted] == [
        ("onnx/int8", 8),
        ("onnx/int8", 40),
        ("litert/int8", 8),
        ("litert/int8", 40),
    ]
    assert all(0 < p.predicted_ms < 1000 for p in predicted)
    for name in ("compare.md", "compare.html"):
        shown = (output / name).read_text(encoding="utf-8")
        assert "Predicted, not measured" in shown and "4 were measured too" in shown
        assert "predicted ms" in shown


def test_what_cannot_be_counted_is_named(litert_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"embedding-edge\[export\]"):
        predictions.check({"onnx/int8": graph(litert_bundle, "onnx/int8")})


@pytest.mark.parametrize(("engine", "most"), [("onnx", 320), ("litert", 320)])
def test_rates_are_found_in_little_memory(engine: str, most: int) -> None:
    """Small boards have 1 GB. The weights of one probe are in memory all the same, each at a place of its
    own, or the rates would be those of the caches."""
    program = (
        "import re, sys, pathlib\n"
        "from embedding_validate.compare.cost import device, probes_onnx, probes_litert\n"
        "def megabytes(name):\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(name + r':\\s+(\\d+)', status)[1]) / 1024\n"
        "modules = {'onnx': probes_onnx, 'litert': probes_litert}\n"
        "timed = modules[sys.argv[1]].probes(1, ['int8'])\n"
        "small = timed.products['int8'][1024]()\n"
        "small()\n"
        "before = megabytes('VmRSS')\n"
        "many = timed.products['int8'][16]()\n"
        "many()\n"
        "after = megabytes('VmRSS')\n"
        "del small, many\n"
        "device.profile(sys.argv[1], 1, ['int8'])\n"
        "weights = device.MATRICES * device.INNER * device.COLUMNS / 1024**2\n"
        "print((after - before) / weights, megabytes('VmHWM'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, engine], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held, peak = map(float, done.stdout.split())
    assert held > 1
    assert peak < most
