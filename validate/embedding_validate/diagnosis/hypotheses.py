"""Known ways to get this model wrong: each is a change of the forward pass that gives faulty vectors.

The input is token ids. The sound forward pass is the exporter's own encoder in torch, which `diagnosis` first
compares with the reference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.registry import tensor_specs
from embedding_validate.diagnosis import own_inputs
from embedding_validate.forward.interpreter import Model
from embedding_validate.forward.torch_ops import NEG, TorchOps, heads

Fault = Callable[[Model], Model]


def alone(config: Figures, dense: Sequence[DenseStage]) -> Mapping[str, Fault]:
    """Faults that show on one text alone, by name; those that change nothing on this model are left out."""
    same_shape = replace(config.global_layer, window=None, rope_theta=0.0) == replace(
        config.local_layer, window=None, rope_theta=0.0
    )
    window, near, far = config.window, config.local_layer.rope_theta, config.global_layer.rope_theta
    head_dim, offset = config.global_layer.head_dim, tensor_specs(config)[_final_norm(config)].offset
    faults: dict[str, Fault] = {
        **({"all Dense stages missing": _stages(())} if dense else {}),
        **({"only the first Dense stage": _stages(dense[:1])} if len(dense) > 1 else {}),
        **{f"only the first {n} Dense stages": _stages(dense[:n]) for n in range(2, len(dense))},
        "not normalised": lambda m: replace(m, normalize=False),
        "normalised, though the checkpoint does not": lambda m: replace(m, normalize=True),
        "causal attention": _ops(_Causal),
        "window off by one (too narrow)": _windowed(window - 1),
        "window off by one (too wide)": _windowed(window + 1),
        "window halved": _windowed(window // 2),
        "window doubled (sliding_window taken as the distance)": _windowed(window * 2),
        "window ignored": _windowed(None),
        "RoPE bases swapped": _bases(far, near),
        "global RoPE base everywhere": _bases(far, far),
        "local RoPE base everywhere": _bases(near, near),
        **(_of_layer_types(config) if same_shape else {}),
        **(own_inputs.faults() if config.per_layer_size else {}),
        "table scale missing": _ops(_Unscaled),
        f"norms multiply by {'w instead of 1 + w' if offset else '1 + w instead of w'}": _ops(_OtherOffset),
        "final norm missing": _ops(_NoFinalNorm),
        "q and k norms missing": _ops(_NoHeadNorm),
        "attention scale missing": _config(attention_scale=1.0),
        **(
            {"attention scale from the head dimension": _config(attention_scale=head_dim**-0.5)}
            if same_shape
            else {}
        ),
        "exact gelu instead of tanh": _ops(_ExactGelu),
        "pooling takes the first token": _ops(_FirstToken),
        "pooling takes the last token": _ops(_LastToken),
        "RoPE on neighbouring pairs instead of halves": _ops(_PairedRope),
        "keys reshaped where they should be transposed": _ops(_ReshapedKeys),
    }
    sound = Model(config, tuple(dense), True)
    return {name: f for name, f in faults.items() if f(sound) != sound or name.startswith("normalised")}


def _of_layer_types(config: Figures) -> dict[str, Fault]:
    """Faults of layer types, possible if layers of both kinds have the same shape, so that weights do not
    tell them apart."""
    layers = range(len(config.layer_types))
    return {
        "all layers local": _config(layer_types=("local",) * len(layers)),
        "all layers global": _config(layer_types=("global",) * len(layers)),
        **{f"type of layer {i} swapped": _config(layer_types=_flipped(config, i)) for i in layers},
    }


def padded() -> Mapping[str, Fault]:
    """Faults that show only if a text is padded."""
    return {
        "pooling without mask": _ops(_UnmaskedPool),
        "attention without mask": _ops(_UnmaskedAttention),
        "no mask at all": _ops(_Unmasked),
    }


def _config(**changes: Any) -> Fault:
    return lambda m: replace(m, config=replace(m.config, **changes))


def _windowed(window: int | None) -> Fault:
    return lambda m: replace(
        m, config=replace(m.config, local_layer=replace(m.config.local_layer, window=window))
    )


def _bases(near: float, far: float) -> Fault:
    """RoPE's base in local layers, and in global ones."""

    def fault(model: Model) -> Model:
        local, wide = model.config.local_layer, model.config.global_layer
        local, wide = replace(local, rope_theta=near), replace(wide, rope_theta=far)
        return replace(model, config=replace(model.config, local_layer=local, global_layer=wide))

    return fault


