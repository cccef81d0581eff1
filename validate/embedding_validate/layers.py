"""The first place inside an ONNX graph that differs: its named residuals against the encoder's.

Works on graphs that our exporter built, which name the residual after each half of a layer. Needs onnx.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Deviation:
    """The first residual whose relative error ‖a − b‖ / ‖b‖ passes a bound, and the error just before."""

    name: str
    error: float
    error_before: float

    @property
    def layer(self) -> int:
        """The number in `layers.N.attention` or `layers.N.output`."""
        return int(self.name.split(".")[1])


def first_deviation(
    path: Path, ids: Sequence[int], expected: Mapping[str, Floats], bound: float
) -> Deviation | None:
    """Run the graph with its residuals as outputs; None when it has no such names, or all are within `bound`.

    `expected` maps names to float32 (tokens, hidden), in the order of computation.
    """
    model = onnx.load(str(path), load_external_data=False)
    known = {name for node in model.graph.node for name in node.output}
    names = [n for n in expected if n in known]
    if not names:
        return None
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    batch = np.array([ids], dtype=np.int64)
    found = session.run(names, {"input_ids": batch, "attention_mask": np.ones_like(batch)})
    before = 0.0
    for name, values in zip(names, found, strict=True):
        error = _relative(values[0][: len(ids)], expected[name])
        if not error <= bound:
            return Deviation(name, error, before)
        before = error
    return None


def _relative(found: Floats, expected: Floats) -> float:
    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))
