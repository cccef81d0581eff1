"""From which size on an error is seen, by which question, per precision.

`python tests/support/checkpoints_and_exports/sensitivity.py DIR` prints it.
Errors are planted while graphs of the tiny stand-in in DIR are written; the table is in
validate/VALIDATION.md, and `test_sensitivity` holds parts of it.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written

from embedding_export.architectures import registry
from embedding_export.audit.audit import differences
from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.onnx import writer as to_onnx
from embedding_export.weights.folding import as_stored
from embedding_runtime.bundle import Precision
from embedding_validate.forward.interpreter import Interpreter
from embedding_validate.forward.rounded_ops import ROUNDINGS
from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import execution_threshold, threshold
from embedding_validate.parity.execution import Halves

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
QUESTIONS = ("weights", "execution", "loss")
LENGTHS = [3, 8, 12, 16, 20, 24, 30, 40, 50, 60]
SIZES = (1e-6, 1e-5, 1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LAYER = "layers.1."


@dataclass(frozen=True)
class Planted:
    """A checkpoint and a configuration to write a graph from, in place of the true ones."""

    checkpoint: Checkpoint
    config: Callable[[Any], Any] = lambda config: config


def _scaled(name: str) -> Callable[[Checkpoint, float], Planted]:
    def plant(c: Checkpoint, size: float) -> Planted:
        values = c.tensors[name].array() * np.float32(1 + size)
        return Planted(written.with_tensors(c, {name: values}))

    return plant


def _w_scaled(name: str) -> Callable[[Checkpoint, float], Planted]:
    """Of a gain, 1 + w."""

    def plant(c: Checkpoint, size: float) -> Planted:
        values = 1 + (c.tensors[name].array() - 1) * np.float32(1 + size)
        return Planted(written.with_tensors(c, {name: values}))

    return plant


def _one_row(name: str) -> Callable[[Checkpoint, float], Planted]:
    def plant(c: Checkpoint, size: float) -> Planted:
        values = np.array(c.tensors[name].array())
        values[3] *= 1 + size
        return Planted(written.with_tensors(c, {name: values}))

    return plant


def _config(field: str) -> Callable[[Checkpoint, float], Planted]:
    def plant(c: Checkpoint, size: float) -> Planted:
        return Planted(c, lambda x: dataclasses.replace(x, **{field: getattr(x, field) * (1 + size)}))

    return plant


def _local_base(c: Checkpoint, size: float) -> Planted:
    return Planted(c, lambda x: written.with_local(x, rope_theta=x.local_layer.rope_theta * (1 + size)))


def _window(c: Checkpoint, size: float) -> Planted:
    return Planted(c, lambda x: written.with_local(x, window=x.window + round(size)))


# What is multiplied by 1 + size (the window: grows by size).
ERRORS: dict[str, Callable[[Checkpoint, float], Planted]] = {
    "gate projection": _scaled(f"{LAYER}mlp.gate_proj.weight"),
    "w of a norm": _w_scaled(f"{LAYER}input_layernorm.weight"),
    "table": _scaled("embed_tokens.weight"),
    "one row of a value projection": _one_row(f"{LAYER}self_attn.v_proj.weight"),
    "output projection": _scaled(f"{LAYER}self_attn.o_proj.weight"),
    "down projection": _scaled(f"{LAYER}mlp.down_proj.weight"),
    "query projection": _scaled(f"{LAYER}self_attn.q_proj.weight"),
    "last Dense": _scaled("dense.1.weight"),
    "RoPE base, computed": _local_base,
    "epsilon of the norms, computed": _config("rms_norm_eps"),
    "window, computed": _window,
}


@contextmanager
def _graph(planted: Planted, precision: Precision) -> Iterator[Path]:
    true = registry.encode

    def encode(ops: Any, config: Any, dense: Any, normalize: bool) -> Any:
        return true(ops, planted.config(config), dense, normalize)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "encode", encode)
        path = written.write(planted.checkpoint, Path(folder), precision)
        patch.undo()
        yield path


def seen(checkpoint: Checkpoint, planted: Planted, precision: Precision) -> set[str]:
    """The questions that refuse a graph written from what was planted, held against the true checkpoint."""
    with _graph(planted, precision) as path:
        found = {"weights"} if differences(path, checkpoint)[1] else set()
        texts = written.texts(checkpoint, LENGTHS)
        vectors = [written.run(path, [t])[0] for t in texts]
        reference = [written.reference(checkpoint, as_stored(checkpoint), t) for t in texts]
        cosines = [metrics.cosine(a, b) for a, b in zip(reference, vectors, strict=True)]
        limits = threshold(precision, random_weights=True)
        missed = [limits.failures(1.0, Figures.of(a, b)) for a, b in zip(reference, vectors, strict=True)]
        if any(missed) or np.mean(cosines) < limits.cosine_mean:
            found.add("loss")
        if precision != "fp32" and _not_executed(checkpoint, path, precision, texts, vectors):
            found.add("execution")
    return found


def _not_executed(checkpoint: Checkpoint, path: Path, precision: Precision, texts: Any, vectors: Any) -> bool:
    limits, weights = execution_threshold("onnx", precision), dequantized(path, checkpoint)
    if precision not in ROUNDINGS:
        own = Interpreter(checkpoint.config, weights, checkpoint.normalize)
        right = [own.vectors(own.sound, [t.tolist()])[0] for t in texts]
        return any(limits.failures(1.0, Figures.of(a, b)) for a, b in zip(right, vectors, strict=True))
    halves = Halves(checkpoint, weights, path)
    rounding = halves.rounding(texts[0].tolist(), precision)
    for text, vector in zip(texts, vectors, strict=True):
        executed = halves.executed(halves.sound, text.tolist(), rounding)
        if executed.update_error > (limits.update_error or 0.0):
            return True
        if limits.failures(1.0, Figures.of(executed.vector, vector)):
            return True
    return False


def smallest(checkpoint: Checkpoint, error: str, precision: Precision) -> dict[str, float]:
    """For each question the least of SIZES from which on it sees the error; none where it never does."""
    found: dict[str, float] = {}
    left = set(QUESTIONS)
    for size in reversed(SIZES if error != "window, computed" else (1.0,)):
        left &= seen(checkpoint, ERRORS[error](checkpoint, size), precision)
        found |= dict.fromkeys(left, size)
        if not left:
            break
    return found


def main() -> None:
    """Print the table as Markdown."""
    checkpoint = load_checkpoint(sys.argv[1])
    lines = [f"| multiplied by 1 + e | {' | '.join(PRECISIONS)} |", "|---" * (1 + len(PRECISIONS)) + "|"]
    for error in ERRORS:
        cells = []
        for precision in PRECISIONS:
            found = smallest(checkpoint, error, precision)
            cells.append(", ".join(f"{q} {found[q]:g}" for q in QUESTIONS if q in found) or "unseen")
        lines.append(f"| {error} | {' | '.join(cells)} |")
        sys.stdout.write(lines[-1] + "\n")
    sys.stdout.write("\n".join(["", *lines, ""]))


if __name__ == "__main__":
    main()
