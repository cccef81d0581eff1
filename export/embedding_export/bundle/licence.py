"""Writes what a bundle must say about its weights' licence, from the checkpoint's licence and model card.

The Gemma Terms of Use (ai.google.dev/gemma/terms, section 3.1) require of anyone who passes a model on: the
restrictions on use stay enforceable, recipients get the terms, modified files say that they were modified,
and a notice file contains a given sentence.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

CARD = "README.md"
# The sentence that section 3.1 of the terms asks for, and where the terms and restrictions are to be read.
GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
)
GEMMA_RESTRICTIONS = (
    "Use is restricted by section 3.2 of these terms and by the Gemma Prohibited Use Policy "
    "(ai.google.dev/gemma/prohibited_use_policy). Whoever passes these files on must pass these restrictions "
    "and a copy of the terms on with them."
)
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Card:
    """A model card: its file, the identifier of its licence, and the models that it was made from."""

    path: Path
    licence: str | None = None
    base_models: tuple[str, ...] = ()


def read_card(folder: Path) -> Card | None:
    """The model card of a checkpoint, or None if it has none.

    The fields read are the hub's `license`, `license_name` (if `license` is "other") and `base_model`. A card
    with damaged front matter is read as one without.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    import yaml

    match = _FRONT_MATTER.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        fields: Any = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        fields = {}
    if not isinstance(fields, dict):
        return Card(path)
    licence = fields.get("license")
    if licence == "other":
        licence = fields.get("license_name", licence)
    bases = fields.get("base_model") or ()
    listed = bases if isinstance(bases, list) else [bases]
    named = tuple(b for b in listed if isinstance(b, str))
    return Card(path, licence.lower() if isinstance(licence, str) else None, named)


def is_gemma(name: str, card: Card | None) -> bool:
    """Whether the Gemma Terms apply: the card says so, or the model is EmbeddingGemma or was made from it."""
    names = [name, *(card.base_models if card else ())]
    made_from = any(re.match(r"google/embeddinggemma-300m", n, re.IGNORECASE) for n in names)
    return made_from or (card is not None and card.licence == "gemma")


def notice(name: str, revision: str | None, sha256: str, card: Card | None, graphs: Iterable[str]) -> str:
    """The text of a bundle's NOTICE: the checkpoint, the modifications, and the weights' licence.

    A checkpoint is named by its hub id (`organisation/name`) if it has one, else by the models from which its
    card says it was made; never by a local folder.
    """
    hub_id = name if "/" in name else None
    made_from = f" made from {', '.join(card.base_models)}" if card and card.base_models else ""
    origin = hub_id or f"a checkpoint{made_from}"
    lines = [
        f"Modified from {origin}{f', revision {revision}' if revision else ''} (weights sha256 {sha256}): "
        f"converted to inference graphs ({', '.join(graphs)}) by embedding-edge {version('embedding-edge')}."
    ]
    if is_gemma(name, card):
        lines += [f"{GEMMA_NOTICE}.", GEMMA_RESTRICTIONS]
    elif card and card.licence:
        lines.append(f"The checkpoint's model card gives its licence as {card.licence}.")
    lines.append("The checkpoint's own licence applies to the weights.")
    return "\n".join(lines) + "\n"


def apache_text() -> str | None:
    """The text of Apache License 2.0, from this package's own files; None where they are not installed."""
    try:
        return distribution("embedding-edge").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        return None
