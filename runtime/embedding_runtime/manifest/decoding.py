"""Reads JSON into frozen dataclasses by their annotations, and refuses what they do not say."""

import dataclasses
import functools
import json
import types
import typing
from typing import Any, Literal

from embedding_runtime.errors import BundleError

# Of whole numbers in the place of a float: far larger ones have none.
_LARGEST = 1 << 64


def parsed(text: str, where: str) -> Any:
    """The value that a JSON text holds; `where` is the path for error messages.

    Raises:
        BundleError: it is not JSON, or an object has two fields of one name, of which readers take either.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_fields)
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{where} is not valid JSON ({e}). The bundle is damaged: export it again.") from e


def decode(tp: Any, value: Any, where: str) -> Any:
    """Decode JSON into the annotated type `tp`.

    Raises:
        BundleError: a field is missing, unknown, or of a wrong type.
    """
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if dataclasses.is_dataclass(tp):
        return _decode_dataclass(tp, value, where)
    if origin is types.UnionType:
        return None if value is None else decode(args[0], value, where)
    if origin is tuple and args[0] is int and isinstance(value, list) and set(map(type, value)) <= {int}:
        return tuple(value)  # most of a manifest: token ids
    if origin is tuple and isinstance(value, list):
        return tuple(decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: decode(args[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    if origin is Literal and value in args and type(value) is str:
        return value
    if tp is float and (type(value) is float or (type(value) is int and abs(value) < _LARGEST)):
        return float(value)
    if type(value) is tp:
        return value
    expected = f"one of {args}" if origin is Literal else getattr(tp, "__name__", str(tp))
    raise BundleError(
        f"{where} is {str(value)[:80]!r}; expected {expected}. The bundle is damaged: export it again."
    )


def _decode_dataclass(tp: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(
            f"{where} is {str(value)[:80]!r}; expected an object. The bundle is damaged: export it again."
        )
    hints, required = _fields(tp)
    if unknown := sorted(set(value) - set(hints)):
        raise BundleError(
            f"{where} has unknown fields {unknown}. Upgrade embedding-edge, or export the bundle again."
        )
    if missing := sorted(required - set(value)):
        raise BundleError(f"{where} lacks the fields {missing}. The bundle is damaged: export it again.")
    return tp(**{k: decode(hints[k], v, f"{where}: {k}") for k, v in value.items()})


@functools.cache
def _fields(tp: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Types by name, and the names without a default; cached: manifests have many records of a kind."""
    required = (
        f.name for f in dataclasses.fields(tp) if f.default is f.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(tp), frozenset(required)


def unique_fields(pairs: list[tuple[str, Any]], told: str = "the field {!r} appears twice") -> dict[str, Any]:
    """A JSON object, as an `object_pairs_hook`.

    Raises:
        ValueError: a field appears twice; the message is `told`, with its name.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(told.format(next(n for n in names if names.count(n) > 1)))
    return fields
