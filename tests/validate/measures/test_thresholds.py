"""Which floors a checkpoint is held to: those of trained weights, or of random ones where it says so."""

import json
from pathlib import Path

import pytest

from embedding_export import cli
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_runtime.bundle import load_manifest
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import FLOORS, LOSS, RANDOM_LOSS, bounds, threshold


def test_floors_of_trained_weights_are_the_stricter() -> None:
    assert LOSS.keys() == RANDOM_LOSS.keys()
    for precision, strict in LOSS.items():
        loose = RANDOM_LOSS[precision]
        assert strict.cosine_min >= loose.cosine_min
        assert strict.cosine_mean >= loose.cosine_mean
        assert strict.norm_error <= loose.norm_error
    assert all(LOSS[p].cosine_min > RANDOM_LOSS[p].cosine_min for p in ("int8", "int8_q4", "int4", "mixed"))


def test_four_bits_that_lose_a_sixth_are_refused() -> None:
    """A cased copy of the demo passed with a mean cosine of 0.83."""
    assert threshold("int4").cosine_mean > 0.83
    assert threshold("int4").failures(1.0, Figures(0.75, 0.1, 0.0, True))
    assert not threshold("int4", random_weights=True).failures(1.0, Figures(0.75, 0.1, 0.0, True))
    assert bounds("int4")["cosine_mean"] > bounds("int4", random_weights=True)["cosine_mean"]


@pytest.mark.parametrize("random", [True, False])
def test_the_verdict_says_which_floors(
    editable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], random: bool
) -> None:
    config = json.loads((editable / "config.json").read_text())
    (editable / "config.json").write_text(json.dumps(config | {"random_weights": random}))
    assert load_checkpoint(editable).source.random_weights is random
    assert cli.main([str(editable), str(tmp_path / "bundle"), "--precision", "fp32"]) == 0
    (graph,) = load_manifest(tmp_path / "bundle").graphs
    assert graph.parity.floors == FLOORS[random]
    assert f"floors of {FLOORS[random]}" in capsys.readouterr().err
