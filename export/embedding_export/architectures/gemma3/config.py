"""Reads the `config.json` of a gemma3_text model, in both dialects.

Settings that the encoder does not implement are refused by name. Defaults and derived values are those of
transformers' Gemma3TextConfig (5.23).
"""

from dataclasses import replace

from embedding_export.architectures.interface.figures import Figures, Layer, LayerType, Repairs
from embedding_export.errors import CheckpointError
from embedding_export.files.json_files import Fields

MODEL_TYPE = "gemma3_text"

_LAYER_TYPES: dict[str, LayerType] = {"sliding_attention": "local", "full_attention": "global"}
_GENUINE_WINDOW = 512
_HALVED_ONCE = 257
_ONLY: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("hidden_activation", ("gelu_pytorch_tanh",), "the MLP is computed with the tanh form of GELU"),
    ("attention_bias", (False,), "q, k, v and o are computed without bias"),
    ("attn_logit_softcapping", (None,), "attention scores are not capped"),
    ("final_logit_softcapping", (None,), "there are no logits to cap"),
    ("is_causal", (True,), "use_bidirectional_attention alone decides the direction"),
    ("partial_rotary_factor", (None, 1, 1.0), "rotary embeddings rotate the whole head"),
    ("per_layer_config", (None, {}), "all layers have the same shape"),
    ("auto_map", (None, {}), "code in the checkpoint is not run"),
)


def read_figures(fields: Fields, sliding_window: int | None = None) -> tuple[Figures, Repairs]:
    """The encoder's figures; `sliding_window` replaces the file's value.

    Raises:
        CheckpointError: a causal model, or a setting that the encoder does not implement.
    """
    _refuse_others(fields)
    window, repairs = repaired_window(fields, sliding_window)
    heads, kv_heads = fields.integer("num_attention_heads", 8), fields.integer("num_key_value_heads", 4)
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    head_dim = fields.integer("head_dim", 256)
    if head_dim % 2:
        raise fields.wrong("head_dim", "an even number (rotary embeddings rotate pairs)")
    near = _rope_theta(fields, "sliding_attention", "rope_local_base_freq", 10_000.0)
    local = Layer(heads, kv_heads, head_dim, window, near)
    far = _rope_theta(fields, "full_attention", "rope_theta", 1_000_000.0)
    hidden_size = fields.integer("hidden_size", 2304)
    figures = Figures(
        model_type=MODEL_TYPE,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 9216),
        output_size=hidden_size,
        vocab_size=fields.integer("vocab_size", 262_208),
        layer_types=_layer_types(fields),
        local_layer=local,
        global_layer=replace(local, window=None, rope_theta=far),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        attention_scale=fields.number("query_pre_attn_scalar", 256) ** -0.5,
        max_position_embeddings=fields.integer("max_position_embeddings", 131_072),
    )
    return figures, repairs


def repaired_window(fields: Fields, requested: int | None = None) -> tuple[int, Repairs]:
    """How far local layers attend, `sliding_window` // 2, with the halving fault of saved configs repaired.

    transformers before 5.23 saved the value it had converted (512 became 257, then 129, 65 ...), so a value
    of the form 2^k + 1 is suspect: 257 is read as 512, others are refused unless `requested` gives the right
    value.

    Raises:
        CheckpointError: a suspect value, or no usable one.
    """
    in_file = fields.integer("sliding_window", 4096)
    if requested is not None and requested < 2:
        raise CheckpointError(
            f"The requested sliding_window is {requested}; expected 2 or more, such as 512."
        )
    if requested is not None:
        return _window(
            in_file,
            requested,
            f"sliding_window {in_file} of config.json replaced by {requested}, as requested",
        )
    if in_file == _HALVED_ONCE:
        note = f"sliding_window {in_file} of config.json read as {_GENUINE_WINDOW}: saving had halved it"
        return _window(in_file, _GENUINE_WINDOW, note)
    if in_file < 2:
        raise fields.wrong("sliding_window", "2 or more, such as 512")
    if in_file % 2 and (in_file - 1).bit_count() == 1:
        raise CheckpointError(
            f"{fields.file}: sliding_window is {in_file}, of the form 2^k + 1: older versions of "
            "transformers halve the value at each save (512, 257, 129, 65 ...). Say which one the model was "
            "trained with, by --sliding-window (in Python sliding_window=): 512 most likely, or "
            f"{in_file} if that is meant."
        )
    return _window(in_file, in_file, "")


def _window(in_file: int, trained: int, note: str) -> tuple[int, Repairs]:
    """The window, and the repairs that other readers need if it differs from the file's.

    transformers assigns overrides after it has turned the file's `sliding_window` into its exclusive bound,
    so the value there is that bound: one more than the window. From a file it reads twice the window.
    """
    window = trained // 2
    if window == in_file // 2:
        return window, Repairs({}, {}, ())
    return window, Repairs({"sliding_window": window + 1}, {"sliding_window": 2 * window}, (note,))


def _refuse_others(fields: Fields) -> None:
    if "text_config" in fields.values:
        raise CheckpointError(
            f"{fields.file}: model_type is {MODEL_TYPE!r} (a text model wrapped for images: it has a "
            "text_config); expected the config of the text model itself."
        )
    if fields.values.get("use_bidirectional_attention") is not True:
        raise CheckpointError(
            f"{fields.file}: use_bidirectional_attention is not true, so this is a causal language model; an "
            "EmbeddingGemma attends in both directions. Use an EmbeddingGemma checkpoint, or restore the key "
            "if a tool dropped it."
        )
    quantization = fields.nested("quantization_config").values
    if quantization:
        method = quantization.get("quant_method", "method unknown")
        raise CheckpointError(
            f"{fields.file}: the weights are quantized (quantization_config, {method}). Use the unquantized "
            "checkpoint they were made from: the exporter quantizes by itself."
        )
    for key, accepted, why in _ONLY:
        if key in fields.values:
            fields.refuse_unless(key, accepted, why)


def _layer_types(fields: Fields) -> tuple[LayerType, ...]:
    count = fields.integer("num_hidden_layers", 26)
    names = fields.values.get("layer_types")
    if names is None:
        pattern = fields.integer("sliding_window_pattern", 6)
        names = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]
    if not isinstance(names, list) or len(names) != count or any(str(n) not in _LAYER_TYPES for n in names):
        raise fields.wrong("layer_types", f"{count} (num_hidden_layers) of {', '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[name] for name in names)


def _rope_theta(fields: Fields, layer_type: str, legacy_key: str, default: float) -> float:
    """The base of one layer type: `rope_parameters` (transformers 5) before the legacy key."""
    nested = fields.nested("rope_parameters")
    own, scaling = nested.nested(layer_type), fields.nested("rope_scaling")
    for values, supported in (
        (own.values, {"rope_type", "type", "rope_theta"}),
        (scaling.values, {"rope_type", "type"}),
    ):
        if values.get("rope_type", values.get("type", "default")) != "default" or set(values) - supported:
            raise CheckpointError(
                f"{fields.file}: rotary embeddings are scaled ({values}), which is not supported; expected "
                "rope_type 'default' and a rope_theta for each kind of layer."
            )
    if flat := sorted(set(nested.values) - set(_LAYER_TYPES)):
        raise CheckpointError(
            f"{fields.file}: rope_parameters has {flat}; expected one entry for each of "
            f"{', '.join(_LAYER_TYPES)}."
        )
    return (
        own.number("rope_theta", default)
        if "rope_theta" in own.values
        else fields.number(legacy_key, default)
    )