def _final_norm(config: Figures) -> str:
    """The name of the gain after the last layer."""
    return next(n for n, s in tensor_specs(config).items() if (s.role, s.part) == ("gain", "head"))


def _ops(kind: type[TorchOps]) -> Fault:
    return lambda m: replace(m, ops=kind)


def _stages(dense: Sequence[DenseStage]) -> Fault:
    return lambda m: replace(m, dense=tuple(dense))


def _flipped(config: Figures, layer: int) -> tuple[str, ...]:
    other = {"local": "global", "global": "local"}
    return tuple(other[t] if i == layer else t for i, t in enumerate(config.layer_types))


class _Causal(TorchOps):
    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        position = torch.arange(q.shape[1])
        return _attend(self, (q, k, v), layer, position[:, None] >= position[None, :])


class _UnmaskedAttention(TorchOps):
    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        mask, self.mask = self.mask, torch.ones_like(self.mask)
        try:
            return super().attention(q, k, v, layer)
        finally:
            self.mask = mask


class _UnmaskedPool(TorchOps):
    def mean_pool(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _Unmasked(_UnmaskedAttention, _UnmaskedPool):
    pass


class _Unscaled(TorchOps):
    def embedding(self, weight: str, scale: float) -> Tensor:
        return super().embedding(weight, 1.0)


class _OtherOffset(TorchOps):
    """Multiplies norms by the files' w instead of 1 + w, or by 1 + w instead of w."""

    def rms_norm(self, x: Tensor, weight: str, before: float = 1.0) -> Tensor:
        offset = tensor_specs(self.config)[weight].offset
        gain = self._weight(weight) - offset if offset else self._weight(weight) + 1.0
        return self._normed(x * before) * gain


class _NoFinalNorm(TorchOps):
    def rms_norm(self, x: Tensor, weight: str, before: float = 1.0) -> Tensor:
        return x if weight == _final_norm(self.config) else super().rms_norm(x, weight, before)


class _NoHeadNorm(TorchOps):
    def head_norm(self, x: Tensor, weight: str | None, scale: float, layer: Layer) -> Tensor:
        return x * scale if weight is not None else super().head_norm(x, weight, scale, layer)


class _ExactGelu(TorchOps):
    def gelu_gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.gelu(gate) * up


class _FirstToken(TorchOps):
    def mean_pool(self, x: Tensor) -> Tensor:
        return x[:, 0]


class _LastToken(TorchOps):
    def mean_pool(self, x: Tensor) -> Tensor:
        return x[torch.arange(len(x)), self.mask.sum(1) - 1]


class _PairedRope(TorchOps):
    def rope(self, x: Tensor, layer: Layer) -> Tensor:
        order = torch.cat([torch.arange(0, layer.head_dim, 2), torch.arange(1, layer.head_dim, 2)])
        turned = heads(super().rope(heads(x, layer)[..., order].flatten(2), layer), layer)
        return turned[..., order.argsort()].flatten(2)


class _ReshapedKeys(TorchOps):
    """Reshapes the keys of a single head instead of transposing them, as some converters do."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        keys = heads(k, layer).transpose(1, 2)
        batch, count, tokens, size = keys.shape
        reshaped = keys.reshape(batch, count, size, tokens).transpose(2, 3)
        return super().attention(q, reshaped.transpose(1, 2).flatten(2), v, layer)


def _attend(ops: TorchOps, qkv: tuple[Tensor, ...], layer: Layer, also: Tensor) -> Tensor:
    """`TorchOps.attention` with a further condition [S, S] on which keys a query sees."""
    q, k, v = (heads(x, layer).transpose(1, 2) for x in qkv)
    k, v = (x.repeat_interleave(layer.group, dim=1) for x in (k, v))
    allowed = ops.mask[:, None, None, :].bool() & also
    if layer.window is not None:
        position = torch.arange(q.shape[2])
        allowed = allowed & ((position[:, None] - position[None, :]).abs() <= layer.window)
    scores = (q @ k.transpose(2, 3)).masked_fill(~allowed, NEG)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
