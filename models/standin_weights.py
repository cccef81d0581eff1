"""Random weights of an EmbeddingGemma's shapes, one block of rows at a time.

Knows nothing of files, config keys or tokenizers. Every tensor has a generator of its own, seeded by its
name, so that any part can be made alone and the same seed always gives the same checkpoint.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

OUTLIER_CHANNELS = 4
OUTLIER_FACTOR = 20.0
BLOCK_ELEMENTS = 4_194_304

# Channel 0 of the residual stream is the same for every token (no layer writes to it) and the gates lean
# on it: most of them then sit where the tanh form of gelu is furthest from the exact one.
STEADY = 2.0
GATE_LEAN = -1.5
# Norms multiply by 1 + w; the mean of w after attention and MLP: what a layer adds is smaller than what is
# there, so that rounding errors do not grow with depth.
UPDATE_NORM = -0.4
NORM_SPREAD = 0.3
# Plain weights: norms multiply by about 1 everywhere.
PLAIN_SPREAD = 0.1

# Which outlier channels a tensor's rows make and its columns take: keys of `Weights._factors`.
_MAKES = {
    "input_layernorm": "attention",
    "v_proj": "value",
    "pre_feedforward_layernorm": "mlp",
    "up_proj": "product",
    "norm": "pooled",
    "2_Dense": "wide",
}
_TAKES = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "o_proj": "value",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "product",
    "2_Dense": "pooled",
    "3_Dense": "wide",
}


@dataclass(frozen=True)
class Shape:
    """Figures of the encoder and of its two Dense stages; `layers` says which attend globally.

    `attention_norm` is the mean w of the query and key norms: the larger, the sharper the peaks of attention,
    and the more a rounding error grows from layer to layer.
    """

    hidden: int
    intermediate: int
    heads: int
    head_dim: int
    query_scalar: int
    layers: tuple[bool, ...]
    dense: int
    vocab: int
    max_length: int
    sliding_window: int
    attention_norm: float


# In the tiny one every two sizes differ, so that no transposed or confused pair goes unnoticed.
TINY = Shape(64, 96, 4, 32, 24, (False, True, False, False, True), 160, 4_096, 2_048, 16, 0.5)
FULL = Shape(768, 1_152, 3, 256, 256, tuple(i % 6 == 5 for i in range(24)), 3_072, 262_144, 2_048, 512, 0.0)


def dense(shape: Shape) -> dict[str, tuple[int, int]]:
    """Folders of the Dense stages and the shapes [out, in] of their weights."""
    return {"2_Dense": (shape.dense, shape.hidden), "3_Dense": (shape.hidden, shape.dense)}


def encoder(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes in model.safetensors; linear layers are [out, in]."""
    hidden, query, key = shape.hidden, shape.heads * shape.head_dim, shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.q_norm": (shape.head_dim,),
        "self_attn.k_norm": (shape.head_dim,),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "mlp.gate_proj": (shape.intermediate, hidden),
        "mlp.up_proj": (shape.intermediate, hidden),
        "mlp.down_proj": (hidden, shape.intermediate),
        "post_feedforward_layernorm": (hidden,),
    }
    names: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (shape.vocab, hidden)}
    for i in range(len(shape.layers)):
        names |= {f"layers.{i}.{name}.weight": size for name, size in layer.items()}
    return names | {"norm.weight": (hidden,)}


@dataclass(frozen=True)
class Weights:
    """The values of a stand-in's tensors.

    With `outliers`, four input channels of every linear layer are 20 times as large and its weights for
    them 20 times smaller: the function stays, the activations get what trained models have. `plain` leaves
    out what makes faults show (channel 0, leaning gates, uneven norms), and with it what makes rounding
    errors grow: for asking how much a precision loses.
    """

    shape: Shape
    seed: int
    outliers: bool
    plain: bool = False

    def blocks(self, name: str, size: tuple[int, ...]) -> Iterator[Array]:
        """The tensor `name` of shape `size` in blocks of whole rows, float32."""
        rng = self._generator(name)
        step = max(1, BLOCK_ELEMENTS // int(np.prod(size[1:])))
        for start in range(0, size[0], step):
            rows = slice(start, min(start + step, size[0]))
            block = rng.standard_normal((rows.stop - start, *size[1:]), dtype=np.float32)
            yield self._norm(name, block) if len(size) == 1 else self._matrix(name, block, rows)

    def _norm(self, name: str, noise: Array) -> Array:
        leaf = _leaf(name)
        weight = PLAIN_SPREAD * noise if self.plain else self._norm_mean(leaf) + NORM_SPREAD * noise
        if leaf.startswith("post_") and not self.plain:
            weight[0] = -1
        return ((1 + weight) * self._made(name, len(weight)) - 1).astype(np.float32)

    def _matrix(self, name: str, noise: Array, rows: slice) -> Array:
        inputs = noise.shape[1]
        weight = noise / np.float32(np.sqrt(inputs))
        if name == "embed_tokens.weight":
            if not self.plain:
                weight[:, 0] = STEADY / np.sqrt(inputs)
            return weight
        if _leaf(name) == "gate_proj" and not self.plain:
            weight[:, 0] = GATE_LEAN / STEADY * self._residual_rms(int(name.split(".")[1]))
        made = self._made(name, rows.stop)[rows, None]
        return (weight * made / self._taken(name, inputs)).astype(np.float32)

    def _norm_mean(self, leaf: str) -> float:
        if leaf in ("q_norm", "k_norm"):
            return self.shape.attention_norm
        return UPDATE_NORM if leaf.startswith("post_") else 0.0

    def _residual_rms(self, layer: int) -> float:
        """What the residual stream measures before a layer's MLP, by the norms that wrote it."""
        written = (1 + UPDATE_NORM) ** 2 + NORM_SPREAD**2
        return float(np.sqrt(1 + STEADY**2 / self.shape.hidden + (2 * layer + 1) * written))

    def _made(self, name: str, size: int) -> Array:
        return self._factors(name, _MAKES.get(_leaf(name)), size)

    def _taken(self, name: str, size: int) -> Array:
        key = _TAKES.get(_leaf(name))
        if key == "value":  # all query heads read the one value head
            return np.tile(self._factors(name, key, self.shape.head_dim), self.shape.heads)
        return self._factors(name, key, size)

    def _factors(self, name: str, key: str | None, size: int) -> Array:
        """20 at the outlier channels that tensors of one layer share under `key`, else 1."""
        factors = np.ones(size, np.float32)
        if self.outliers and key is not None:
            layer = name.split(".")[1] if name.startswith("layers.") else "head"
            rng = self._generator(f"outliers.{layer}.{key}")
            factors[rng.choice(size, OUTLIER_CHANNELS, replace=False)] = OUTLIER_FACTOR
        return factors

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def _leaf(name: str) -> str:
    """`q_proj` of `layers.3.self_attn.q_proj.weight`; `2_Dense` of `2_Dense.linear.weight`."""
    return name.removesuffix(".weight").removesuffix(".linear").rpartition(".")[2]
