"""The last changes to a trained encoder: whitening, order of components, a constant, a smaller common vector.

Whitening makes up for the few directions that all texts share; the components are then put in the order of
their variance, so that a prefix (a Matryoshka dim) keeps the most; a small constant comes first, in place of
the least of them. Training would remove it again, hence last. The vector that all tokens have in common (see
`start.py`) is halved: 8-bit activations must hold it beside what tells texts apart.
"""

import torch
from torch import Tensor

from train.batches import Side
from train.encoder import Encoder

_COMMON_FACTOR = 0.5
# Keeps the least squares solvable where fewer directions are in use than the wide stage has.
_RIDGE = 1e-4


def finish(encoder: Encoder, sample: list[Side], strength: float, constant: float) -> None:
    """Change `encoder.narrow` by what a sample of texts shows.

    `strength` of whitening: 1 whitens fully, 0 leaves the covariance. `constant` is the constant component's
    size in median lengths of the rest.
    """
    last = encoder.narrow.weight
    with torch.no_grad():
        shared = encoder.encoder.get_parameter("layers.0.post_feedforward_layernorm.weight")
        shared.copy_(_COMMON_FACTOR * (1.0 + shared) - 1.0)
        wide = torch.cat([encoder.widened(side) for side in sample])
        ordered = _whitening(wide @ last.T, strength) @ last
        length = (wide @ ordered.T).norm(dim=1).median()
        last.copy_(torch.cat([constant * length * _one(wide)[None], ordered[:-1]]))


def _whitening(vectors: Tensor, strength: float) -> Tensor:
    """[H, H]: principal components of unit vectors [n, H], largest first, their variances made more alike."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    variances, directions = torch.linalg.eigh(torch.cov(unit.T))
    mixed = strength * variances + (1 - strength) * variances.mean()
    whitening = (mixed.rsqrt()[:, None] * directions.T).flip(0).float()
    scaled: Tensor = whitening / whitening.square().mean().sqrt() / len(whitening) ** 0.5
    return scaled


def _one(wide: Tensor) -> Tensor:
    """The direction that every row's product with is closest to 1."""
    moments = (wide.T @ wide / len(wide)).double() + _RIDGE * torch.eye(wide.shape[1])
    direction: Tensor = torch.linalg.solve(moments, wide.mean(0).double()).float()
    return direction
