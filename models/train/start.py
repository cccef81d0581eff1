"""Stage 2's start: an encoder that computes what the bag computes, whitened.

A token's vector v becomes a row of the table with |row| the same function of v for all tokens: RMSNorm would
otherwise undo the weights that the bag has learned. To that end every row has the same component in one
direction, which the Dense stages leave out; a random rotation spreads it, as quantization likes it. The
norms after attention and MLP start near zero.
"""

import torch
from torch import Tensor

from train.encoder import Encoder

# Largest squared share of a token's own vector in a normalised row; the rest is the common direction.
_LARGEST_SHARE = 0.8
_COMMON = 0.5
_FIRST_UPDATE = 0.05


def whitening(vectors: Tensor, strength: float) -> Tensor:
    """Lower triangular W [H, H] that whitens rows of `vectors` [n, H]; each dim depends on earlier ones only.

    Triangular (Cholesky), so that the first k components of W v stay a function of the first k of v, as the
    Matryoshka dims need it. `strength` 1 whitens fully, 0 leaves the vectors as they are.
    """
    centred = torch.nn.functional.normalize(vectors.double(), dim=-1)
    centred = centred - centred.mean(0)
    covariance = centred.T @ centred / len(vectors)
    mean = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    mixed = torch.linalg.cholesky(strength * covariance + (1 - strength) * mean)
    whitened: Tensor = torch.linalg.inv(mixed / mixed.diagonal().mean()).float()
    return whitened


def set_from_bag(encoder: Encoder, table: Tensor, after: Tensor, seed: int) -> None:
    """Make `encoder` compute `after` times the mean of the bag's rows; `table` [V, H - 1], `after` [H, H].

    Column H of `after` weighs the common direction.
    """
    hidden = encoder.encoder.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))[0]
    wide = encoder.wide.weight.shape[0]
    spread = torch.linalg.qr(torch.randn(wide, hidden, generator=generator))[0]
    with torch.no_grad():
        encoder.encoder.embed_tokens.weight.copy_(_rows(table, hidden) @ rotation.T / hidden**0.5)
        encoder.wide.weight.copy_(spread @ rotation.T)
        encoder.narrow.weight.copy_(after @ spread.T)
        for name, parameter in encoder.encoder.named_parameters():
            if "post_attention_layernorm" in name or "post_feedforward_layernorm" in name:
                parameter.fill_(_FIRST_UPDATE - 1.0)


def _rows(table: Tensor, hidden: int) -> Tensor:
    """[V, H]: rows whose RMSNorm is proportional to the table's, the last component common to all."""
    squared = table.square().sum(1)
    v = table * (_LARGEST_SHARE * hidden / squared.max()).sqrt()
    common = (_COMMON * hidden) ** 0.5
    own = v * common / (hidden - v.square().sum(1, keepdim=True)).sqrt()
    return torch.cat([own, torch.full((len(table), 1), common)], dim=1)
