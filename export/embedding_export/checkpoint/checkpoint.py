"""A sentence-transformers EmbeddingGemma checkpoint, read and checked as a whole.

Anything that is not understood is refused by name, because a wrong vector is worse than none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.registry import read_figures
from embedding_export.checkpoint.model_tensors import read_model_tensors
from embedding_export.checkpoint.stages import Stages, check_encoder_folder, read_stages
from embedding_export.checkpoint.text_config import (
    PromptConfig,
    SimilarityName,
    check_case,
    check_named_tokens,
    find_tokenizer,
    read_prompt_config,
    read_text_config,
)
from embedding_export.errors import CheckpointError
from embedding_export.files.commands import NEW_FOLDER, python_command
from embedding_export.files.hub import is_hub_id, locate
from embedding_export.files.json_files import read_fields
from embedding_export.files.tensors import Tensor, fingerprint
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_runtime.bundle import Source

_CLIENT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
_LICENSE = re.compile(r"(licen[sc]e|notice|copying|use_policy|terms|gemma_terms)", re.IGNORECASE)
# Weights that are known by their fingerprint, whatever their folder is called.
KNOWN_WEIGHTS = {
    "bcf23c5359e0bab6e587be623126e3511ca21a07b53867080075b3390b6bd1a2": "google/embeddinggemma-300m",
}
_QAT = re.compile(r"qat[-_.](q\d+_\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """Everything the exporter needs to know; no weight is in memory until a tensor is read.

    If config.json was repaired, `config_overrides` must be passed to the reference as `config_kwargs`, and
    `client_config` has the corrected values for the config.json of other clients. `tensors` holds exactly the
    tensors of the model, by canonical name; linears are [out, in], and gains are the factors of norms.
    """

    path: Path
    source: Source
    config: Figures
    dense: tuple[DenseStage, ...]
    normalize: bool
    include_prompt: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: SimilarityName
    truncate_dim: int | None
    do_lower_case: bool
    tokenizer: TokenizerFile
    client_files: tuple[Path, ...]
    license_files: tuple[Path, ...]
    config_overrides: dict[str, Any]
    client_config: dict[str, Any]
    tensors: Mapping[str, Tensor]


def load_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    sliding_window: int | None = None,
    max_length: int | None = None,
) -> Checkpoint:
    """Read a folder, or a hub id `organisation/name` at `revision`, and check it completely.

    `sliding_window` gives the right value if the one in `config.json` is in doubt (512, not 257).
    `max_length` is the number of tokens of a text that are read; None means the model's own limit, or 2,048
    if that is higher. Every byte of the weights is read once (hash, finite values); anonymous memory stays
    small.

    Raises:
        CheckpointError: missing, damaged, inconsistent, or of a kind that is not supported.
    """
    where = locate(name_or_path, revision, lambda file: read_figures(file, sliding_window))
    folder = where.folder
    _refuse_adapter(folder)
    check_encoder_folder(folder)
    config, repairs = read_figures(folder / "config.json", sliding_window)
    stages = read_stages(folder, config.output_size)
    text = read_text_config(folder, config.max_position_embeddings, max_length)
    prompts = read_prompt_config(folder)
    tokenizer = TokenizerFile.read(find_tokenizer(folder), config.vocab_size, lower=text.do_lower_case)
    check_named_tokens(folder, tokenizer.added_tokens)
    check_case(folder, tokenizer.data.get("normalizer"), text.do_lower_case)
    tensors, left_out = read_model_tensors(folder, config, stages)
    weights = fingerprint(tensors)
    source = Source(
        name=KNOWN_WEIGHTS.get(weights, where.name),
        revision=where.revision,
        weights_sha256=weights,
        dtype="+".join(sorted({t.dtype for t in tensors.values()})),
        qat=_qat(where.name, folder / "config.json"),
        notes=repairs.notes + text.notes + _tokens_left_out(tokenizer, config.vocab_size) + left_out,
        random_weights=read_fields(folder / "config.json").boolean("random_weights", False),
    )
    return Checkpoint(
        path=folder,
        source=source,
        config=config,
        dense=stages.dense,
        normalize=stages.normalize,
        include_prompt=stages.include_prompt,
        max_seq_length=text.max_seq_length,
        prompts=prompts.prompts,
        default_prompt_name=prompts.default_prompt_name,
        similarity_fn_name=prompts.similarity_fn_name,
        truncate_dim=_truncate_dim(prompts, stages, config),
        do_lower_case=text.do_lower_case,
        tokenizer=tokenizer,
        client_files=tuple(folder / n for n in _CLIENT_FILES if (folder / n).is_file()),
        license_files=tuple(p for p in sorted(folder.iterdir()) if p.is_file() and _LICENSE.match(p.name)),
        config_overrides=dict(repairs.overrides),
        client_config=dict(repairs.client_config),
        tensors=tensors,
    )


def _truncate_dim(prompts: PromptConfig, stages: Stages, config: Figures) -> int | None:
    """The stored `truncate_dim` if it shortens vectors; the reference ignores a larger one."""
    full = stages.dense[-1].out_features if stages.dense else config.output_size
    dim = prompts.truncate_dim
    return dim if dim is not None and dim < full else None


def _tokens_left_out(tokenizer: TokenizerFile, rows: int) -> tuple[str, ...]:
    if not tokenizer.without_row:
        return ()
    return (
        f"the embedding table ({rows} rows) has no row for the special token "
        f"{', '.join(tokenizer.without_row)}, so it is left out: in a text it is read as ordinary text",
    )


def _refuse_adapter(folder: Path) -> None:
    file = folder / "adapter_config.json"
    if not file.exists():
        return
    refusal = f"{folder} holds an adapter (adapter_config.json) that is not merged into the model. "
    base = str(read_fields(file).values.get("base_model_name_or_path") or "")
    if not base or not (Path(base).is_dir() or is_hub_id(base)):
        raise CheckpointError(
            f"{refusal}It was trained on {base or 'a model that it does not name'}, which is not here: put "
            "the folder or hub id of that model into adapter_config.json, as base_model_name_or_path, and "
            "export again: then this message has the command that merges it."
        )
    code = (
        "from peft import PeftModel; from sentence_transformers import SentenceTransformer; "
        f"from transformers import AutoModel; m = SentenceTransformer({str(folder)!r}); "
        f"base = AutoModel.from_pretrained({base!r}, dtype='float32'); "
        f"m[0].model = PeftModel.from_pretrained(base, {str(folder)!r}).merge_and_unload(); "
        f"m.save_pretrained({NEW_FOLDER!r})"
    )
    raise CheckpointError(
        f"{refusal}Where sentence-transformers and peft are installed, one command merges it to "
        f"{NEW_FOLDER}, which can be exported: {python_command(code)}"
    )


def _qat(name: str, config: Path) -> str | None:
    """The number format of quantization-aware training, by the checkpoint's name or its config's."""
    values = read_fields(config).values
    match = _QAT.search(name) or _QAT.search(str(values.get("_name_or_path", "")))
    return match[1].lower() if match else None
