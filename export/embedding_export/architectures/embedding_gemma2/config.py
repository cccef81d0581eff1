"""Reads the `config.json` of an EmbeddingGemma 2, of the whole model or of its text model alone.

Settings that the encoder does not implement are refused by name. Defaults are those of transformers'
EmbeddingGemma2TextConfig (5.23).
"""

from collections.abc import Mapping

from embedding_export.architectures.interface.figures import Figures, Layer, LayerType, Repairs
from embedding_export.errors import CheckpointError
from embedding_export.files.json_files import Fields

MODEL_TYPE = "embedding_gemma2_text"

_LAYER_TYPES: dict[str, LayerType] = {"sliding_attention": "local", "full_attention": "global"}
_OF_LAYERS = ("head_dim", "num_key_value_heads")
# The global layers' own where the file does not say.
_GLOBAL_HEAD_DIM, _GLOBAL_KV_HEADS = 512, 1
_OFF: tuple[object, ...] = (None, False, 0)
_DEVELOPMENT = "a published EmbeddingGemma 2 has no such key: this is a Gemma 4 or a development version"
_ONLY: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("hidden_activation", ("gelu_pytorch_tanh",), "the MLP is computed with the tanh form of GELU"),
    ("attention_bias", _OFF, "q, k, v and o are computed without bias"),
    ("attn_logit_softcapping", (None,), "attention scores are not capped"),
    ("final_logit_softcapping", (None,), "there are no logits to cap"),
    ("query_pre_attn_scalar", (None,), "attention scores are not scaled"),
    ("partial_rotary_factor", (None, 1, 1.0), "rotary embeddings rotate the whole head"),
    ("rope_scaling", (None, {}), "rotary embeddings are not scaled"),
    ("auto_map", (None, {}), "code in the checkpoint is not run"),
    ("quantization_config", (None, {}), "take the unquantized checkpoint that it was made from"),
    ("use_bidirectional_attention", (None,), _DEVELOPMENT),
    ("num_kv_shared_layers", _OFF, _DEVELOPMENT),
    ("attention_k_eq_v", _OFF, _DEVELOPMENT),
    ("enable_moe_block", _OFF, _DEVELOPMENT),
    ("num_experts", _OFF, _DEVELOPMENT),
    ("use_double_wide_mlp", _OFF, _DEVELOPMENT),
    ("vocab_size_per_layer_input", _OFF, _DEVELOPMENT),
)


def read_figures(fields: Fields, sliding_window: int | None = None) -> tuple[Figures, Repairs]:
    """The text encoder's figures; `sliding_window` replaces the file's value.

    Raises:
        CheckpointError: a setting that the encoder does not implement.
    """
    text = fields.nested("text_config") if "text_config" in fields.values else fields
    _refuse_others(text)
    window, repairs = _window(text, sliding_window)
    layer_types = _layer_types(text)
    local = Layer(
        heads=text.integer("num_attention_heads", 4),
        kv_heads=text.integer("num_key_value_heads", 2),
        head_dim=text.integer("head_dim", 256),
        window=window,
        rope_theta=_rope_theta(text, "sliding_attention", 10_000.0),
    )
    wide = _global_layer(text, layer_types, local)
    for layer in (local, wide):
        if layer.heads % layer.kv_heads:
            raise text.wrong("num_key_value_heads", f"divisors of num_attention_heads ({layer.heads})")
        if layer.head_dim % 2:
            raise text.wrong("head_dim", "even numbers (rotary embeddings rotate pairs)")
    figures = Figures(
        model_type=MODEL_TYPE,
        hidden_size=text.integer("hidden_size", 512),
        intermediate_size=text.integer("intermediate_size", 2048),
        output_size=text.integer("embedding_dim", 768),
        vocab_size=text.integer("vocab_size", 262_144),
        layer_types=layer_types,
        local_layer=local,
        global_layer=wide,
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        attention_scale=1.0,
        max_position_embeddings=text.integer("max_position_embeddings", 262_144),
        per_layer_size=text.integer("hidden_size_per_layer_input", 512),
    )
    return figures, repairs


def _refuse_others(text: Fields) -> None:
    if text.values.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise text.wrong("model_type", f"{MODEL_TYPE!r} of the text model")
    for key, accepted, why in _ONLY:
        if key in text.values:
            text.refuse_unless(key, accepted, why)


