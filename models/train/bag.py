"""Stage 1: a bag of token vectors, which the transformer starts from.

A text's vector is the sum of its tokens' vectors, prompt and control tokens included. It has no attention and
costs little, so that it sees millions of pairs; `start.py` turns it into an encoder that computes the same.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from train.batches import Batch, Side
from train.losses import contrastive, equal_texts


class Sided(Protocol):
    """A model of sides."""

    def each(self, sides: Sequence[Side]) -> list[Tensor]:
        """Vectors [B, H] of every side, not normalised."""


class Bag(nn.Module):
    """`table` [V, H]; `prompts` are the ids around a text for each prompt name, "" among them."""

    def __init__(
        self, weights: NDArray[np.float32], prompts: dict[str, list[int]], dim: int, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(len(weights), dim, generator=generator) / dim**0.5
        self.table = nn.Parameter(start * torch.from_numpy(weights)[:, None])
        self.prompts = {name: torch.tensor(ids) for name, ids in prompts.items()}

    def forward(self, side: Side) -> Tensor:
        """Vectors [B, H] of the side's texts, not normalised."""
        starts = torch.from_numpy(np.concatenate([[0], side.lengths.cumsum()[:-1]]))
        texts = F.embedding_bag(torch.from_numpy(side.ids), self.table, starts, mode="sum")
        return texts + self.table[self.prompts[side.prompt]].sum(0)

    def each(self, sides: Sequence[Side]) -> list[Tensor]:
        """Vectors [B, H] of every side."""
        return [self(side) for side in sides]


def loss_of(model: Sided, batch: Batch, temperature: float, dims: tuple[int, ...]) -> Tensor:
    """The contrastive loss of a batch under a model of sides."""
    sides = [batch.left, batch.right, *([] if batch.negative is None else [batch.negative])]
    left, *others = model.each(sides)
    keys = [torch.from_numpy(side.keys) for side in sides]
    return contrastive(left, torch.cat(others), equal_texts(*keys), temperature, dims)


def idf(counts: NDArray[np.int64], texts: int) -> NDArray[np.float32]:
    """Inverse document frequency of each token, log(texts / (1 + count)), at least 0.1 and about 1 at most.

    Source: K. Sparck Jones, A statistical interpretation of term specificity, 1972.
    """
    values = np.log(texts / (1.0 + counts)) / np.log(texts)
    found: NDArray[np.float32] = np.clip(values, 0.1, None).astype(np.float32)
    return found
