"""The contrastive loss at every Matryoshka dim.

It is that of sentence-transformers' MultipleNegativesRankingLoss and MatryoshkaLoss, in both directions.
Theirs count every other text of a batch as a negative; here a text that equals the right one is none, as
definitions and hypernyms repeat within a batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DIMS = (384, 256, 192)


def contrastive(
    left: Tensor, right: Tensor, same: Tensor, temperature: float, dims: tuple[int, ...]
) -> Tensor:
    """InfoNCE in both directions, averaged over dims.

    `left` [B, H]; `right` [B + N, H], of which the first B belong to the left ones; `same` [B, B + N] is true
    where a right text equals a row's own, so that it is no negative.
    """
    rows = torch.arange(len(left))
    total = left.new_zeros(())
    for dim in dims:
        scores = F.normalize(left[:, :dim], dim=-1) @ F.normalize(right[:, :dim], dim=-1).T / temperature
        scores = scores.masked_fill(same, -torch.inf)
        total = total + F.cross_entropy(scores, rows) + F.cross_entropy(scores[:, : len(left)].T, rows)
    return total / (2 * len(dims))


def equal_texts(left_keys: Tensor, right_keys: Tensor, *extra_keys: Tensor) -> Tensor:
    """Where a right (or extra) text is the own right text of a row, or two rows share their left text."""
    columns = torch.cat([right_keys, *extra_keys])
    same = right_keys[:, None] == columns[None, :]
    same[:, : len(left_keys)] |= left_keys[:, None] == left_keys[None, :]
    same |= left_keys[:, None] == columns[None, :]
    same[:, : len(left_keys)].fill_diagonal_(False)
    return same
