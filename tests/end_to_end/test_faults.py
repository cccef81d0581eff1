"""The gate can fail: for each fault planted in the graph or the bundle, exit status 1 and no bundle.

The weight audit is switched off here, so that the comparison with the reference has to see every fault alone.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import planted
import pytest
from faulty_exports import FAULTS

from embedding_export import cli
from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.pipeline import Gate
from embedding_validate import gate as gate_module
from embedding_validate.gate import parity_gate

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def gate(tiny_checkpoint: Path) -> Gate:
    """The real gate, shared: the reference answers once."""
    return parity_gate(load_checkpoint(tiny_checkpoint))


@pytest.fixture
def export(tiny_checkpoint: Path, tmp_path: Path, gate: Gate, monkeypatch: Patch) -> Callable[..., int]:
    """Runs `export-embedding` into tmp_path/bundle, in fp32 if it is given no precision."""
    monkeypatch.setattr(gate_module, "parity_gate", lambda *_: gate)
    monkeypatch.setattr(graphs, "audit_graph", lambda *_: 0)
    paths = str(tiny_checkpoint), str(tmp_path / "bundle")
    return lambda precision="fp32": cli.main([*paths, "--precision", precision])


def test_a_sound_export_passes(export: Callable[[], int], tmp_path: Path) -> None:
    assert export() == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert [g["parity"]["status"] for g in manifest["graphs"]] == ["passed"]


@pytest.fixture(params=FAULTS, ids=lambda name: name.replace(" ", "-"))
def fault(request: pytest.FixtureRequest, monkeypatch: Patch) -> Iterator[str]:
    FAULTS[request.param](monkeypatch)
    yield request.param


def test_a_planted_fault_is_refused(
    fault: str, export: Callable[[], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export() == 1
    assert list(tmp_path.iterdir()) == [], "neither a bundle nor its temporary folder is left"
    err = capsys.readouterr().err
    assert "does not give the reference's vectors" in err


# Scales that are off by a tenth or swapped between two rows change little or nothing of a vector: those are
# the weight audit's (test_audit). What a file cannot show is in test_execution.
QUANTIZED = [
    "int8: unsigned bytes as signed",
    "int8: unsigned bytes as signed in the table",
    "int4: no zero points in the table",
    "int4: nibbles swapped",
    "int4: nibbles of the table swapped",
]


@pytest.mark.parametrize("fault", QUANTIZED)
def test_a_fault_of_quantization_is_refused(
    fault: str, export: Callable[[str], int], tmp_path: Path, monkeypatch: Patch
) -> None:
    precision, plant = planted.FAULTS[fault]
    plant(monkeypatch)
    assert export(precision) == 1
    assert list(tmp_path.iterdir()) == []
