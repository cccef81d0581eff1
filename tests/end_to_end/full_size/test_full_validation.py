"""The validator at full size: faults refused and named, in bounded time and memory. Prints figures."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import planted
import pytest
from conftest import gate_answers
from faulty_exports import FAULTS
from full_size import memory

from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import Precision
from embedding_validate.diagnosis import diagnosis
from embedding_validate.parity import parity, weights
from embedding_validate.parity.execution import Execution
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference

pytestmark = pytest.mark.full
Patch = pytest.MonkeyPatch
UP = (1152, 768)
# Fault -> the precision it is planted in, how, and how what is found must begin.
PLANTED: dict[str, tuple[Precision, Callable[[Patch], None], str]] = {
    "window off by one": ("fp32", FAULTS["window off by one"], "window off by one (too narrow)"),
    "Dense dropped": ("fp32", FAULTS["Dense dropped"], "all Dense stages missing"),
    "RoPE bases swapped": ("int8", FAULTS["RoPE bases swapped"], "RoPE bases swapped"),
    "scales x 1.1": (
        "int8",
        planted._changed(planted._larger_scales, planted.INT8, UP),
        "stored weights: all values x 1.1 (layers.0.mlp.",
    ),
}


@pytest.fixture(scope="module")
def reference(full_checkpoint: Path) -> Reference:
    return Reference.load(load_checkpoint(full_checkpoint))


@pytest.fixture(scope="module")
def answers(reference: Reference) -> Answers:
    """The gate's probes up to 600 tokens."""
    return gate_answers(reference, 600)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_refused_and_named(
    fault: str,
    full_checkpoint: Path,
    tmp_path: Path,
    reference: Reference,
    answers: Answers,
    monkeypatch: Patch,
) -> None:
    precision, plant, name = PLANTED[fault]
    bundle, started = tmp_path / "bundle", time.monotonic()
    with monkeypatch.context() as patch:
        plant(patch)
        patch.setattr(graphs, "audit_graph", lambda *_: 0)
        export_bundle(load_checkpoint(full_checkpoint), bundle, ExportOptions((precision,)), "checked below")
    report = parity.check(
        bundle,
        answers,
        execution=Execution(reference.checkpoint, answers),
        weights=partial(weights.compare_weights, reference.checkpoint),
    )
    assert not report.passed
    report = diagnosis.diagnose(bundle, report, reference, answers)
    names = [f.name for f in report.graphs[f"onnx/{precision}"].findings]
    print(f"\n{fault} in {precision}: {names}, {time.monotonic() - started:.0f} s with the export")
    assert len(names) == 1 and names[0].startswith(name)
    shutil.rmtree(bundle)


def test_validation_is_quick_and_small(
    full_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 and int8, in a process of their own, nothing cached: ≤ 5 minutes, ≤ 4 GB; then cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ExportOptions(("fp32", "int8"))
    export_bundle(load_checkpoint(full_checkpoint), tmp_path / "bundle", options, "checked below")
    arguments = [str(tmp_path / "bundle"), "--reference", str(full_checkpoint)]
    code = "import sys; from embedding_validate.cli import main; sys.exit(main(sys.argv[1:]))"
    for most_seconds in (300, 240):
        started = time.monotonic()
        running = subprocess.Popen([sys.executable, "-c", code, *arguments])
        peaks = {"RssAnon": 0, "VmRSS": 0}
        while running.poll() is None:
            for name, kb in memory(running.pid).items():
                peaks[name] = max(peaks[name], kb)
            time.sleep(0.05)
        seconds = time.monotonic() - started
        print(f"\n{seconds:.0f} s, peaks in kB: {peaks}")
        assert running.returncode == 0
        assert peaks["VmRSS"] <= 4_000_000
        assert seconds <= most_seconds
