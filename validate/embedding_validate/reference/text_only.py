"""Prepares a checkpoint's folder for text alone: without the parts for images and sound.

sentence-transformers loads EmbeddingGemma 2 with all of its parts. The processor needs Pillow and torchvision
even for text, does not truncate texts, and takes control tokens in a text for media, or a `<bos>` before a
batch's first text as a sign that every text has its own (sentence-transformers 6.2, transformers 5.23).
Without the processor, the tokenizer takes its place and gives the same ids.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedding_validate.reference.checks import ReferenceLoadError

_OF_PROCESSORS = frozenset(
    {
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
    }
)
_MEDIA_IDS = ("image_token_id", "video_token_id", "audio_token_id")
_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def has_processor(folder: Path) -> bool:
    """Whether a checkpoint's texts would go through a processor."""
    return any((folder / name).exists() for name in _OF_PROCESSORS) or "vision_config" in _read(
        folder / "config.json"
    )


def write_text_only(folder: Path, view: Path) -> None:
    """Make `view` a copy of a checkpoint's folder for text alone; weights and other large files become links.

    Raises:
        ReferenceLoadError: the system supports neither symbolic nor hard links.
    """

    def without_towers(config: dict[str, Any]) -> dict[str, Any]:
        # A token that stands for media would become padding: in a text it is what its row of the table says.
        media = {key: -1 for key in _MEDIA_IDS if key in config}
        return config | {key: None for key in ("vision_config", "audio_config") if key in config} | media

    def without_processor(config: dict[str, Any]) -> dict[str, Any]:
        # transformers' AutoProcessor takes this class even where the model's own would be a processor.
        left = {k: v for k, v in config.items() if k != "chat_template"}
        return left | {"processor_class": config.get("tokenizer_class", "PreTrainedTokenizerFast")}

    def without_media(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"modality_config": _TEXT, "module_output_name": "token_embeddings"}

    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "config.json": without_towers,
        "tokenizer_config.json": without_processor,
        "sentence_bert_config.json": without_media,
    }
    for source in folder.resolve().iterdir():
        if source.name in changes:
            changed = changes[source.name](_read(source))
            (view / source.name).write_text(json.dumps(changed), encoding="utf-8")
        elif source.name not in _OF_PROCESSORS:
            _link(view / source.name, source)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _link(link: Path, target: Path) -> None:
    if target.is_dir():
        link.mkdir()
        for inner in target.iterdir():
            _link(link / inner.name, inner)
        return
    target = target.resolve()
    try:
        link.symlink_to(target)
    except OSError:  # Windows allows links to those who develop
        try:
            link.hardlink_to(target)
        except OSError as e:
            raise ReferenceLoadError(
                f"{target} cannot be linked in the temporary folder {link.parent} ({e}). Choose one on the "
                "same disk (TMPDIR)."
            ) from e
