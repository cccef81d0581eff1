"""The smallest planted errors are seen in fp32; and what no vector can show is known, not hoped for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sensitivity
from faulty_exports import with_weights, with_window

from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.weights.folding import ArrayWeight
from embedding_runtime.bundle import Precision
from embedding_validate.parity import parity
from embedding_validate.reference.answers import Answers

Patch = pytest.MonkeyPatch


def _scaled(name: str, factor: float) -> Callable[[Patch], None]:
    return with_weights(lambda tensors: {name: ArrayWeight(tensors[name].array() * np.float32(factor))})


def _w_scaled(name: str, factor: float) -> Callable[[Patch], None]:
    """Of a gain, 1 + w."""
    return with_weights(
        lambda tensors: {name: ArrayWeight(1 + (tensors[name].array() - 1) * np.float32(factor))}
    )


def _one_row(name: str, factor: float) -> Callable[[Patch], None]:
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        values = np.array(tensors[name].array())
        values[3] *= factor
        return {name: ArrayWeight(values)}

    return with_weights(change)


SEEN = {
    "gate x 1.02": _scaled("layers.1.mlp.gate_proj.weight", 1.02),
    "w of a norm x 1.02": _w_scaled("layers.2.input_layernorm.weight", 1.02),
    "table x 1.02": _scaled("embed_tokens.weight", 1.02),
    "value x 1.02 in one row": _one_row("layers.0.self_attn.v_proj.weight", 1.02),
    "window one too narrow": with_window(lambda window: window - 1),
    "window one too wide": with_window(lambda window: window + 1),
}
# The norm that follows takes any common factor away: only the weight audit sees these.
UNSEEN = {
    "output projection x 1.1": _scaled("layers.0.self_attn.o_proj.weight", 1.1),
    "down projection x 1.1": _scaled("layers.1.mlp.down_proj.weight", 1.1),
    "up projection x 1.1": _scaled("layers.1.mlp.up_proj.weight", 1.1),
    "query x 1.1": _scaled("layers.2.self_attn.q_proj.weight", 1.1),
    "value x 1.1": _scaled("layers.2.self_attn.v_proj.weight", 1.1),
    "Dense x 1.1": _scaled("dense.0.weight", 1.1),
}


def _status(plant: Callable[[Patch], None], folder: Path, answers: Answers, patch: Patch) -> str:
    plant(patch)
    patch.setattr(graphs, "audit_graph", lambda *_: 0)
    checkpoint = load_checkpoint(folder.parent / "checkpoint")
    export_bundle(checkpoint, folder, ExportOptions(precisions=("fp32",)), "checked by the test itself")
    return parity.check(folder, answers).graphs["onnx/fp32"].status


@pytest.mark.parametrize("name", SEEN)
def test_small_errors_are_seen(name: str, editable: Path, answers: Answers, monkeypatch: Patch) -> None:
    assert _status(SEEN[name], editable.parent / "bundle", answers, monkeypatch) == "failed"


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_norm_cancels_no_vector_shows(
    name: str, editable: Path, answers: Answers, monkeypatch: Patch
) -> None:
    assert _status(UNSEEN[name], editable.parent / "bundle", answers, monkeypatch) == "passed"


# Of validate/VALIDATION.md's table, what each precision's questions see and what they do not.
QUANTIZED: dict[tuple[str, Precision, float], set[str]] = {
    ("gate projection", "int8", 0.2): {"weights"},
    ("gate projection", "int8", 1.0): {"weights", "loss"},
    ("output projection", "int8", 0.2): {"weights"},
    ("output projection", "int4", 0.2): {"weights"},
    ("table", "int4", 0.1): {"weights"},
    ("table", "int4", 1.0): {"weights", "loss"},
    ("RoPE base, computed", "int8", 0.02): {"execution"},
    ("RoPE base, computed", "int8", 0.001): set(),
    ("RoPE base, computed", "int4", 0.02): {"execution"},
    ("window, computed", "int8", 1.0): {"execution", "loss"},
    ("window, computed", "int4", 1.0): {"execution"},
}


@pytest.mark.parametrize(("error", "precision", "size"), QUANTIZED)
def test_what_each_question_sees(
    error: str, precision: Precision, size: float, tiny_checkpoint: Path
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    planted = sensitivity.ERRORS[error](checkpoint, size)
    assert sensitivity.seen(checkpoint, planted, precision) == QUANTIZED[error, precision, size]
