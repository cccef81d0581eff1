"""The figures of an encoder, as its architecture reads them from `config.json`."""

from dataclasses import dataclass
from typing import Any, Literal

LayerType = Literal["local", "global"]


@dataclass(frozen=True)
class Layer:
    """The shape of one layer's attention: query heads share key heads in groups of `heads` / `kv_heads`.

    A token attends where |i - j| <= `window`; None means everywhere.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    rope_theta: float

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Figures:
    """Everything that an encoder's computation depends on, other than its weights.

    `model_type` names the architecture in the registry. Layers come in two kinds, which may differ in every
    field of `Layer`. `output_size` is the width of the last hidden state, which is pooled. `per_layer_size`
    is the width of the input that each layer takes from a token's own embedding, in models whose layers have
    one.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    output_size: int
    vocab_size: int
    layer_types: tuple[LayerType, ...]
    local_layer: Layer
    global_layer: Layer
    rms_norm_eps: float
    attention_scale: float
    max_position_embeddings: int
    per_layer_size: int | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer's shape, in order."""
        kinds = {"local": self.local_layer, "global": self.global_layer}
        return tuple(kinds[kind] for kind in self.layer_types)

    @property
    def window(self) -> int:
        """How far the local layers attend to either side."""
        window = self.local_layer.window
        assert window is not None, "local layers have a window"
        return window


@dataclass(frozen=True)
class Repairs:
    """The values of a `config.json` that were wrong, and their corrections for other readers.

    `overrides` is passed to the reference as `config_kwargs`; `client_config` replaces values in the
    config.json that a bundle holds for other clients.
    """

    overrides: dict[str, Any]
    client_config: dict[str, Any]
    notes: tuple[str, ...]
