"""The account of a graph's time: its parts, and in a comparison of a tiny bundle."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import load_manifest
from embedding_validate.compare import cli as compare
from embedding_validate.compare.measure import gemm_account
from embedding_validate.compare.measure.gemm_account import PLACES, matrices, places_of

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(("int8",)), assumed)
    return folder


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_account, "_SECONDS", 0.01)


def test_an_account_sums_up(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    arguments = [str(bundle), "--threads", "1", "--lengths", "8,2x16", "--seconds", "0.05", "--rounds", "3"]
    asked = ["--account", "onnx/int8", "--per-tensor", "--output", str(tmp_path / "out")]
    assert compare.main([*arguments, *asked]) == 0
    (run,) = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"]
    accounts = run["accounts"]
    assert [(a["system"], a["threads"], a["shape"]) for a in accounts] == [
        ("onnx/int8", 1, "8"),
        ("onnx/int8", 1, "2x16"),
    ]
    for found in accounts:
        assert tuple(sorted(found["places"])) == tuple(sorted(PLACES))
        assert sum(found["places"].values()) == pytest.approx(found["total"])
        assert min(found["places"].values()) > 0
        assert found["of_peak"] == pytest.approx(found["at_peak"] / found["total"])
        assert found["at_peak"] == pytest.approx(1e3 * found["operations"] / found["peak_operations_per_s"])
    assert accounts[1]["operations"] == 4 * accounts[0]["operations"]
    assert "| where the time goes, ms |" in capsys.readouterr().err
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "Where the time goes" in page and "<th>quantizing</th>" in page
    # beside it, the same graph with one scale per tensor: another rounding of the same model
    by = {c["system"]: c for c in run["cases"] if c["tokens"] == 16}
    assert list(by) == ["onnx/int8", "onnx/int8 per tensor"]
    accuracy = next(o["accuracy"] for o in run["openings"] if o["system"] == "onnx/int8 per tensor")
    assert 0.3 < accuracy["minimum"] < 0.999999


def test_the_encoders_matrices(bundle: Path) -> None:
    """Hidden 64, four heads of 32 and one for keys and values, 96 in the feed-forward; five layers."""
    graph = next(g for g in load_manifest(bundle).graphs if g.precision == "int8")
    expected = {(64, 128): 5, (64, 32): 10, (128, 64): 5, (64, 96): 10, (96, 64): 5}
    assert matrices(bundle / graph.file) == expected


def test_a_profile_by_places() -> None:
    """Of the median run after the first; other events and other runs do not count."""

    def node(at: int, name: str, operator: str, us: int) -> dict[str, Any]:
        event = {"cat": "Node", "ts": at, "dur": us, "args": {"op_name": operator}}
        return {**event, "name": f"{name}_kernel_time"}

    events = [{"name": "model_run", "ts": 1000 * i, "dur": us} for i, us in enumerate((900, 100, 300, 200))]
    events += [node(5, "node:layers.0.mlp.up_proj", "MatMulIntegerToFloat", 800)]
    events += [
        node(3001, "node:layers.0.mlp.up_proj", "MatMulIntegerToFloat", 50),
        node(3060, "node:MatMulIntegerToFloat_9", "MatMulIntegerToFloat", 20),
        node(3081, "node:layers.0.output", "Add", 5),
        node(3090, "node:Add_7", "Add", 6),
        node(3100, "node:Reshape_4", "Reshape", 7),
        {"cat": "Node", "name": "node:Reshape_4_fence_before", "ts": 3101, "dur": 9, "args": {}},
    ]
    assert places_of(events) == {
        "weights": 0.05,
        "attention": pytest.approx(0.026),
        "quantizing": 0,
        "norms": 0,
        "elementwise": 0.005,
        "moving": 0.007,
        "between": pytest.approx(0.2 - 0.088),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--account", "onnx/fp32"], "--account has onnx/fp32; expected onnx/int8"),
        (["--account", "onnx/int8,litert/int8"], "--account has litert/int8"),
    ],
)
def test_what_has_no_account(
    bundle: Path, tmp_path: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    assert compare.main([str(bundle), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
