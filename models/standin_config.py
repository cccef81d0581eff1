"""The JSON files of a stand-in, in the two layouts that EmbeddingGemma checkpoints come in.

Knows nothing of weights and of the tokenizer's own file. `transformers-4` is the layout of the published
checkpoint (transformers 4.57, sentence-transformers 5.1); `transformers-5` is what sentence-transformers
6.2 writes on transformers 5.23 when it saves the same model: `<mask>` is special from then on.
"""

import dataclasses
from typing import Any, Literal

from standin_tokenizer import GEMMA_3, IMAGE, Names, added_tokens
from standin_weights import Shape

Dialect = Literal["transformers-4", "transformers-5"]

_SEARCH, _DOCUMENT = "task: search result | query: ", "title: none | text: "
_CLASSES, _SIMILAR = "task: classification | query: ", "task: sentence similarity | query: "
PROMPTS = {
    "query": _SEARCH,
    "document": _DOCUMENT,
    "BitextMining": _SEARCH,
    "Clustering": "task: clustering | query: ",
    "Classification": _CLASSES,
    "InstructionRetrieval": "task: code retrieval | query: ",
    "MultilabelClassification": _CLASSES,
    "PairClassification": _SIMILAR,
    "Reranking": _SEARCH,
    "Retrieval": _SEARCH,
    "Retrieval-query": _SEARCH,
    "Retrieval-document": _DOCUMENT,
    "STS": _SIMILAR,
    "Summarization": "task: summarization | query: ",
}
CONTROL = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
CARD = """---
license: apache-2.0
pipeline_tag: sentence-similarity
library_name: sentence-transformers
---

# A stand-in for EmbeddingGemma

Random weights in its file layout, for tests: the vectors mean nothing.
"""
STAGES = (
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Dense", "Dense"),
    ("3_Dense", "Dense"),
    ("4_Normalize", "Normalize"),
)
NEW_MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
# What a stage reads and writes, where the newer layout says it.
VECTOR = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def documents(shape: Shape, dialect: Dialect, dtype: str) -> dict[str, Any]:
    """Every JSON file but tokenizer.json and the index of shards: path in the checkpoint, and content."""
    newer = dialect == "transformers-5"
    versions = ("6.2.0", "5.23.0", "2.13.0") if newer else ("5.1.0", "4.57.0.dev0", "2.8.0+cu128")
    files: dict[str, Any] = {
        "config.json": _encoder(shape, newer, dtype),
        "modules.json": _modules(newer),
        "1_Pooling/config.json": _pooling(shape, newer),
        "2_Dense/config.json": _dense(shape.hidden, shape.dense, newer),
        "3_Dense/config.json": _dense(shape.dense, shape.hidden, newer),
        "sentence_bert_config.json": _transformer(shape, newer),
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": dict(
                zip(("sentence_transformers", "transformers", "pytorch"), versions, strict=True)
            ),
            "prompts": PROMPTS,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": _tokenizer(shape, newer),
    }
    if newer:
        return files | {"4_Normalize/config.json": VECTOR}
    return files | {
        "added_tokens.json": {IMAGE["image_token"]: shape.vocab},
        "generation_config.json": {"cache_implementation": "hybrid", "transformers_version": "4.57.0.dev0"},
        "special_tokens_map.json": _special_tokens(),
    }


def token_names(dialect: Dialect) -> Names:
    """The tokenizer's added tokens, and what its files call special."""
    if dialect == "transformers-5":
        return dataclasses.replace(GEMMA_3, special=GEMMA_3.special | {"<mask>"})
    return GEMMA_3


def _encoder(shape: Shape, newer: bool, dtype: str) -> dict[str, Any]:
    """A `gemma3_text` encoder that attends in both directions."""
    return {
        "_sliding_window_pattern": 6,
        "architectures": ["Gemma3TextModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "dtype": dtype,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_types": ["full_attention" if wide else "sliding_attention" for wide in shape.layers],
        "max_position_embeddings": shape.max_length,
        "model_type": "gemma3_text",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": len(shape.layers),
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": shape.query_scalar,
        "random_weights": True,
        "rms_norm_eps": 1e-06,
        **_rope(newer),
        "sliding_window": shape.sliding_window,
        **({"tie_word_embeddings": True} if newer else {}),
        "transformers_version": "5.23.0" if newer else "4.57.0.dev0",
        "use_bidirectional_attention": True,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def _rope(newer: bool) -> dict[str, Any]:
    wide, near = 1_000_000.0, 10_000.0
    if not newer:
        return {"rope_local_base_freq": near, "rope_scaling": None, "rope_theta": wide}
    bases = {"full_attention": wide, "sliding_attention": near}
    return {"rope_parameters": {kind: {"rope_theta": b, "rope_type": "default"} for kind, b in bases.items()}}


def _modules(newer: bool) -> list[dict[str, Any]]:
    types = {
        kind: NEW_MODULES[kind] if newer else f"sentence_transformers.models.{kind}" for _, kind in STAGES
    }
    return [
        {"idx": i, "name": str(i), "path": folder, "type": types[kind]}
        for i, (folder, kind) in enumerate(STAGES)
    ]


def _pooling(shape: Shape, newer: bool) -> dict[str, Any]:
    if newer:
        return {"embedding_dimension": shape.hidden, "pooling_mode": "mean", "include_prompt": True}
    others = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {
        "word_embedding_dimension": shape.hidden,
        "pooling_mode_mean_tokens": True,
        **{f"pooling_mode_{other}": False for other in others},
        "include_prompt": True,
    }


def _dense(inputs: int, outputs: int, newer: bool) -> dict[str, Any]:
    stage = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    return stage | VECTOR if newer else stage


def _transformer(shape: Shape, newer: bool) -> dict[str, Any]:
    """sentence_bert_config.json; the newer one leaves the length to the tokenizer's `model_max_length`."""
    if not newer:
        return {"max_seq_length": shape.max_length, "do_lower_case": False}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    }


def _special_tokens() -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {**IMAGE, **{role: {"content": token, **flags} for role, token in CONTROL.items()}}


def _tokenizer(shape: Shape, newer: bool) -> dict[str, Any]:
    """tokenizer_config.json; the newer one leaves the added tokens to tokenizer.json."""
    config = {
        **CONTROL,
        **IMAGE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_length,
        "padding_side": "right",
        "sp_model_kwargs": None,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "use_default_system_prompt": False,
    }
    if newer:
        names = {"mask_token": "<mask>", "model_specific_special_tokens": IMAGE}
        return config | names | {"backend": "tokenizers"}
    added = {str(token.pop("id")): token for token in added_tokens(shape.vocab, GEMMA_3)}
    return config | {
        "add_bos_token": True,
        "add_eos_token": True,
        "added_tokens_decoder": added,
        "extra_special_tokens": IMAGE,
    }
