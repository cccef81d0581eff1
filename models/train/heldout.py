"""The dev figure that settings are chosen by: retrieval on pairs of groups that training never sees."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train import measure
from train.batches import Side, side
from train.corpus import DataSet

# Data set → prompts of the two sides.
ASKED: Mapping[str, tuple[str, str]] = {
    "wordnet-gloss": ("query", "document"),
    "wordnet-examples": ("STS", "STS"),
    "wordnet-broader": ("STS", "STS"),
    "headings": ("query", "document"),
    "neighbours": ("STS", "STS"),
    "rewordings": ("", ""),
    "factbook": ("query", "document"),
    "wordnet-domains": ("Classification", "Classification"),
}
_MOST = 700


def score(model: Callable[[Side], Tensor], sets: list[DataSet], dim: int | None = None) -> dict[str, float]:
    """Mean reciprocal rank of the right text for each data set, and their mean as "mean"."""
    found = {s.name: _one(model, s, dim) for s in sets if s.name in ASKED}
    return found | {"mean": float(np.mean(list(found.values())))}


def _one(model: Callable[[Side], Tensor], data: DataSet, dim: int | None) -> float:
    left, right = ASKED[data.name]
    _, unique = np.unique(data.left.plain.keys, return_index=True)
    rows = np.sort(unique)[:: max(1, len(unique) // _MOST)][:_MOST]
    with torch.no_grad():
        queries = _vectors(model(side(data.left, rows, left)), dim)
        _, places = np.unique(data.right.plain.keys[rows], return_index=True)
        candidates = _vectors(model(side(data.right, rows[places], right)), dim)
    keys = data.right.plain.keys[rows]
    target = np.searchsorted(keys[places], keys)
    return measure.reciprocal(measure.ranks(queries, candidates, target))


def _vectors(vectors: Tensor, dim: int | None) -> NDArray[np.float32]:
    made: NDArray[np.float32] = vectors[:, :dim].float().numpy()
    return made
