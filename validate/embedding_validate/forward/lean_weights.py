"""Weights for the forward pass in torch, without the embedding table: only the rows that texts need are read.

The table is two thirds of a model, and a text needs a few rows of it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.weights.folding import ArrayWeight, Weights


class LeanWeights:
    """All tensors except the table in memory, as float32."""

    def __init__(self, weights: Weights) -> None:
        self._table = weights.tensors[TABLE]
        tensors = {n: ArrayWeight(np.array(t.array())) for n, t in weights.tensors.items() if n != TABLE}
        self._weights = Weights(tensors, weights.dense)

    def renamed(self, prefixes: dict[str, str]) -> "LeanWeights":
        """The same tensors under other names: each prefix of a name replaced."""
        other = object.__new__(LeanWeights)
        other._table = self._table
        tensors = {_renamed(n, prefixes): t for n, t in self._weights.tensors.items()}
        other._weights = replace(self._weights, tensors=tensors)
        return other

    def for_batch(self, batch: Sequence[Sequence[int]], length: int = 0) -> tuple[Weights, Tensor, Tensor]:
        """Weights with only the batch's rows of the table, ids into those, and the mask, int64 (N, S).

        Sequences are right-padded with 0 to the longest of them, and at least to `length`.
        """
        longest = max(length, *map(len, batch))
        padded = np.array([[*ids, *[0] * (longest - len(ids))] for ids in batch])
        mask = np.array([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
        table_rows, ids = np.unique(padded, return_inverse=True)
        rows = np.concatenate([self._table.rows(i, i + 1) for i in table_rows.tolist()]).astype(np.float32)
        weights = replace(self._weights, tensors={**self._weights.tensors, TABLE: ArrayWeight(rows)})
        return weights, torch.from_numpy(ids.reshape(padded.shape)), torch.from_numpy(mask)


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    prefix = next((p for p in prefixes if name.startswith(p)), None)
    return name if prefix is None else prefixes[prefix] + name.removeprefix(prefix)
