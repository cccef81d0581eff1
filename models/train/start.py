"""Stage 2's start: an encoder that computes what the bag computes, whitened.

RMSNorm would undo the lengths that the bag has given its token vectors. So the first layer's MLP adds the
same vector to every token: the norm then scales a token by a known function of its own length, and the table
holds the vectors for which that comes out right. The Dense stages leave the common direction out; a random
rotation spreads it and everything else over all components, as quantization likes it. What the layers' other
parts add starts near zero, and the second layer does not see the common direction at first, as its answer to
it would be the same for every text.
"""

import torch
from torch import Tensor

from train.encoder import Encoder

# Largest squared share of a token's own vector after the norm, the rest is the common direction's; and the
# mean square of the common vector's components.
_LARGEST_SHARE = 0.8
_COMMON = 0.5
# Exact in bfloat16 beside the 1 that the norms add.
UPDATE = 1 / 64
_READING = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")


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


def set_from_bag(encoder: Encoder, table: Tensor, after: Tensor, seed: int, update: float = UPDATE) -> None:
    """Make `encoder` compute `after` times the mean of the bag's rows; `table` [V, H - 1], `after` [H, H].

    Column H of `after` weighs the common direction; `update` is the size of what the layers add at first.
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
                parameter.fill_(update - 1.0)
            elif "layers.0." not in name and name.endswith(_READING):
                parameter.sub_(torch.outer(parameter @ rotation[:, -1], rotation[:, -1]))
        _add_common(encoder, rotation[:, -1])


def _add_common(encoder: Encoder, direction: Tensor) -> None:
    """Make the first MLP give `direction` [H], whatever the token.

    With gate and up alike every product gelu(x) x is positive, and all columns of down are the direction:
    only the length depends on the token, and the norm after the MLP takes that away.
    """
    first = encoder.encoder.get_submodule("layers.0")
    down = first.get_parameter("mlp.down_proj.weight")
    first.get_parameter("mlp.up_proj.weight").copy_(first.get_parameter("mlp.gate_proj.weight"))
    down.copy_(direction[:, None].expand_as(down))
    first.get_parameter("post_feedforward_layernorm.weight").fill_(_COMMON**0.5 - 1.0)


def _rows(table: Tensor, hidden: int) -> Tensor:
    """[V, H]: rows that, with the common vector added, RMSNorm makes proportional to the table's."""
    squared = table.square().sum(1)
    v = table * (_LARGEST_SHARE * hidden / squared.max()).sqrt()
    own = v * (_COMMON * hidden) ** 0.5 / (hidden - v.square().sum(1, keepdim=True)).sqrt()
    return torch.nn.functional.pad(own, (0, 1))
