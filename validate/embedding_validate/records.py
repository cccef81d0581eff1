"""Frozen dataclasses to JSON and back, by their annotations: one way for every document that is read again.

Fields keep their order, tuples become lists, and numbers that are not finite become null. A trailing
underscore of a field's name (`from_`) is not in its key; `optional` fields have no key while they are None.
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Any, Literal

_OPTIONAL = "optional"


class RecordError(ValueError):
    """A value that its annotation does not allow; the message says where it is and what was expected."""


def optional() -> Any:
    """A field that is None by default, and then has no key in JSON."""
    return dataclasses.field(default=None, metadata={_OPTIONAL: True})


def encode(value: Any) -> Any:
    """The JSON form of a record and of everything in it."""
    if dataclasses.is_dataclass(value):
        record = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if item is not None or not field.metadata.get(_OPTIONAL):
                record[_key(field)] = encode(item)
        return record
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items()}
    return [encode(item) for item in value] if isinstance(value, (list, tuple)) else value


def decode(kind: Any, value: Any, where: str) -> Any:
    """Decode JSON into a value of an annotated type; `where` is its place, for messages.

    Whole numbers stay whole even if a float is expected, so that they are written again as they were.

    Raises:
        RecordError: the value does not have the annotated type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: decode(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if _is(kind, value):
        return value
    raise RecordError(f"{where} is {str(value)[:60]!r}; expected {getattr(kind, '__name__', kind)}")


def _is(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    return type(value) in ((int, float) if kind is float else (kind,))


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Decode into one of several types. Records are told apart by their literal fields; the first that fits
    is taken."""
    if value is None and types.NoneType in kinds:
        return None
    records = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    for kind in records:
        if isinstance(value, dict) and _literals_fit(kind, value):
            return decode(kind, value, where)
    others = [kind for kind in kinds if kind is not types.NoneType and kind not in records]
    if len(others) == 1:
        return decode(others[0], value, where)
    if any(_is(kind, value) for kind in others):
        return value
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise RecordError(f"{where} is {str(value)[:60]!r}; expected {names}")


def _literals_fit(kind: Any, value: dict[str, Any]) -> bool:
    fields = _fields(kind).items()
    return all(
        value.get(key) in typing.get_args(t) for key, (_, t) in fields if typing.get_origin(t) is Literal
    )


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where} is {str(value)[:60]!r}; expected an object")
    fields = _fields(kind)
    if unknown := sorted(value.keys() - fields.keys()):
        raise RecordError(f"{where} has fields that are not known: {', '.join(unknown)}")
    values = {
        fields[key][0].name: decode(fields[key][1], item, f"{where}.{key}") for key, item in value.items()
    }
    missing = [key for key, (field, _) in fields.items() if field.name not in values and _required(field)]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}")
    return kind(**values)


@functools.cache
def _fields(kind: Any) -> dict[str, tuple["dataclasses.Field[Any]", Any]]:
    """Each field and its type, by its key in JSON."""
    hints = typing.get_type_hints(kind)
    return {_key(field): (field, hints[field.name]) for field in dataclasses.fields(kind)}


def _key(field: "dataclasses.Field[Any]") -> str:
    return field.name.removesuffix("_")


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is field.default_factory is dataclasses.MISSING
