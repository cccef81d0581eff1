"""Typed access to the JSON files of a checkpoint; the callers know what the fields mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_export.errors import CheckpointError


@dataclass(frozen=True)
class Fields:
    """The fields of one JSON object, and the file they came from (named in every error)."""

    file: Path
    values: dict[str, Any]

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer.

        Raises:
            CheckpointError: absent without a default, or something else.
        """
        value = self.values.get(key, default)
        if type(value) is not int or value < 1:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number, as float.

        Raises:
            CheckpointError: something else.
        """
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < 1e300:
            raise self.wrong(key, "a positive number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false.

        Raises:
            CheckpointError: something else.
        """
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            CheckpointError: absent without a default, or something else.
        """
        value = self.values.get(key, default)
        if type(value) is not str:
            raise self.wrong(key, "a string")
        return value

    def nested(self, key: str) -> "Fields":
        """A nested object; empty where absent or null.

        Raises:
            CheckpointError: something else.
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(self.file, value or {})

    def refuse_unless(self, key: str, accepted: tuple[Any, ...], why: str) -> None:
        """Refuse any value of `key` but the accepted ones; an absent key is null.

        Raises:
            CheckpointError: another value.
        """
        value = self.values.get(key)
        if not any(type(value) is type(a) and value == a for a in accepted):
            raise CheckpointError(f"{self.file}: {key} is {_short(value)}, which is not supported: {why}")

    def refuse_unknown(self, supported: set[str]) -> None:
        """Refuse fields that this version does not know, unless they are null.

        Raises:
            CheckpointError: names them.
        """
        if unknown := sorted(k for k, v in self.values.items() if k not in supported and v is not None):
            raise CheckpointError(
                f"{self.file} has fields that this version does not know: {', '.join(unknown)}. They may "
                "change the vectors: remove them if they do not, or upgrade embedding-edge."
            )

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error for a field that is not what was expected."""
        actual = f"{key} is {_short(self.values[key])}" if key in self.values else f"{key} is missing"
        return CheckpointError(
            f"{self.file}: {actual}; expected {expected}. Correct the file, or fetch the checkpoint again."
        )


def read_fields(path: Path) -> Fields:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, unreadable, not JSON, or not an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {_short(value)}; expected a JSON object. Fetch it again.")
    return Fields(path, value)


def read_fields_if_present(path: Path) -> Fields:
    """Read a JSON object; no fields if the file is absent.

    Raises:
        CheckpointError: unreadable, not JSON, or not an object.
    """
    return read_fields(path) if path.exists() else Fields(path, {})


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """Read any JSON document.

    Raises:
        CheckpointError: missing, unreadable, or not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode(encoding))
    except FileNotFoundError as e:
        raise CheckpointError(
            f"{path} is missing. Expected a sentence-transformers folder: check the path, or fetch it again."
        ) from e
    except OSError as e:
        raise CheckpointError(
            f"{path} cannot be read ({e.strerror}). Check the file and its permissions."
        ) from e
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is not valid JSON ({e}). It is damaged: fetch it again.") from e


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
