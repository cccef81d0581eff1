"""Describes a checkpoint in the manifest's dataclasses: architecture, stages, prompts, ids."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from embedding_export.architectures.interface.figures import Figures
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import ExportError
from embedding_runtime.bundle import Architecture, FileRecord, GlobalLayers, Graph, Stage
from embedding_runtime.opening.integrity import sha256

# Matryoshka dimensions that both EmbeddingGemmas were trained for (their model cards), for vectors of 768.
MRL_DIMS = (768, 512, 256, 128)


def architecture(checkpoint: Checkpoint) -> Architecture:
    """The encoder's figures; `parameters` counts every tensor of the checkpoint, Dense stages included."""
    c = checkpoint.config
    return Architecture(
        model_type=c.model_type,
        parameters=sum(int(np.prod(t.shape)) for t in checkpoint.tensors.values()),
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=len(c.layer_types),
        num_attention_heads=c.local_layer.heads,
        num_key_value_heads=c.local_layer.kv_heads,
        head_dim=c.local_layer.head_dim,
        vocab_size=c.vocab_size,
        layer_types=c.layer_types,
        window=c.window,
        global_layers=_global_layers(c),
    )


def _global_layers(config: Figures) -> GlobalLayers | None:
    near, far = config.local_layer, config.global_layer
    if (near.kv_heads, near.head_dim) == (far.kv_heads, far.head_dim):
        return None
    return GlobalLayers(far.kv_heads, far.head_dim)


def stages(checkpoint: Checkpoint) -> tuple[Stage, ...]:
    """The stages after the encoder, in order."""
    dense = [
        Stage("dense", d.in_features, d.out_features, d.bias is not None, d.activation)
        for d in checkpoint.dense
    ]
    return (Stage("mean_pooling"), *dense, *([Stage("normalize")] if checkpoint.normalize else []))


def embedding_dim(checkpoint: Checkpoint) -> int:
    """Length of the sentence embedding."""
    return checkpoint.dense[-1].out_features if checkpoint.dense else checkpoint.config.output_size


def dims(checkpoint: Checkpoint, requested: tuple[int, ...] | None) -> tuple[int, ...]:
    """The MRL dims to record, largest first: the requested ones, else EmbeddingGemma's if the vectors have
    its size.

    Raises:
        ExportError: a dim that is not in 1 … the embedding's length.
    """
    full = embedding_dim(checkpoint)
    if requested is None:
        return MRL_DIMS if full == MRL_DIMS[0] else (full,)
    if wrong := [d for d in requested if not 1 <= d <= full]:
        raise ExportError(f"--dims names {wrong}; this checkpoint's vectors have {full} components.")
    return tuple(sorted({full, *requested}, reverse=True))


def aliases(prompts: Mapping[str, str]) -> dict[str, str]:
    """Friendlier task names: `task: sentence similarity | query: ` makes "sentence similarity" mean STS.

    If several prompts have the same text, the alias stands for the first name; a prompt's own name is never
    hidden.
    """
    by_alias: dict[str, str] = {}
    names = {n.casefold() for n in prompts}
    for name, prompt in prompts.items():
        match = re.fullmatch(r"task: (.+?) \| query: ", prompt)
        if match and match[1].casefold() not in names:
            by_alias.setdefault(match[1].casefold(), name)
    return by_alias


def space_id(checkpoint: Checkpoint, tokenizer: Path) -> str:
    """Same id, same vectors: hash of weights, stages, effective window and tokenizer."""
    facts = {
        "weights": checkpoint.source.weights_sha256,
        "stages": [asdict(s) for s in stages(checkpoint)],
        "window": checkpoint.config.window,
        "tokenizer": sha256(tokenizer),
        "do_lower_case": checkpoint.do_lower_case,
    }
    if not checkpoint.include_prompt:
        facts["include_prompt"] = False
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def versions(graphs: Iterable[Graph]) -> dict[str, str]:
    """Versions of the packages that wrote the bundle and of the engines that ran its graphs."""
    names = ("embedding-edge", "onnx", "numpy", "tokenizers", *sorted({g.engine for g in graphs}))
    return {name: version(name) for name in names}


def file_records(bundle: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file of the bundle that the manifest records."""
    own = {"manifest.json", "parity.json", "parity.html"}
    files = (p for p in sorted(bundle.rglob("*")) if p.is_file())
    names = {p.relative_to(bundle).as_posix(): p for p in files}
    return {n: FileRecord(p.stat().st_size, sha256(p)) for n, p in names.items() if n not in own}
