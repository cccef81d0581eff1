"""The table of precisions: data, not code."""

from dataclasses import dataclass

from embedding_runtime.bundle import Precision


@dataclass(frozen=True)
class PrecisionRow:
    """How one precision stores and computes, and how far it may stray.

    `golden_tolerance` is the largest absolute difference to a golden vector that a sound engine may show,
    per kind of CPU ("any" where one figure serves all): the order of summation differs between CPUs, no more.
    """

    onnx_file: str
    bytes_per_parameter: float
    recipe: dict[str, str]
    golden_tolerance: dict[str, float]


PRECISIONS: dict[Precision, PrecisionRow] = {
    "fp32": PrecisionRow(
        onnx_file="model.onnx",
        bytes_per_parameter=4.0,
        recipe={"weights": "float32", "table": "float32", "activations": "float32", "dense": "folded"},
        golden_tolerance={"any": 1e-4},
    ),
}
