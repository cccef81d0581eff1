"""Random weights of an EmbeddingGemma 2's shapes, one block of rows at a time.

Knows nothing of files, config keys or tokenizers. As in `standin_weights` every tensor has a generator of its
own. Of the published weights one thing is known: their activations pass what float16 holds. The likeness
is the first model's (`standin_likeness`): peaks on `<bos>` and `<eos>`, and a steady channel 0. Here some
channels are large in every token too, since the per-layer gate reads the stream with no norm before it; and
each layer ends by multiplying the whole stream.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import standin_likeness as likeness
from numpy.typing import NDArray
from standin_weights import BLOCK_ELEMENTS, GATE_LEAN, NORM_SPREAD, Array

# Root mean square that each of a layer's three updates has: in the first layer, and relative to the stream,
# the larger the further small scalars have brought it below its level, up to so much. Random layers that add
# more enlarge errors, as trained ones do not: with 0.28 six layers make 35 % of an error of 1 %.
FIRST_UPDATE, UPDATE, LARGEST_UPDATE, LEVEL = 300.0, 0.1, 0.12, 300.0
# Scalars: of most layers, and of one in eight.
SCALARS, SMALL_SCALARS = (0.84, 1.0), (0.3, 0.5)
# Peaks on `<bos>` and `<eos>` after the first layer, the last but two, and the last.
FIRST_PEAK, LATE_PEAK, LAST_PEAK = 950.0, 20_000.0, 104_000.0
# How much larger some channels of the stream are in every token, and one in how many.
LARGE, LARGE_SHARE = 14.0, 192
# How far a value's length varies with its token: without the norm of values this shows.
VALUE_SWING = 0.8

_PLE = "ple.per_layer_model_projection.weight"


@dataclass(frozen=True)
class Shape:
    """Figures of the encoder; `layers` says which attend globally: these have heads of another shape.

    `logit_spread` is the standard deviation of attention's scores, which nothing divides.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    global_kv_heads: int
    global_head_dim: int
    per_layer: int
    embedding: int
    layers: tuple[bool, ...]
    vocab: int
    max_length: int
    sliding_window: int
    logit_spread: float


# In the tiny one every two sizes differ, so that no transposed or confused pair goes unnoticed.
TINY = Shape(64, 96, 4, 2, 40, 1, 48, 128, 112, tuple(i % 3 == 2 for i in range(6)), 4_096, 262_144, 12, 1.8)
FULL = Shape(
    512, 2_048, 4, 2, 256, 1, 512, 512, 768, tuple(i % 6 == 5 for i in range(24)), 262_144, 262_144, 512, 1.0
)


def encoder(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names of the text model's tensors, without prefix, and shapes; linear layers are [out, in]."""
    hidden, inner = shape.hidden, shape.intermediate
    names: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (shape.vocab, hidden)}
    for i, wide in enumerate(shape.layers):
        head = shape.global_head_dim if wide else shape.head_dim
        keys = head * (shape.global_kv_heads if wide else shape.kv_heads)
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (shape.heads * head, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "self_attn.o_proj": (hidden, shape.heads * head),
            "post_attention_layernorm": (hidden,),
            "pre_feedforward_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "post_feedforward_layernorm": (hidden,),
            "ple_block.per_layer_input_gate": (shape.per_layer, hidden),
            "ple_block.per_layer_projection": (hidden, shape.per_layer),
            "ple_block.post_per_layer_input_norm": (hidden,),
        }
        names |= {f"layers.{i}.{name}.weight": size for name, size in layer.items()}
        names[f"layers.{i}.layer_scalar"] = (1,)
    return names | {
        _PLE: (len(shape.layers) * shape.per_layer, hidden),
        "ple.per_layer_projection_norm.weight": (shape.per_layer,),
        "norm.weight": (hidden,),
        "embedding_projection.weight": (shape.embedding, hidden),
    }


def towers() -> dict[str, tuple[int, ...]]:
    """Some tensors of the towers for images and sound, which an export of text leaves out.

    The bounds that a clipped linear layer keeps are scalars, without an axis.
    """
    clipped = "audio_tower.layers.0.self_attn.q_proj"
    bounds: dict[str, tuple[int, ...]] = {
        f"{clipped}.{end}_{bound}": () for end in ("input", "output") for bound in ("min", "max")
    }
    return bounds | {
        f"{clipped}.linear.weight": (8, 8),
        "embed_audio.embedding_projection.weight": (16, 8),
        "vision_tower.patch_embedder.input_proj.weight": (8, 12),
        "vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight": (8, 8),
        "embed_vision.embedding_projection.weight": (16, 8),
    }


