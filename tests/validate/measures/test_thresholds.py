"""Which floors a checkpoint is held to: those of trained weights, or of random ones where it says so."""

import json
from pathlib import Path

import pytest

from embedding_export import cli
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_runtime.bundle import load_manifest
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import FLOORS, LOSS, RANDOM_LOSS, bounds, threshold

# google/embeddinggemma-300m against its reference over the gate's texts, LiteRT's seven lengths among them:
# the least cosine and the mean.
LOSS_MEASURED = {
    "onnx/int8": (0.99193, 0.99925),
    "litert/int8": (0.99741, 0.99954),
    "onnx/int8_q4": (0.96835, 0.99725),
    "litert/int8_q4": (0.97291, 0.99653),
    "litert/mixed": (0.86453, 0.98933),
    "onnx/int4": (0.92470, 0.99334),
    "litert/int4": (0.95272, 0.98645),
}


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "mixed", "int4"])
def test_floors_are_near_what_the_trained_model_loses(precision: str) -> None:
    """Room for other CPUs and texts, and not so much that half as good a graph would pass unseen."""
    floor = LOSS[precision]
    measured = [m for key, m in LOSS_MEASURED.items() if key.endswith(f"/{precision}")]
    for allowed, losses in (
        (1 - floor.cosine_min, [1 - least for least, _ in measured]),
        (1 - floor.cosine_mean, [1 - mean for _, mean in measured]),
    ):
        assert 1.45 * max(losses) < allowed < 3 * max(losses)


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
