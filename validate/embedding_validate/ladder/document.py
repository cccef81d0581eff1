"""The ladder's document, `ladder.json`: figures as frozen dataclasses, written and read back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_runtime.errors import InputError
from embedding_validate.files import replace_text
from embedding_validate.ladder.quality import Quality
from embedding_validate.records import decode, encode

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Cost:
    """The costs of a graph on the machine: its files, loading, memory, and median milliseconds by tokens.

    None means not measured; `noisy` names the lengths whose times were disturbed.
    """

    bytes: int | None
    first_load_s: float | None
    load_s: float | None
    anonymous_mb: float | None
    mapped_mb: float | None
    median_ms: dict[str, float]
    noisy: tuple[str, ...]


@dataclass(frozen=True)
class Rung:
    """One graph, or the reference (`torch fp32`): quality at every dim, largest first, and cost."""

    name: str
    verdict: str
    quality: tuple[Quality, ...]
    cost: Cost


@dataclass(frozen=True)
class Ladder:
    """Everything that was measured, and on what. `pairs` and `search` describe the data sets by name."""

    checkpoint: str
    weights_sha256: str
    random_weights: bool
    parameters: int
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    threads: int
    pairs: dict[str, Any] | None
    search: dict[str, Any]
    rungs: tuple[Rung, ...]
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the document."""
        text = json.dumps(encode(self), indent=1, ensure_ascii=False)
        replace_text(path, text + "\n")


def load(path: Path) -> Ladder:
    """Read a document.

    Raises:
        InputError: missing, damaged, or of another version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema_version {data['schema_version']}; this version reads {SCHEMA_VERSION}."
            )
        ladder: Ladder = decode(Ladder, data, path.name)
        return ladder
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path} is not a ladder's document ({e}). Measure it again.") from e
