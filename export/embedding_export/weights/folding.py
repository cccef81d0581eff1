"""The weights that a graph builder reads: the checkpoint's tensors; Dense stages are folded if exact."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.files.tensors import Tensor

# Rows of a table held in memory at a time.
TABLE_ROWS = 8192


class Weight(Protocol):
    """One tensor, readable in row blocks so that the table is never in memory as a whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; linears are [out, in]."""

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start:stop` as float32."""

    def array(self) -> NDArray[np.float32]:
        """The whole tensor as float32."""


@dataclass(frozen=True)
class ArrayWeight:
    """A weight computed here, held in memory."""

    values: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.values.shape

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start:stop`."""
        return self.values[start:stop]

    def array(self) -> NDArray[np.float32]:
        """The whole tensor."""
        return self.values


@dataclass(frozen=True)
class Weights:
    """Named weights, and the Dense stages that use them."""

    tensors: Mapping[str, Weight]
    dense: tuple[DenseStage, ...]


def as_stored(checkpoint: Checkpoint) -> Weights:
    """The checkpoint's own tensors and stages."""
    return Weights(checkpoint.tensors, checkpoint.dense)


def folded(checkpoint: Checkpoint) -> Weights:
    """Join neighbouring Dense stages that have no activation between them: W = W2 W1, b = W2 b1 + b2.

    The products are summed in float64 and rounded once; a stage with an activation ends a run.
    """
    tensors: dict[str, Weight] = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("dense.")}
    stages: list[DenseStage] = []
    matrix: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None
    for i, stage in enumerate(checkpoint.dense):
        w = checkpoint.tensors[stage.weight].array().astype(np.float64)
        b = None if stage.bias is None else checkpoint.tensors[stage.bias].array().astype(np.float64)
        if matrix is not None:
            b = b if bias is None else w @ bias + (0.0 if b is None else b)
            w = w @ matrix
        matrix, bias = w, b
        if stage.activation == "identity" and i + 1 < len(checkpoint.dense):
            continue
        name = f"dense.{len(stages)}"
        tensors[f"{name}.weight"] = ArrayWeight(w.astype(np.float32))
        if b is not None:
            tensors[f"{name}.bias"] = ArrayWeight(b.astype(np.float32))
        stages.append(
            replace(
                stage,
                weight=f"{name}.weight",
                bias=None if b is None else f"{name}.bias",
                in_features=w.shape[1],
                out_features=w.shape[0],
            )
        )
        matrix = bias = None
    return Weights(tensors, tuple(stages))


def row_blocks(table: Weight) -> Iterator[NDArray[np.float32]]:
    """A table's rows, TABLE_ROWS at a time; pages of the checkpoint that were read are released."""
    for start in range(0, table.shape[0], TABLE_ROWS):
        yield table.rows(start, min(start + TABLE_ROWS, table.shape[0]))
        if isinstance(table, Tensor):
            table.release()
