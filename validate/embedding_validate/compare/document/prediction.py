"""Predictions in `compare.json`, and the device's rates that they rest on, as frozen dataclasses.

Nothing here was measured on a graph: `compare.cost` counts its work, and prices it.
"""

from dataclasses import dataclass
from typing import Literal

Engine = Literal["onnx", "litert"]


@dataclass(frozen=True)
class DeviceProfile:
    """Rates of one engine on so many threads of one device.

    `macs_per_s` by kind of product and rows; `bytes_per_s` of weights from memory; `element_s` by kind;
    `operator_s` what an operator takes at least; `cache_bytes` of a core's own cache;
    `benchmark_s` how long this took.
    """

    engine: Engine
    threads: int
    macs_per_s: dict[str, dict[str, float]]
    bytes_per_s: float
    element_s: dict[str, float]
    operator_s: float
    cache_bytes: int
    benchmark_s: float


@dataclass(frozen=True)
class Prediction:
    """What one text of so many tokens costs a graph, counted in its file, and how long that should take.

    `macs` are multiply-accumulates by kind of product; `weight_bytes` are read of the file, `moved_bytes` of
    tensors that the run computes.
    """

    system: str
    threads: int
    tokens: int
    macs: dict[str, int]
    weight_bytes: int
    moved_bytes: int
    predicted_ms: float