def _window(text: Fields, requested: int | None) -> tuple[int, Repairs]:
    """How far local layers attend to either side: `sliding_window` itself, which saving does not change.

    Files of a development version hold twice that value; they are refused because of their other keys.
    """
    in_file = text.integer("sliding_window", 512)
    if requested is None or requested == in_file:
        return in_file, Repairs({}, {}, ())
    raise CheckpointError(
        f"{text.file}: sliding_window is {in_file}, but {requested} was requested. An EmbeddingGemma 2 "
        "attends over as many tokens to either side as its file says, and saving does not change it: leave "
        "out --sliding-window (in Python sliding_window=), or correct the file."
    )


def _layer_types(text: Fields) -> tuple[LayerType, ...]:
    count = text.integer("num_hidden_layers", 24)
    names = text.values.get("layer_types")
    if names is None:
        pattern = text.integer("sliding_window_pattern", 6)
        names = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]
        names[-1] = "full_attention"
    if not isinstance(names, list) or len(names) != count or any(str(n) not in _LAYER_TYPES for n in names):
        raise text.wrong("layer_types", f"{count} (num_hidden_layers) of {', '.join(_LAYER_TYPES)}")
    if names[-1] != "full_attention":
        raise text.wrong("layer_types", "full_attention at the end, which transformers enforces")
    return tuple(_LAYER_TYPES[name] for name in names)


def _global_layer(text: Fields, layer_types: tuple[LayerType, ...], local: Layer) -> Layer:
    """The shape that all global layers share; local ones have that of the model."""
    shapes = _shapes(text, layer_types, local)
    for kind in ("local", "global"):
        distinct = {shapes[i] for i, k in enumerate(layer_types) if k == kind}
        if len(distinct) > 1 or (kind == "local" and distinct - {(local.head_dim, local.kv_heads)}):
            raise text.wrong(
                "per_layer_config", "one shape for all global layers, and the model's shape for the others"
            )
    head_dim, kv_heads = shapes[len(layer_types) - 1]
    theta = _rope_theta(text, "full_attention", 1_000_000.0)
    return Layer(local.heads, kv_heads, head_dim, None, theta)


def _shapes(text: Fields, layer_types: tuple[LayerType, ...], local: Layer) -> Mapping[int, tuple[int, int]]:
    """Head dimension and key heads of each layer; the file's keys are numbers, perhaps zero-padded."""
    count = len(layer_types)
    if text.values.get("per_layer_config") is None:
        head_dim = text.integer("global_head_dim", _GLOBAL_HEAD_DIM)
        wide = head_dim, text.integer("num_global_key_value_heads", _GLOBAL_KV_HEADS)
        return {
            i: wide if kind == "global" else (local.head_dim, local.kv_heads)
            for i, kind in enumerate(layer_types)
        }
    nested = text.nested("per_layer_config")
    own = {int(key): nested.nested(key) for key in nested.values if key.isdecimal()}
    if len(own) != len(nested.values) or not own.keys() <= set(range(count)):
        raise text.wrong("per_layer_config", f"the numbers of layers, 0 to {count - 1}, once each")
    for layer, fields in own.items():
        if other := sorted(set(fields.values) - set(_OF_LAYERS)):
            raise CheckpointError(
                f"{text.file}: per_layer_config of layer {layer} has {', '.join(other)}; expected "
                f"{' and '.join(_OF_LAYERS)} only. Layers that differ in more are not supported."
            )
    plain = Fields(text.file, {})
    return {
        i: (
            own.get(i, plain).integer("head_dim", local.head_dim),
            own.get(i, plain).integer("num_key_value_heads", local.kv_heads),
        )
        for i in range(count)
    }


def _rope_theta(text: Fields, layer_type: str, default: float) -> float:
    nested = text.nested("rope_parameters")
    if other := sorted(set(nested.values) - set(_LAYER_TYPES)):
        raise CheckpointError(
            f"{text.file}: rope_parameters has {other}; expected one entry for each of "
            f"{', '.join(_LAYER_TYPES)}."
        )
    own = nested.nested(layer_type)
    supported = {"rope_type", "rope_theta", "partial_rotary_factor"}
    whole = own.values.get("partial_rotary_factor") in (None, 1, 1.0)
    if own.values.get("rope_type", "default") != "default" or set(own.values) - supported or not whole:
        raise CheckpointError(
            f"{text.file}: rotary embeddings are scaled or partial ({own.values}), which is not supported; "
            "expected rope_type 'default' and a rope_theta for each kind of layer."
        )
    return own.number("rope_theta", default)
