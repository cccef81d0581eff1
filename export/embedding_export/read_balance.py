"""Finds in a written graph which factors were moved between activations and weights, for the weight audit.

Knows what `balancing` promises (powers of two, made in one place and taken in another) and none of its code:
every factor is read where the channel is made, and must then show where the channel is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_export.encoder_config import EncoderConfig
from embedding_export.folding import Weight
from embedding_export.stored import StoredWeight

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Moved:
    """A checkpoint's tensor as a balanced graph should hold it: columns multiplied, rows divided."""

    weight: Weight
    columns: Floats
    made: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.weight.shape

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`."""
        return self.weight.rows(start, stop) * self.columns / self.made[start:stop, None]

    def array(self) -> Floats:
        """The whole tensor."""
        return self.rows(0, self.shape[0])


def read_norm_factors(stored: Mapping[str, StoredWeight], name: str, gain: Floats) -> Floats:
    """By which powers of two a norm's `gain` (1 + w) was divided; 1 where it was by something else."""
    if name not in stored or stored[name].shape != gain.shape:
        return np.ones_like(gain)
    found = stored[name].array()
    ratio = np.divide(gain, found, out=np.ones_like(gain), where=(found != 0) & (gain != 0))
    return np.where(np.frexp(ratio)[0] == 0.5, ratio, np.float32(1))


def balanced_as_stored(
    stored: Mapping[str, StoredWeight], config: EncoderConfig, tensors: Mapping[str, Weight]
) -> dict[str, Weight]:
    """The encoder's matrices as this graph should hold them, by the factors read where channels are made."""
    found: dict[str, Moved] = {}
    heads = config.num_attention_heads // config.num_key_value_heads
    for i in range(config.num_hidden_layers):
        layer = f"layers.{i}"
        qkv = [f"{layer}.self_attn.{n}_proj.weight" for n in "qkv"]
        gate_up = [f"{layer}.mlp.{n}_proj.weight" for n in ("gate", "up")]
        found |= _after_norm(stored, tensors, f"{layer}.input_layernorm.weight", qkv)
        found |= _after_norm(stored, tensors, f"{layer}.pre_feedforward_layernorm.weight", gate_up)
        made = found[qkv[-1]].made.reshape(-1, 1, config.head_dim)
        for name, columns in (
            (f"{layer}.self_attn.o_proj.weight", np.repeat(made, heads, axis=1).ravel()),
            (f"{layer}.mlp.down_proj.weight", found[gate_up[-1]].made),
        ):
            found[name] = _moved(tensors[name], columns)
    return dict(found)


def _after_norm(
    stored: Mapping[str, StoredWeight], tensors: Mapping[str, Weight], norm: str, takers: list[str]
) -> dict[str, Moved]:
    """The matrices behind a norm; the last of them may make channels smaller or larger for the next one."""
    columns = read_norm_factors(stored, norm, 1.0 + tensors[norm].array())
    found = {name: _moved(tensors[name], columns) for name in takers}
    last = takers[-1]
    made = _row_factors(stored.get(last), found[last].array())
    return found | {last: Moved(tensors[last], columns, made)}


def _moved(weight: Weight, columns: Floats) -> Moved:
    return Moved(weight, columns, np.ones(weight.shape[0], np.float32))


def _row_factors(stored: StoredWeight | None, values: Floats) -> Floats:
    """By which powers of two the rows of `values` were divided, by the scales they got (largest / 127)."""
    rows = len(values)
    if stored is None or stored.shape != values.shape:
        return np.ones(rows, np.float32)
    scales = stored.grid(0, rows).step[:, 0]
    expected = np.abs(values).max(axis=1) / np.float32(127)
    ratio = np.divide(expected, scales, out=np.ones_like(scales), where=(scales > 0) & (expected > 0))
    return np.asarray(np.exp2(np.rint(np.log2(ratio))), np.float32)
