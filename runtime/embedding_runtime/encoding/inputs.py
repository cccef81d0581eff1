"""The forms in which a caller may pass texts."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from embedding_runtime.errors import InputError, InputTypeError

Texts = str | Iterable[str]

_logger = logging.getLogger(__name__)


def as_inputs(inputs: Texts | None, sentences: Texts | None) -> Texts:
    """The texts, given under either name of the argument.

    Raises:
        InputTypeError: there are none.
    """
    if inputs is not None:
        return inputs
    if sentences is None:
        raise InputTypeError("inputs is None; expected a str or an iterable of str.")
    _logger.warning("The argument sentences is the older name of inputs.")
    return sentences


def is_single(inputs: Any) -> bool:
    """True for one text, False for many.

    Raises:
        InputTypeError: neither a str nor an iterable of them.
    """
    if isinstance(inputs, str):
        return True
    refused = (bytes, bytearray, memoryview, Mapping)
    if isinstance(inputs, refused) or not isinstance(inputs, Iterable):
        raise InputTypeError(f"inputs is {_named(inputs)}; expected a str or an iterable of str.")
    if isinstance(inputs, np.ndarray) and inputs.ndim != 1:
        raise InputTypeError(f"inputs is an array of shape {inputs.shape}; expected one dimension of str.")
    return False


def as_texts(inputs: Texts) -> Iterable[str]:
    """Many texts with their types checked: all at once if they are in memory, else one by one.

    Raises:
        InputTypeError: naming the index and type of the first item that is not a str.
    """
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (list, tuple, np.ndarray)):
        return list(_checked(inputs))
    return _checked(inputs)


def _checked(items: Iterable[Any]) -> Iterator[str]:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InputTypeError(f"inputs[{index}] is {_named(item)}; expected a str.")
        yield item


def check_encodable(text: str) -> None:
    """Refuse a text that is not Unicode text.

    Raises:
        InputError: it holds a lone surrogate. The caller prefixes the message with its subject.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InputError(
            f"holds the lone surrogate U+{ord(text[e.start]):04X} at position {e.start}, which is not "
            "Unicode text. Decode its source with errors='replace', or remove the character."
        ) from e


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__} ({str(value)[:40]!r})"
