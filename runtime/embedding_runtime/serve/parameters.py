"""Parses and checks the body of a request; an error names the field that is wrong."""

import json
from dataclasses import dataclass
from typing import Any

from embedding_runtime.encoding.overflow import Request
from embedding_runtime.encoding.prompts import with_title
from embedding_runtime.errors import InputError
from embedding_runtime.manifest.decoding import unique_fields
from embedding_runtime.serve.failures import refused, too_large
from embedding_runtime.serve.model import Model
from embedding_runtime.serve.settings import Limits

# `user` is OpenAI's: an end user's name, which changes nothing.
_FIELDS = ("input", "model", "dimensions", "encoding_format", "task", "title", "user")
Input = Request | list[int]


@dataclass(frozen=True)
class Parameters:
    """One request: texts with their prompts, or token ids; the components to keep; the encoding of numbers.

    `prompt` is None for token ids, which may begin with any prompt.
    """

    inputs: list[Input]
    prompt: str | None
    dim: int | None
    base64: bool


def read(body: bytes, model: Model, limits: Limits) -> Parameters:
    """Parse and check the body of a request.

    Raises:
        ServiceError: 400 for a request that cannot be fulfilled, 404 for another model, 413 for too many
            texts.
    """
    fields = _fields(body)
    name = fields.get("model", model.name)
    if not isinstance(name, str) or not model.is_called(name):
        raise model.unknown(name)
    raw = _inputs(fields.get("input"), limits)
    task = _text(fields, "task")
    titles = _titles(fields.get("title"), raw, fields.get("input"))
    if any(not isinstance(each, str) for each in raw):
        if task is not None or titles is not None:
            raise refused("task and title are for text; token ids are read as they are.", "input")
        return Parameters(raw, None, _dim(fields.get("dimensions"), model), _base64(fields))
    inputs, prompt = _requests(raw, titles, task, model)
    return Parameters(inputs, prompt, _dim(fields.get("dimensions"), model), _base64(fields))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body.decode("utf-8"), object_pairs_hook=unique_fields)
    except UnicodeDecodeError as e:
        raise refused(f"The body is not UTF-8 ({e}).", code="invalid_json") from e
    except (ValueError, RecursionError) as e:
        raise refused(f"The body is not valid JSON ({e}).", code="invalid_json") from e
    if not isinstance(data, dict):
        raise refused(f"The body is a JSON {_kind(data)}; expected an object.", code="invalid_json")
    if unknown := sorted(set(data) - set(_FIELDS)):
        raise refused(
            f"Unknown field {unknown[0]!r}; expected some of {list(_FIELDS)}.",
            unknown[0],
            "unknown_parameter",
        )
    return {name: value for name, value in data.items() if value is not None}


def _inputs(value: Any, limits: Limits) -> list[Any]:
    """A list with one str, or one list of ids, per text."""
    if value is None:
        raise refused("There is no input; expected a text, a list of texts, or token ids.", "input")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise refused(f"input is a JSON {_kind(value)}; expected a text or a list.", "input")
    if not value:
        raise refused("input is an empty list; expected at least one text.", "input")
    if _is_id(value[0]):
        value = [value]
    if len(value) > limits.texts:
        raise too_large(
            f"input has {len(value)} texts; this service takes {limits.texts} in one request.", "input"
        )
    texts: list[Any] = value
    first = type(texts[0])
    for index, each in enumerate(texts):
        if type(each) is not first or first not in (str, list):
            raise refused(
                f"input[{index}] is a JSON {_kind(each)}; expected all texts, or all lists of token ids.",
                "input",
            )
        if first is list and (wrong := next((i for i in each if not _is_id(i)), _NONE)) is not _NONE:
            raise refused(f"input[{index}] holds {str(wrong)[:40]!r}; expected token ids.", "input")
    return texts


_NONE = object()


def _is_id(value: Any) -> bool:
    return type(value) is int


def _titles(value: Any, inputs: list[Any], spelled: Any) -> list[str | None] | None:
    """One title per text; None if the request has none."""
    if value is None:
        return None
    titles = [value] if isinstance(value, str) and isinstance(spelled, str) else value
    if not isinstance(titles, list) or any(not isinstance(t, str | None) for t in titles):
        raise refused(
            "title is for one text in input; for a list give a list with a title or null for each.", "title"
        )
    if len(titles) != len(inputs):
        raise refused(f"There are {len(titles)} titles for {len(inputs)} texts.", "title")
    return titles


def _requests(
    texts: list[str], titles: list[str | None] | None, task: str | None, model: Model
) -> tuple[list[Input], str]:
    try:
        prompt = model.prompt(task, titles is not None)
    except InputError as e:
        raise refused(str(e), "task" if titles is None else "title") from e
    if titles is None:
        return [Request(prompt, text) for text in texts], prompt
    pairs = zip(texts, titles, strict=True)
    return [Request(with_title(prompt, title), text) for text, title in pairs], prompt


def _dim(value: Any, model: Model) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value not in model.dims:
        raise refused(f"dimensions is {str(value)[:40]}; this model gives {list(model.dims)}.", "dimensions")
    return value


def _base64(fields: dict[str, Any]) -> bool:
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise refused(
            f"encoding_format is {str(encoding)[:40]!r}; expected 'float' or 'base64'.", "encoding_format"
        )
    return bool(encoding == "base64")


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise refused(f"{name} is a JSON {_kind(value)}; expected a string.", name)
    return value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
