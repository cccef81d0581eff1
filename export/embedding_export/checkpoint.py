"""A sentence-transformers EmbeddingGemma checkpoint, read and checked as a whole; knows nothing of graphs.

What is not understood is refused by name: a wrong vector is worse than none.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_export.encoder_config import EncoderConfig, read_encoder_config
from embedding_export.errors import CheckpointError
from embedding_export.hub import locate
from embedding_export.json_files import read_fields
from embedding_export.safetensors_files import read_weights
from embedding_export.stages import DenseStage, Stages, read_modules, read_stages
from embedding_export.tensors import Tensor, fingerprint
from embedding_export.text_config import (
    SimilarityName,
    check_tokenizer,
    read_prompt_config,
    read_text_config,
)
from embedding_runtime.bundle import Source

__all__ = ["Checkpoint", "CheckpointError", "DenseStage", "EncoderConfig", "Tensor", "load_checkpoint"]

_CLIENT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
_LICENSE = re.compile(r"(licen[sc]e|notice|copying|use_policy|terms|gemma_terms)", re.IGNORECASE)
_QAT = re.compile(r"qat[-_.](q\d+_\d+)", re.IGNORECASE)
_LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Checkpoint:
    """Everything the exporter needs to know; no weight is in memory until a tensor is read.

    `config_overrides` is what the reference must be given as `config_kwargs` where the window was repaired.
    `tensors` holds exactly the tensors of the model, by canonical name; linears are [out, in], norms the raw
    w of 1 + w.
    """

    path: Path
    source: Source
    config: EncoderConfig
    dense: tuple[DenseStage, ...]
    normalize: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: SimilarityName
    do_lower_case: bool
    tokenizer_json: Path
    client_files: tuple[Path, ...]
    license_files: tuple[Path, ...]
    config_overrides: dict[str, Any]
    tensors: Mapping[str, Tensor]


def load_checkpoint(
    name_or_path: str | Path, *, revision: str | None = None, sliding_window: int | None = None
) -> Checkpoint:
    """Read a folder, or a hub id `organisation/name` at `revision`, and check it completely.

    `sliding_window` says what `config.json` should have said (512, not 257), where that is in doubt. Every
    byte of the weights is read once (hash, finite values); anonymous memory stays small.

    Raises:
        CheckpointError: missing, damaged, inconsistent, or of a kind that is not supported.
    """
    where = locate(name_or_path, revision)
    _refuse_adapter(where.folder)
    root = read_modules(where.folder)[0][1]
    config, window = read_encoder_config(root / "config.json", sliding_window)
    _refuse_adapter(root)
    stages = read_stages(where.folder, config.hidden_size)
    text = read_text_config(root, config.max_position_embeddings)
    prompts = read_prompt_config(where.folder)
    tokenizer_json = check_tokenizer(root, config.vocab_size)
    tensors, dropped = _read_tensors(config, stages)
    source = Source(
        name=where.name,
        revision=where.revision,
        weights_sha256=fingerprint(tensors),
        dtype="+".join(sorted({t.dtype for t in tensors.values()})),
        qat=_qat(where.name, root / "config.json"),
        notes=window.notes + text.notes + dropped,
    )
    return Checkpoint(
        path=where.folder,
        source=source,
        config=config,
        dense=stages.dense,
        normalize=stages.normalize,
        max_seq_length=text.max_seq_length,
        prompts=prompts.prompts,
        default_prompt_name=prompts.default_prompt_name,
        similarity_fn_name=prompts.similarity_fn_name,
        do_lower_case=text.do_lower_case,
        tokenizer_json=tokenizer_json,
        client_files=tuple(root / n for n in _CLIENT_FILES if (root / n).exists()),
        license_files=tuple(
            p for p in sorted(where.folder.iterdir()) if p.is_file() and _LICENSE.match(p.name)
        ),
        config_overrides=dict(window.overrides),
        tensors=tensors,
    )


def expected_shapes(config: EncoderConfig, dense: tuple[DenseStage, ...]) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of every tensor of the model."""
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
        "mlp.gate_proj": (config.intermediate_size, hidden),
        "mlp.up_proj": (config.intermediate_size, hidden),
        "mlp.down_proj": (hidden, config.intermediate_size),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (config.vocab_size, hidden),
        "norm.weight": (hidden,),
    }
    for i in range(config.num_hidden_layers):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    for stage in dense:
        shapes[stage.weight] = (stage.out_features, stage.in_features)
        if stage.bias:
            shapes[stage.bias] = (stage.out_features,)
    return shapes


def _read_tensors(config: EncoderConfig, stages: Stages) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors under canonical names, complete and of the right shapes; and notes on what was left out."""
    found: dict[str, Tensor] = {}
    for prefix, folder in [
        ("", stages.encoder),
        *((f"dense.{i}.", p) for i, p in enumerate(stages.dense_folders)),
    ]:
        for name, tensor in read_weights(folder).items():
            canonical = prefix + name.removeprefix("linear." if prefix else "model.")
            if canonical in found:
                raise CheckpointError(
                    f"{tensor.file}: {canonical} is there twice, as {found[canonical].name} and {name}."
                )
            found[canonical] = dataclasses.replace(tensor, name=name)
    head = found.pop(_LM_HEAD, None)
    expected = expected_shapes(config, stages.dense)
    _refuse_difference(stages.encoder, expected, found)
    tensors = {name: dataclasses.replace(found[name], name=name) for name in expected}
    return tensors, (f"{_LM_HEAD} left out: an embedding has no use for it",) if head else ()


def _refuse_difference(folder: Path, expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {list(found[name].shape)} in {found[name].file.name}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    for what, names in (("lacks the tensors", missing), ("has tensors of the wrong shape:", wrong)):
        if names:
            raise CheckpointError(
                f"{folder} {what} {_few(names)}. The weights do not belong to this config.json, or are "
                "incomplete: fetch the checkpoint again."
            )
    if extra:
        raise CheckpointError(
            f"{folder} has tensors that no part of the model uses: {_few([found[n].name for n in extra])}. "
            "If they are an adapter's, merge it first (merge_and_unload); else this is another model than "
            "config.json says."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json) that is not merged into the model. Merge it "
            "where sentence-transformers and peft are installed: m = SentenceTransformer(CHECKPOINT); "
            "m[0].model = m[0].model.merge_and_unload(); m.save_pretrained(NEW_FOLDER)"
        )


def _qat(name: str, config: Path) -> str | None:
    """The number format of quantization-aware training, as the names of such checkpoints say it."""
    values = read_fields(config).values
    match = _QAT.search(name) or _QAT.search(str(values.get("_name_or_path", "")))
    return match[1].lower() if match else None
