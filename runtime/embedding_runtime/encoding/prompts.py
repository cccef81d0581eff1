"""Chooses the prompt that goes before a text.

As in sentence-transformers 6.2, prompt and text are concatenated before tokenizing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from embedding_runtime.errors import InputError, InputTypeError

QUERY_NAMES = ("query",)
DOCUMENT_NAMES = ("document", "passage", "corpus")
TITLE_SLOT = "title: none"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptChoice:
    """The prompt that a caller requests; `names` are tried in order if nothing is requested."""

    prompt: str | None = None
    prompt_name: str | None = None
    task: str | None = None
    names: tuple[str, ...] = ()


def resolve(
    choice: PromptChoice, prompts: Mapping[str, str], aliases: Mapping[str, str], default: str | None
) -> str:
    """The text that goes before each input, "" for none.

    `prompt` takes precedence over `prompt_name` (logged as a warning, as in sentence-transformers); `task` is
    a prompt's name or one of its aliases, in upper or lower case.

    Raises:
        InputError: an unknown name, or `task` given together with another choice.
    """
    if choice.task is not None:
        if choice.prompt is not None or choice.prompt_name is not None:
            raise InputError(
                "Pass either task, or prompt / prompt_name, not both: task is a prompt's name too."
            )
        return prompts[resolve_task(choice.task, prompts, aliases)]
    if choice.prompt is not None:
        if not isinstance(choice.prompt, str):
            raise InputTypeError(f"prompt is a {type(choice.prompt).__name__}; expected a str or None.")
        if choice.prompt_name is not None:
            _logger.warning("Both prompt and prompt_name were given; prompt_name is ignored.")
        return choice.prompt
    name = choice.prompt_name
    if name is None:
        name = next((n for n in choice.names if n in prompts), default)
    return "" if name is None else named(name, prompts)


def named(name: str, prompts: Mapping[str, str]) -> str:
    """The prompt with exactly that name.

    Raises:
        InputError: there is none; the message lists the existing ones.
    """
    if name not in prompts:
        raise InputError(f"Prompt name {name!r} is unknown; this bundle has {list(prompts)}.")
    return prompts[name]


def resolve_task(task: str, prompts: Mapping[str, str], aliases: Mapping[str, str]) -> str:
    """The prompt's name that `task` stands for.

    Raises:
        InputError: neither a prompt's name nor an alias; the message lists both.
    """
    if task in prompts:
        return task
    key = task.lower()
    names = {alias.lower(): name for alias, name in aliases.items() if name in prompts}
    names |= {name.lower(): name for name in prompts}
    if key not in names:
        extra = f", also by the names {sorted(aliases)}" if aliases else ""
        raise InputError(f"Task {task!r} is unknown; this bundle has {list(prompts)}{extra}.")
    return names[key]


def with_title(prompt: str, title: str | None) -> str:
    """The document prompt with its `title: none` replaced; unchanged if the title is None or blank.

    Raises:
        InputError: the prompt has no place for a title.
    """
    if TITLE_SLOT not in prompt:
        raise InputError(
            f"The prompt {prompt!r} has no {TITLE_SLOT!r} to put a title in. Leave titles out, or use the "
            "document prompt."
        )
    if title is None or not title.strip():
        return prompt
    return prompt.replace(TITLE_SLOT, f"title: {title}", 1)


def known_prefixes(prompts: Mapping[str, str]) -> tuple[str, ...]:
    """The prompts with which a text should not already begin."""
    return tuple(sorted({p for p in prompts.values() if p.strip()}))
