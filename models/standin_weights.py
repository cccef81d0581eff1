"""Random weights of an EmbeddingGemma's shapes, one block of rows at a time.

Knows nothing of files, config keys or tokenizers. Every tensor has a generator of its own, seeded by its
name, so that any part can be made alone and the same seed always gives the same checkpoint.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import standin_likeness as likeness
from numpy.typing import NDArray

Array = NDArray[np.float32]

OUTLIER_CHANNELS = 4
OUTLIER_FACTOR = 20.0
BLOCK_ELEMENTS = 4_194_304

# Most gates lean to where the tanh form of gelu is furthest from the exact one: all read channel 0, which is
# the same for every token.
GATE_LEAN = -1.5
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

    They have the trained model's likeness (`standin_likeness`): growing residuals with peaks, large gains,
    activations and weights far out. With `outliers`, four input channels of every linear layer are 20 times
    as large beside, and its weights for them 20 times smaller: the function stays. `plain` leaves out the
    likeness and what makes faults show (channel 0, leaning gates, uneven norms).
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
        gain: Array = 1 + PLAIN_SPREAD * noise if self.plain else self._gain(name, noise)
        return (gain * self._made(name, len(gain)) - 1).astype(np.float32)

    def _gain(self, name: str, noise: Array) -> Array:
        """What a norm multiplies by."""
        leaf = _leaf(name)
        if leaf in ("q_norm", "k_norm"):
            return 1 + self.shape.attention_norm + NORM_SPREAD * noise
        if leaf.startswith("post_"):
            return self._gain_of_writer(name, noise)
        gain: Array = 1 + NORM_SPREAD * noise
        peaks = list(self._like.peaks)
        if leaf == "norm":
            gain *= self._like.final_gain() * self._larger(name, len(gain))
            gain[peaks] = likeness.FINAL_PEAK / np.sqrt(len(gain))
            return gain
        layer, mlp = self._layers[_number(name)], leaf == "pre_feedforward_layernorm"
        gain *= layer.reads[mlp] * self._larger(name, len(gain))
        gain[peaks] = likeness.PEAK_GAIN * layer.reads[mlp]
        if mlp:
            gain[0], gain[self._like.marker] = layer.steady_gain, layer.marker_gain
        return gain

    def _gain_of_writer(self, name: str, noise: Array) -> Array:
        layer, rng = self._layers[_number(name)], self._generator(f"signs.{name}")
        gain: Array = self._like.update(_number(name)) * np.exp(
            likeness.GAIN_SPREAD * (noise - likeness.GAIN_SPREAD)
        )
        gain[rng.random(len(gain)) < likeness.NEGATIVE] *= likeness.NEGATIVE_SIZE
        if _leaf(name) == "post_feedforward_layernorm":
            gain[layer.peak_channel] = layer.peak_gain
        elif layer is self._layers[-1]:
            gain[self._like.peaks[0]] = likeness.LEAST_GAIN
        gain[[0, self._like.marker]] = 0  # no layer writes there
        return gain

    def _matrix(self, name: str, noise: Array, rows: slice) -> Array:
        inputs = noise.shape[1]
        weight = noise / np.float32(np.sqrt(inputs))
        if name == "embed_tokens.weight":
            rng = self._generator(f"norms.{rows.start}")
            return weight if self.plain else likeness.table_rows(weight, rows, self._like.marker, rng)
        if not self.plain:
            self._liken(name, weight, rows)
        made = self._made(name, rows.stop)[rows, None]
        return (weight * made / self._taken(name, inputs)).astype(np.float32)

    def _liken(self, name: str, weight: Array, rows: slice) -> None:
        """Set what is larger than chance makes it; `rows` are all of a layer's."""
        leaf, marker = _leaf(name), self._like.marker
        if leaf in ("v_proj", "2_Dense"):
            weight *= self._larger(name, rows.stop)[rows, None]
        if leaf not in ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            return
        number = _number(name)
        neuron = int(self._generator(f"neuron.{number}").integers(self.shape.intermediate))
        if leaf == "down_proj":
            row = self._layers[number].peak_channel
            weight[row] *= self._like.writer_row
            weight[row, neuron] = self._sign(row) * likeness.DOWN
        elif leaf == "o_proj":
            if number == len(self._layers) - 1:
                weight[self._like.peaks[0]] *= self._like.writer_row
        elif leaf == "q_proj":
            rng = self._generator(f"far.{name}")
            weight[rng.integers(len(weight)), rng.integers(1, weight.shape[1])] = likeness.QUERY
        else:
            if leaf == "gate_proj":
                weight[:, 0] = GATE_LEAN / self._like.steady_seen
                weight[neuron, 0] = likeness.NEURON_LEAN / self._like.steady_seen
            weight[neuron, marker] = likeness.GATE if leaf == "gate_proj" else likeness.UP

    def _sign(self, channel: int) -> int:
        """Of a channel's peaks; the first one's are negative."""
        return -1 if channel == self._like.peaks[0] else 1

    def _larger(self, name: str, size: int) -> Array:
        """Factors of `size` channels of which a few are larger."""
        factors, count = np.ones(size, np.float32), max(1, size // likeness.OUTLIER_SHARE)
        chosen = self._generator(f"larger.{name}").choice(size, count, replace=False)
        factors[chosen] = likeness.OUTLIERS[_leaf(name)] * np.sqrt(size)
        return factors

    @cached_property
    def _like(self) -> likeness.Likeness:
        return likeness.Likeness(self.shape.hidden, self.shape.intermediate, len(self.shape.layers))

    @cached_property
    def _layers(self) -> list[likeness.Layer]:
        return self._like.schedule()

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


def _number(name: str) -> int:
    """3 of `layers.3.self_attn.q_proj.weight`."""
    return int(name.split(".")[1])
