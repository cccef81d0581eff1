"""The work of one run of a graph, operator by operator: multiply-accumulates and bytes.

Pure dataclasses; `onnx_work` and `litert_work` count them in files.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "int8", "int4", "fp32", "scores", "softmax", "gelu", "norm", "quantize", "arithmetic", "moving"
]
"""`int8`, `int4` and `fp32` are products with weights, by how these are stored; `scores` products of two
tensors that a run computes; the others what runs over each element."""

PRODUCTS: tuple[Kind, ...] = ("int8", "int4", "fp32", "scores")


@dataclass(frozen=True)
class Step:
    """One operator of a run.

    `macs` are multiply-accumulates, of products alone; `rows` the rows of the left operand (of one matrix);
    `weight_bytes` what is read of the file; `elements` what it writes, `moved_bytes` what it reads and writes
    of tensors that a run computes.
    """

    operator: str
    kind: Kind
    macs: int = 0
    rows: int = 0
    weight_bytes: int = 0
    elements: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class Work:
    """All operators of one run, of one text of so many tokens."""

    tokens: int
    steps: tuple[Step, ...]

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates by kind of product; kinds without any are left out."""
        by_kind: dict[str, int] = defaultdict(int)
        for step in self.steps:
            if step.macs:
                by_kind[step.kind] += step.macs
        return dict(by_kind)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that the run reads."""
        return sum(step.weight_bytes for step in self.steps)

    @property
    def moved_bytes(self) -> int:
        """Bytes of tensors that the run reads and writes beside them, in memory or a CPU's caches."""
        return sum(step.moved_bytes for step in self.steps)
