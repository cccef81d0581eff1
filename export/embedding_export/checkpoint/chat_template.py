"""Checks that a chat template leaves texts as they are, by rendering texts with the template itself.

If a checkpoint lists messages among its modalities, sentence-transformers (6.2) puts every text through its
chat template, with the prompt as the system message and the text as the user message. EmbeddingGemma 2's
template joins the two.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedding_export.errors import CheckpointError
from embedding_export.files.json_files import read_fields_if_present

FILE = "chat_template.jinja"
# Older places of a template: a field of the same name in one of these.
_FIELDS = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
_PROMPTS = ("", "task: search result | query: ", " title: none |\ttext:\n")
_TEXTS = (
    "",
    "Which Planet",
    "  two  spaces at both ends \n\n",
    "{{ x }} {% y %} <b> & 'é' \U0001f469",
    "<|image|> <bos>",
)


def check_chat_template(folder: Path) -> None:
    """Refuse a checkpoint whose template gives anything other than the prompt followed by the text.

    Raises:
        CheckpointError: the template does, or there is none, or jinja2 is not installed.
    """
    templates = list(_templates(folder))
    if not templates:
        raise CheckpointError(
            f"{folder} has no {FILE}, though sentence_bert_config.json says that texts go through one "
            '("message" is among its modalities). Fetch the checkpoint again, completely.'
        )
    for path, source in templates:
        for prompt in _PROMPTS:
            for text in _TEXTS:
                if (rendered := _rendered(path, source, prompt, text)) != prompt + text:
                    raise CheckpointError(
                        f"{path}: the chat template makes {rendered[:80]!r} of the prompt {prompt!r} and the "
                        f"text {text!r}; expected the two joined, as EmbeddingGemma 2's does. Texts that are "
                        "framed in another way are not supported."
                    )


def _templates(folder: Path) -> Iterator[tuple[Path, str]]:
    path = folder / FILE
    if path.exists():
        try:
            yield path, path.read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{path} cannot be read ({e}). Fetch it again.") from e
    for name in _FIELDS:
        fields = read_fields_if_present(folder / name)
        if fields.values.get("chat_template") is not None:
            yield folder / name, fields.text("chat_template")


def _rendered(path: Path, source: str, prompt: str, text: str) -> str:
    """Render the template for a prompt and a text, with the settings of transformers (5.23)."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as e:
        raise CheckpointError(
            f"{path}: jinja2, which reads it, is not installed: pip install 'embedding-edge[export]'"
        ) from e
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = json.dumps
    try:
        return environment.from_string(source).render(
            messages=[*([_message("system", prompt)] if prompt else []), _message("user", text)],
            add_generation_prompt=False,
            bos_token="<bos>",
            eos_token="<eos>",
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
        raise CheckpointError(
            f"{path}: the chat template cannot be rendered ({type(e).__name__}: {e}). Fetch it again; other "
            "templates than EmbeddingGemma 2's are not supported."
        ) from e


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
