"""Reads the named residuals inside an ONNX graph, and finds the first one that differs.

It works on graphs that our exporter built, which name the residual after each part of a layer. Needs onnx.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.onnx_session import create_session, session_options
from embedding_runtime.machine.threads import available_cpus

Floats = NDArray[np.float32]

# What graphs call the first residual, which no layer has added to.
EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Deviation:
    """The first residual whose relative error ‖a − b‖ / ‖b‖ exceeds a bound, and the error just before it."""

    name: str
    error: float
    error_before: float


class Layers:
    """A graph that runs with its residuals as outputs; `names` are the residuals that it has, in order."""

    def __init__(self, path: Path, names: Collection[str]) -> None:
        """Open the graph at `path`, set up as the runtime does; `names` are those of residuals.

        Raises:
            EngineError: onnxruntime does not load it.
        """
        import onnx  # not for LiteRT

        model = onnx.load(str(path), load_external_data=False)
        self.names = [n for node in model.graph.node for n in node.output if n in names]
        for name in self.names:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = session_options(available_cpus())
        self._session = create_session(model.SerializeToString(), options, path)

    def run(self, ids: Sequence[int]) -> dict[str, Floats]:
        """Residuals of one text by name, float32 (tokens, hidden), without the last block's padding."""
        batch = np.array([ids], dtype=np.int64)
        outputs = self._session.run(self.names, {"input_ids": batch, "attention_mask": np.ones_like(batch)})
        return {name: values[0][: len(ids)] for name, values in zip(self.names, outputs, strict=True)}


def first_deviation(
    path: Path, ids: Sequence[int], expected: Mapping[str, Floats], bound: float
) -> Deviation | None:
    """The first residual off by more than `bound`; None if there is none, or none of the names.

    `expected` maps names to float32 (tokens, hidden), in the order of computation.
    """
    residuals, before = Layers(path, expected).run(ids), 0.0
    for name, values in residuals.items():
        error = _relative(values, expected[name])
        if not error <= bound:
            return Deviation(name, error, before)
        before = error
    return None


def _relative(actual: Floats, expected: Floats) -> float:
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))
