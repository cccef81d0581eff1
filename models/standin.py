"""Writes stand-ins: checkpoints with an EmbeddingGemma's file layout and random weights.

The real weights are gated and cannot live in a repository; a stand-in exercises every code path that they
do. Knows nothing of the values in tensors (`standin_weights`) or of pieces (`standin_tokenizer`), and
needs numpy alone.
"""

import argparse
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import standin_tokenizer
import standin_weights
from standin_weights import Array, Shape, Weights

Size = Literal["tiny", "full"]
Dialect = Literal["transformers-4", "transformers-5"]
Dtype = Literal["float32", "bfloat16", "float16"]
Sizes = dict[str, tuple[int, ...]]

SHAPES: dict[Size, Shape] = {"tiny": standin_weights.TINY, "full": standin_weights.FULL}

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

_OLD_MODULES = {
    name: f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
}
_NEW_MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_STAGES = (
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Dense", "Dense"),
    ("3_Dense", "Dense"),
    ("4_Normalize", "Normalize"),
)


@dataclass(frozen=True)
class Options:
    """What to write; `sliding_window` replaces the size's own value in config.json."""

    size: Size = "tiny"
    seed: int = 0
    dialect: Dialect = "transformers-5"
    dtype: Dtype = "float32"
    shards: int = 1
    outliers: bool = False
    sliding_window: int | None = None


def write(out: Path, options: Options) -> None:
    """Write a checkpoint into the folder `out`, making it where needed and replacing files of the same names.

    Raises ValueError for fewer than one shard or more shards than tensors.
    """
    shape = SHAPES[options.size]
    weights = Weights(shape, options.seed, options.outliers)
    for folder, _ in _STAGES:
        (out / folder).mkdir(parents=True, exist_ok=True)
    _write_weights(out, weights, options)
    dense = ((shape.dense, shape.hidden), (shape.hidden, shape.dense))
    for (folder, _), size in zip(_STAGES[2:4], dense, strict=True):
        values = lambda name, size, folder=folder: weights.blocks(f"{folder}.{name}", size)  # noqa: E731
        _safetensors(out / folder / "model.safetensors", {"linear.weight": size}, values, options.dtype)
        _json(out / folder / "config.json", _dense_config(size, options.dialect))
    _json(out / "config.json", _config(shape, options))
    _json(out / "1_Pooling" / "config.json", _pooling_config(shape, options.dialect))
    _write_sentence_transformer(out, shape, options.dialect)
    standin_tokenizer.write(out, shape.vocab, options.seed)


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(shape: Shape, options: Options) -> dict[str, Any]:
    """config.json of a `gemma3_text` encoder that attends in both directions."""
    newer = options.dialect == "transformers-5"
    window = shape.sliding_window if options.sliding_window is None else options.sliding_window
    rope = {
        "rope_parameters": {
            "full_attention": {"rope_theta": 1_000_000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
        }
    }
    older_rope = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": None}
    return {
        "_sliding_window_pattern": 6,
        "architectures": ["Gemma3TextModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        ("dtype" if newer else "torch_dtype"): options.dtype,
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
        "rms_norm_eps": 1e-06,
        **(rope if newer else older_rope),
        "sliding_window": window,
        "transformers_version": "5.23.0" if newer else "4.57.0",
        "use_bidirectional_attention": True,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def _pooling_config(shape: Shape, dialect: Dialect) -> dict[str, Any]:
    if dialect == "transformers-5":
        return {"embedding_dimension": shape.hidden, "pooling_mode": "mean", "include_prompt": True}
    others = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {
        "word_embedding_dimension": shape.hidden,
        "pooling_mode_mean_tokens": True,
        **{f"pooling_mode_{other}": False for other in others},
        "include_prompt": True,
    }


def _dense_config(size: tuple[int, int], dialect: Dialect) -> dict[str, Any]:
    return {
        "in_features": size[1],
        "out_features": size[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }


def _write_sentence_transformer(out: Path, shape: Shape, dialect: Dialect) -> None:
    types = _NEW_MODULES if dialect == "transformers-5" else _OLD_MODULES
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": types[kind]}
        for i, (folder, kind) in enumerate(_STAGES)
    ]
    _json(out / "modules.json", modules)
    _json(out / "sentence_bert_config.json", {"max_seq_length": shape.max_length, "do_lower_case": False})
    document = {
        "model_type": "SentenceTransformer",
        "__version__": {"sentence_transformers": "5.1.0", "transformers": "4.57.0", "pytorch": "2.8.0"},
        "prompts": PROMPTS,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    _json(out / "config_sentence_transformers.json", document)


def _write_weights(out: Path, weights: Weights, options: Options) -> None:
    """model.safetensors, or shards of it with their index."""
    sizes = standin_weights.tensors(weights.shape)
    if not 1 <= options.shards <= len(sizes):
        raise ValueError(f"shards is {options.shards}: expected 1 to {len(sizes)}, the number of tensors")
    if options.shards == 1:
        _safetensors(out / "model.safetensors", sizes, weights.blocks, options.dtype)
        return
    names = list(sizes)
    index: dict[str, str] = {}
    for i, part in enumerate(np.array_split(np.arange(len(names)), options.shards)):
        file = f"model-{i + 1:05d}-of-{options.shards:05d}.safetensors"
        index |= {names[j]: file for j in part}
        _safetensors(out / file, {names[j]: sizes[names[j]] for j in part}, weights.blocks, options.dtype)
    total = sum(_bytes(size, options.dtype) for size in sizes.values())
    _json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _safetensors(
    path: Path, sizes: Sizes, blocks: Callable[[str, tuple[int, ...]], Iterator[Array]], dtype: Dtype
) -> None:
    """Write tensors one block at a time: 8 bytes of header length, the JSON header, the bytes in its order."""
    kind = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in sizes.items():
        end = offset + _bytes(size, dtype)
        header[name] = {"dtype": kind, "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in sizes.items():
            for block in blocks(name, size):
                file.write(_encode(block, dtype))


def _bytes(size: tuple[int, ...], dtype: Dtype) -> int:
    return int(np.prod(size)) * (4 if dtype == "float32" else 2)


def _encode(block: Array, dtype: Dtype) -> bytes:
    """Little-endian bytes; bfloat16 is the upper half of float32, rounded to nearest, ties to even."""
    if dtype == "float32":
        return block.astype("<f4", copy=False).tobytes()
    if dtype == "float16":
        return block.astype("<f2").tobytes()
    bits = block.astype("<f4", copy=False).view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a random-weight EmbeddingGemma checkpoint.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the checkpoint into")
    parser.add_argument("--size", choices=get_args(Size), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dialect", choices=get_args(Dialect), default="transformers-5", help="spelling of keys"
    )
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32")
    parser.add_argument("--shards", type=int, default=1, help="number of weight files")
    parser.add_argument(
        "--outliers", action="store_true", help="large activations in a few channels, same vectors"
    )
    parser.add_argument("--sliding-window", type=int, help="another sliding_window in config.json")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    arguments = vars(_parser().parse_args(argv))
    out: Path = arguments.pop("out")
    try:
        write(out, Options(**arguments))
    except (OSError, ValueError) as error:
        print(f"standin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