@dataclass(frozen=True)
class _Layer:
    """What the stream is expected to measure where a layer reads it, and what the layer writes.

    Attributes:
        scalar: what the layer ends with.
        update: root mean square of each of the three updates, beside large channels and peaks.
        reads: what the stream measures before attention, the MLP and the per-layer gate.
        steady: channel 0 before the layer; `marker`: that of `<bos>` and `<eos>`.
        peak, ends: the peak before the layer and before its gate; `peak_gain`: what its MLP's norm writes.
    """

    scalar: float
    update: float
    reads: tuple[float, float, float]
    steady: float
    marker: float
    peak: tuple[float, float]
    peak_gain: float


@dataclass(frozen=True)
class Weights:
    """The values of a stand-in's tensors."""

    shape: Shape
    seed: int

    def blocks(self, name: str, size: tuple[int, ...]) -> Iterator[Array]:
        """The tensor `name` of shape `size` in blocks of whole rows, float32; of a scalar [1]."""
        rng, rows_of = self._generator(name), size or (1,)
        step = max(1, BLOCK_ELEMENTS // int(np.prod(rows_of[1:])))
        for start in range(0, rows_of[0], step):
            rows = slice(start, min(start + step, rows_of[0]))
            block = rng.standard_normal((rows.stop - start, *rows_of[1:]), dtype=np.float32)
            if name.startswith(("audio_", "vision_", "embed_audio", "embed_vision")):
                yield block
            elif name.endswith("layer_scalar"):
                yield np.array([self._layers[_number(name)].scalar], np.float32)
            else:
                value = self._gain(name, block) if block.ndim == 1 else self._matrix(name, block, rows)
                yield value.astype(np.float32)

    def _gain(self, name: str, noise: Array) -> Array:
        """The weight of a norm, which multiplies as it is."""
        leaf, spread = _leaf(name), np.exp(NORM_SPREAD * noise)
        if leaf in ("q_norm", "k_norm"):
            even: Array = spread * np.float32(np.sqrt(self.shape.logit_spread / np.sqrt(len(noise))))
            return even
        if leaf.startswith("post_"):
            return self._gain_of_writer(name, noise)
        gain: Array = 1 + NORM_SPREAD * noise
        if leaf == "per_layer_projection_norm":
            return gain
        large = 1.0 / LARGE
        if leaf == "norm":
            gain *= self._larger(name, len(gain)) * self._beside_large
            gain[self._large] *= large
            gain[self._peak] = likeness.FINAL_PEAK / np.sqrt(len(gain))
            return gain
        layer, mlp = self._layers[_number(name)], leaf == "pre_feedforward_layernorm"
        gain *= self._larger(name, len(gain)) * self._beside_large
        gain[self._large] *= large
        gain[self._peak] = likeness.PEAK_GAIN
        if mlp:
            root, reads = np.sqrt(self.shape.hidden), layer.reads[1]
            gain[0] = self._steady_seen * reads * self._beside_large / layer.steady
            ends = np.hypot(reads * self._beside_large, layer.peak[0] / root)
            gain[self._marker] = likeness.MARKER_SEEN * np.hypot(ends, layer.marker / root) / layer.marker
        return gain

    def _gain_of_writer(self, name: str, noise: Array) -> Array:
        layer, rng = self._layers[_number(name)], self._generator(f"signs.{name}")
        gain: Array = layer.update * np.exp(likeness.GAIN_SPREAD * (noise - likeness.GAIN_SPREAD))
        gain[self._large] *= LARGE
        gain[rng.random(len(gain)) < likeness.NEGATIVE] *= likeness.NEGATIVE_SIZE
        gain[self._peak] = layer.peak_gain if _leaf(name) == "post_feedforward_layernorm" else 0
        gain[[0, self._marker]] = 0  # no layer writes there
        return gain

    def _matrix(self, name: str, noise: Array, rows: slice) -> Array:
        weight = noise / np.float32(np.sqrt(noise.shape[1]))
        if name == "embed_tokens.weight":
            rng = self._generator(f"norms.{rows.start}")
            return likeness.table_rows(weight, rows, self._marker, rng)
        if not name.startswith("layers."):
            return weight
        leaf, layer = _leaf(name), self._layers[_number(name)]
        neuron = int(self._generator(f"neuron.{_number(name)}").integers(self.shape.intermediate))
        if leaf == "v_proj":
            rng = self._generator(f"swing.{name}")
            parts = rng.standard_normal(len(weight)), rng.standard_normal(weight.shape[1])
            weight += (VALUE_SWING / np.sqrt(weight.shape[1])) * np.outer(*parts).astype(np.float32)
        elif leaf == "down_proj":
            weight[self._peak] *= likeness.WRITER_ROW * (self.shape.hidden / 768) ** 2
            weight[self._peak, neuron] = likeness.DOWN
        elif leaf == "per_layer_input_gate":
            weight /= np.float32(layer.reads[2])
            weight[:, self._large] /= LARGE
            weight[:, self._peak] = noise[:, self._peak] / max(layer.peak[1], layer.reads[2])
        elif leaf in ("gate_proj", "up_proj"):
            if leaf == "gate_proj":
                weight[:, 0] = GATE_LEAN / self._steady_seen
                weight[neuron, 0] = likeness.NEURON_LEAN / self._steady_seen
            weight[neuron, self._marker] = likeness.GATE if leaf == "gate_proj" else likeness.UP
        return weight

    def _larger(self, name: str, size: int) -> Array:
        """Factors of `size` channels of which a few are larger."""
        factors, count = np.ones(size, np.float32), max(1, size // likeness.OUTLIER_SHARE)
        chosen = self._generator(f"larger.{name}").choice(size, count, replace=False)
        factors[chosen] = likeness.OUTLIERS[_leaf(name)] * np.sqrt(size)
        return factors

    @cached_property
    def _layers(self) -> list[_Layer]:
        """Every layer's figures, by what the stream is expected to measure there."""
        hidden, count, result = self.shape.hidden, len(self.shape.layers), []
        root = float(np.sqrt(hidden))
        written = float(1 / np.sqrt(1 / (self.shape.intermediate * likeness.DOWN**2) + 1 / hidden))
        stream, peak = likeness.ROW_NORM, 0.0
        steady, marker = likeness.STEADY * root, likeness.MARKER * root
        for i, scalar in enumerate(self._scalars):
            share = min(UPDATE * max(1.0, float(np.sqrt(LEVEL / stream))), LARGEST_UPDATE)
            update = FIRST_UPDATE if i == 0 else share * stream
            reads = [float(np.sqrt(stream**2 + n * update**2)) for n in range(4)]
            target = self._target(i) / scalar
            gain = (target - peak) / written
            result.append(
                _Layer(scalar, update, (reads[0], reads[1], reads[2]), steady, marker, (peak, target), gain)
            )
            stream, peak = reads[3] * scalar, target * scalar
            steady, marker = steady * scalar, marker * scalar
        assert count == len(result)
        return result

    def _target(self, layer: int) -> float:
        """The peak after a layer: geometric up to the last but two, then the largest steps."""
        rest = len(self.shape.layers) - 1 - layer
        if rest < 2:
            return LAST_PEAK if rest == 0 else float(np.sqrt(LATE_PEAK * LAST_PEAK))
        share = layer / max(1, len(self.shape.layers) - 3)
        return float(FIRST_PEAK * (LATE_PEAK / FIRST_PEAK) ** share)

    @cached_property
    def _scalars(self) -> list[float]:
        rng, count = self._generator("layer_scalars"), len(self.shape.layers)
        scalars = rng.uniform(*SCALARS, count)
        small = rng.choice(np.arange(1, count - 1), max(1, count // 8), replace=False)
        scalars[small] = rng.uniform(*SMALL_SCALARS, len(small))
        return [float(s) for s in scalars]

    @cached_property
    def _beside_large(self) -> float:
        """What large channels make the stream measure, beside all the others."""
        return float(np.sqrt(1 + len(self._large) * (LARGE**2 - 1) / self.shape.hidden))

    @property
    def _peak(self) -> int:
        return round(self.shape.hidden * 731 / 768)

    @property
    def _marker(self) -> int:
        return round(self.shape.hidden * 67 / 768)

    @cached_property
    def _large(self) -> NDArray[np.int64]:
        """Channels of the stream that are large in every token."""
        free = [i for i in range(1, self.shape.hidden) if i not in (self._peak, self._marker)]
        count = max(1, self.shape.hidden // LARGE_SHARE)
        return self._generator("large channels").choice(free, count, replace=False)

    @property
    def _steady_seen(self) -> float:
        return likeness.STEADY_SEEN * float(np.sqrt(self.shape.hidden))

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


def _leaf(name: str) -> str:
    """`q_proj` of `layers.3.self_attn.q_proj.weight`."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _number(name: str) -> int:
    """3 of `layers.3.self_attn.q_proj.weight`."""
    return int(name.split(".")[1])
