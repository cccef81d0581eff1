"""Reads how a checkpoint treats text: length, case, prompts, similarity, ids."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedding_export.checkpoint.chat_template import check_chat_template
from embedding_export.errors import CheckpointError
from embedding_export.files.commands import python_command
from embedding_export.files.json_files import Fields, read_fields_if_present

# What EmbeddingGemma 2 is made for (its card); its config.json speaks of 262,144 positions.
LONGEST = 8_192
# <bos>, one token of text and <eos>.
LEAST = 3
# What a bundle takes where nothing else is asked for: the first model's length.
USUAL = 2_048

SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]

_SIMILARITIES: tuple[SimilarityName, ...] = ("cosine", "dot", "euclidean", "manhattan")
# Tokens with a name of their own that any tokenizer may have.
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
_LOADING = (
    "model_args",
    "model_kwargs",
    "tokenizer_args",
    "processor_kwargs",
    "config_args",
    "config_kwargs",
)
_KNOWN = {
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "unpad_inputs",
}


@dataclass(frozen=True)
class TextConfig:
    """Length in tokens (`<bos>` and `<eos>` included) and case folding, from `sentence_bert_config.json`."""

    max_seq_length: int
    do_lower_case: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PromptConfig:
    """Prompts by name, and what is used by default, from `config_sentence_transformers.json`.

    `truncate_dim` is the number of components of a vector that the model keeps, if it says so.
    """

    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: SimilarityName
    truncate_dim: int | None


def read_text_config(folder: Path, max_position_embeddings: int, max_length: int | None = None) -> TextConfig:
    """Read `sentence_bert_config.json`; the length falls back to that of `tokenizer_config.json`.

    `max_length` shortens it; None means `USUAL` for a model that takes more.

    Raises:
        CheckpointError: an unsupported setting that changes how text is read, or a length that the model does
            not take.
    """
    fields = read_fields_if_present(folder / "sentence_bert_config.json")
    _refuse_special(fields)
    if "message" in fields.nested("modality_config").values:
        check_chat_template(folder)
    notes: tuple[str, ...] = ()
    most = min(max_position_embeddings, LONGEST)
    if fields.values.get("max_seq_length") is None:
        length = min(_tokenizer_length(folder), most)
    else:
        length = fields.integer("max_seq_length")
    if length > most:
        why = "the encoder's positions" if most < LONGEST else "the most that a bundle takes"
        notes = (f"max_seq_length {length} reduced to {most}, {why}",)
        length = most
    if length < 2:
        raise CheckpointError(
            f"{fields.file}: texts may have {length} tokens; expected 2 or more, <bos> and <eos> among them. "
            "Correct max_seq_length."
        )
    if max_length is not None and not LEAST <= max_length <= length:
        raise CheckpointError(
            f"The requested length (--max-length) is {max_length} tokens; expected {LEAST} to {length}, the "
            f"most that {folder} takes."
        )
    if max_length is None and length > USUAL:
        notes += (f"texts of up to {USUAL} tokens; --max-length takes up to {length}",)
        max_length = USUAL
    return TextConfig(max_length or length, fields.boolean("do_lower_case", False), notes)


def read_prompt_config(folder: Path) -> PromptConfig:
    """Read `config_sentence_transformers.json`; as in the reference, `query` and `document` always exist.

    Raises:
        CheckpointError: another kind of model, prompts that are not text, or an unknown default prompt.
    """
    fields = read_fields_if_present(folder / "config_sentence_transformers.json")
    if (kind := fields.values.get("model_type")) not in (None, "SentenceTransformer"):
        raise CheckpointError(
            f"{fields.file}: model_type is {kind}; expected SentenceTransformer (dense vectors)."
        )
    saved = fields.nested("prompts")
    prompts = {"query": "", "document": ""}
    prompts |= {name: "" if text is None else saved.text(name) for name, text in saved.values.items()}
    default = None
    if fields.values.get("default_prompt_name") is not None:
        default = fields.text("default_prompt_name")
        if default not in prompts:
            raise fields.wrong("default_prompt_name", f"one of {', '.join(prompts)}")
    dim = fields.integer("truncate_dim") if fields.values.get("truncate_dim") is not None else None
    return PromptConfig(prompts, default, _similarity(fields), dim)


def find_tokenizer(folder: Path) -> Path:
    """The path of `tokenizer.json`.

    Raises:
        CheckpointError: there is only `tokenizer.model`.
    """
    path = folder / "tokenizer.json"
    if not path.exists() and (folder / "tokenizer.model").exists():
        raise CheckpointError(
            f"{folder} has tokenizer.model but no tokenizer.json. Where transformers is installed, one "
            f"command writes it: {_saving_tokenizer(folder)}"
        )
    return path


def check_named_tokens(folder: Path, added: Collection[str]) -> None:
    """Refuse tokens that `tokenizer_config.json` alone names: transformers adds them as it reads.

    `added` are the added tokens of `tokenizer.json`.

    Raises:
        CheckpointError: names them, and the command that writes them into `tokenizer.json`.
    """
    fields = read_fields_if_present(folder / "tokenizer_config.json").values
    named = [fields.get(key) for key in _NAMED]
    for key in ("extra_special_tokens", "additional_special_tokens", "added_tokens_decoder"):
        value = fields.get(key)
        named += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    contents = (token.get("content") if isinstance(token, dict) else token for token in named)
    if missing := [c for c in dict.fromkeys(c for c in contents if isinstance(c, str)) if c not in added]:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'} names tokens that tokenizer.json lacks: "
            f"{', '.join(missing[:5])}. transformers adds them when it reads the checkpoint; here they would "
            "be plain text. Where transformers is installed, one command writes them: "
            f"{_saving_tokenizer(folder)}"
        )


def _saving_tokenizer(folder: Path) -> str:
    """The command that reads a tokenizer as transformers does, and writes its files anew."""
    where = repr(str(folder))
    return python_command(
        "from transformers import AutoTokenizer; "
        f"AutoTokenizer.from_pretrained({where}).save_pretrained({where})"
    )


def _lowers(normalizer: Any) -> bool:
    """Whether a normalizer of the `tokenizers` library has a Lowercase, at any depth."""
    if not isinstance(normalizer, dict):
        return False
    return normalizer.get("type") == "Lowercase" or any(map(_lowers, normalizer.get("normalizers") or []))


def _rebuilt(folder: Path) -> bool:
    """Whether transformers rebuilds the tokenizer, as its Gemma classes do, and so drops a Lowercase step."""
    kind = read_fields_if_present(folder / "tokenizer_config.json").values.get("tokenizer_class")
    return isinstance(kind, str) and kind.startswith("Gemma")


def check_case(folder: Path, normalizer: Any, do_lower_case: bool) -> None:
    """Refuse a tokenizer that lowers texts although the reference does not once it has been reloaded.

    Raises:
        CheckpointError: its normalizer lowers, and `do_lower_case` is false.
    """
    if not do_lower_case and _lowers(normalizer) and _rebuilt(folder):
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} lowers texts, but sentence_bert_config.json does not say so. "
            "sentence-transformers saves a model with do_lower_case like this, and then reads it without "
            'lowering. If the model was trained on lower case, put "do_lower_case": true into '
            "sentence_bert_config.json; if not, take the Lowercase out of tokenizer.json."
        )


def _refuse_special(fields: Fields) -> None:
    for key in ("processing_kwargs", "query_length", "document_length", "query_expansion", *_LOADING):
        harmless = {"attn_implementation", "dtype", "torch_dtype"} if key.startswith("model_") else set()
        value = fields.values.get(key)
        if value and not (isinstance(value, dict) and set(value) <= harmless):
            raise CheckpointError(
                f"{fields.file}: {key} is {value}, which is not supported: it may change the vectors."
            )
    expected: tuple[tuple[str, Any], ...] = (
        ("transformer_task", "feature-extraction"),
        ("module_output_name", "token_embeddings"),
    )
    for key, value in expected:
        if fields.values.get(key) not in (None, value):
            raise fields.wrong(key, repr(value))
    modality = fields.nested("modality_config").values
    if modality and modality.get("text") != _TEXT_MODALITY:
        raise fields.wrong("modality_config", f"'text': {_TEXT_MODALITY}")
    fields.refuse_unknown(
        {*_KNOWN, *_LOADING, "processing_kwargs", "query_length", "document_length", "query_expansion"}
    )


def _tokenizer_length(folder: Path) -> int:
    """`model_max_length`; absent means no limit, and is saved as a number of about 1e30."""
    value = read_fields_if_present(folder / "tokenizer_config.json").values.get("model_max_length")
    return int(min(value, sys.maxsize)) if isinstance(value, int | float) and value > 0 else sys.maxsize


def _similarity(fields: Fields) -> SimilarityName:
    """The saved name; like the reference, falls back to cosine if there is none or it is unknown."""
    saved = fields.values.get("similarity_fn_name")
    return next((name for name in _SIMILARITIES if name == saved), "cosine")
