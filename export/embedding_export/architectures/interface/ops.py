"""The steps of the forward pass, as an interface that ONNX, LiteRT and torch implement."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from embedding_export.architectures.interface.figures import Layer

V = TypeVar("V")


@dataclass(frozen=True)
class DenseStage:
    """y = activation(W x + b); `weight` [out, in] and `bias` [out] are names of `Checkpoint.tensors`."""

    weight: str
    bias: str | None
    activation: Literal["identity", "tanh"]
    in_features: int
    out_features: int


class Ops(Protocol[V]):
    """The operations that an encoder calls and an interpreter implements; `V` is its handle of a tensor.

    Shapes: B texts, S tokens, H hidden; N query heads, K key/value heads and D head dimension are a layer's.
    Weights are named as in `Checkpoint.tensors`. Padding is on the right; the interpreter holds ids and mask.
    """

    def embedding(self, weight: str, scale: float) -> V:
        """Rows of `weight` for the input ids, times `scale`: [B, S, H]."""

    def linear(self, x: V, *weights: str) -> tuple[V, ...]:
        """`x @ W.T` for each weight [out, in]: [B, S, out] each."""

    def linear_beside(self, x: V, weight: str, beside: V) -> V:
        """`linear` of one weight, computed no earlier than `beside`, which has the shape of `x`. Without that
        order, the products that all layers take from one tensor could be computed at once and fill memory."""

    def rms_norm(self, x: V, weight: str, before: float = 1.0) -> V:
        """Root-mean-square norm of `x` times `before` over the last axis, times the gain `weight`."""

    def head_norm(self, x: V, weight: str | None, scale: float, layer: Layer) -> V:
        """`rms_norm` over each head of [B, S, heads * D] separately, times `scale`; None is a gain of 1."""

    def rope(self, x: V, layer: Layer) -> V:
        """Rotary position embedding (halves rotated) on each head of [B, S, heads * D]."""

    def attention(self, q: V, k: V, v: V, layer: Layer) -> V:
        """softmax(q k^T) v per head, padding masked, within the window if there is one: [B, S, N * D]."""

    def gelu_gate(self, gate: V, up: V) -> V:
        """tanh-approximated GELU of `gate`, times `up`."""

    def residual(self, x: V, update: V, name: str) -> V:
        """`x + update`; comparisons of layers find it under `name`."""

    def scaled(self, x: V, weight: str) -> V:
        """`x` times the number `weight`, of shape [1]."""

    def token_states(self, x: V, weight: str) -> V:
        """`x @ W.T` of each token as an output, float32 [B, S, out]; may return `x` if there is none."""

    def mean_pool(self, x: V) -> V:
        """Mean over the real tokens (`<bos>`, `<eos>` and prompt included): [B, H]."""

    def dense(self, x: V, stage: DenseStage) -> V:
        """`activation(x @ W.T + b)`: [B, out]."""

    def l2_normalize(self, x: V) -> V:
        """`x / max(|x|, 1e-12)` over the last axis, as torch's `normalize`."""
