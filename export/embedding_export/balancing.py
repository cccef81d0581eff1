"""Shares rounding errors between activations and weights: moves factors from one to the other, exactly.

A row of activations has one scale, and so has a row of weights: a channel that is large in either makes all
others coarse. Dividing a channel of activations by t where it is made (a norm's weight, or a row of the
matrix before) and multiplying the column of weights that takes it by t changes nothing but the rounding
(SmoothQuant, arXiv 2211.10438). Every t is a power of two: the function stays the same to the last bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_export.calibration import Calibration
from embedding_export.encoder_config import EncoderConfig
from embedding_export.folding import Weight, Weights

Floats = NDArray[np.float32]

# Largest power of two that a channel is moved by, against the median channel of its tensor.
MOST = 8


@dataclass(frozen=True)
class Balanced:
    """`weights` to store; `gains` divides what a norm multiplies by (1 + w), by the norm's name."""

    weights: Weights
    gains: Mapping[str, Floats]


@dataclass(frozen=True)
class _Moved:
    """A matrix whose columns are multiplied by `columns` and whose rows are divided by `rows`."""

    weight: Weight
    columns: Floats
    rows_by: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def rows(self, start: int, stop: int) -> Floats:
        return self.weight.rows(start, stop) * self.columns / self.rows_by[start:stop, None]

    def array(self) -> Floats:
        return self.rows(0, self.shape[0])


def balance(config: EncoderConfig, weights: Weights, seen: Calibration) -> Balanced:
    """Factors for every input of the encoder's matrices, from what calibration saw and the matrices hold."""
    tensors = dict(weights.tensors)
    gains: dict[str, Floats] = {}
    group = config.num_attention_heads // config.num_key_value_heads

    def move(makers: str | None, takers: tuple[str, ...], shared: int = 1) -> Floats:
        """Factors of the channels that `takers` take; `makers` rows make `shared` channels each."""
        columns = np.max([np.abs(weights.tensors[t].array()).max(axis=0) for t in takers], axis=0)
        activations = seen.inputs[takers[0]]
        if shared > 1:
            columns, activations = (_over_group(x, shared, config.head_dim) for x in (columns, activations))
        factors = _factors(activations, columns)
        wide = _to_group(factors, shared, config.head_dim)
        for taker in takers:
            tensors[taker] = _moved(tensors[taker], columns=wide)
        if makers is not None:
            tensors[makers] = _moved(tensors[makers], rows=factors)
        return factors

    for i in range(config.num_hidden_layers):
        attn, mlp = f"layers.{i}.self_attn", f"layers.{i}.mlp"
        takers = tuple(f"{attn}.{n}_proj.weight" for n in "qkv")
        gains[f"layers.{i}.input_layernorm.weight"] = move(None, takers)
        move(f"{attn}.v_proj.weight", (f"{attn}.o_proj.weight",), group)
        takers = (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
        gains[f"layers.{i}.pre_feedforward_layernorm.weight"] = move(None, takers)
        move(f"{mlp}.up_proj.weight", (f"{mlp}.down_proj.weight",))
    return Balanced(replace(weights, tensors=tensors), gains)


def _factors(activations: Floats, columns: Floats) -> Floats:
    """Powers of two near sqrt(activation / column), 1 for channels near the median and for those of zeros.

    Rounded towards 1: where nothing stands out there is nothing to gain.
    """
    live = (activations > 0) & (columns > 0)
    if not live.any():
        return np.ones_like(columns)
    ratios = np.log2(activations, where=live, out=np.zeros_like(columns))
    ratios -= np.log2(columns, where=live, out=np.zeros_like(columns))
    exponents = np.trunc((ratios - np.median(ratios[live])) / 2)
    return np.asarray(np.where(live, np.exp2(np.clip(exponents, -MOST, MOST)), 1), np.float32)


def _moved(weight: Weight, columns: Floats | None = None, rows: Floats | None = None) -> _Moved:
    if not isinstance(weight, _Moved):
        count, width = weight.shape
        weight = _Moved(weight, np.ones(width, np.float32), np.ones(count, np.float32))
    return _Moved(
        weight.weight,
        weight.columns if columns is None else weight.columns * columns,
        weight.rows_by if rows is None else weight.rows_by * rows,
    )


def _over_group(channels: Floats, group: int, head_dim: int) -> Floats:
    """Channels [KV * group * D] of the heads, the largest of each group: [KV * D]."""
    return np.asarray(channels.reshape(-1, group, head_dim).max(axis=1).ravel(), np.float32)


def _to_group(channels: Floats, group: int, head_dim: int) -> Floats:
    """Channels [KV * D] for every head of the group: [KV * group * D]."""
    if group == 1:
        return channels
    return np.repeat(channels.reshape(-1, 1, head_dim), group, axis=1).ravel()
