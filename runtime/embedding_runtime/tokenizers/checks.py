"""What both tokenizers accept: valid text, a length limit with room for `<bos>` and `<eos>`, known ids."""

from collections.abc import Sequence
from typing import Any

from embedding_runtime.errors import InputError, InputTypeError

BLOCK = 1 << 20
# What a table raises whose numbers lead nowhere.
DAMAGED = (LookupError, ArithmeticError, ValueError, RuntimeError)


def checked_text(text: Any) -> str:
    """`text`, if it is a str without lone surrogates.

    Raises:
        InputTypeError: not a str.
        InputError: it holds a lone surrogate, which no tokenizer can encode.
    """
    if not isinstance(text, str):
        raise InputTypeError(f"A text is {type(text).__name__}; expected str.")
    if text.isascii():
        return text
    for start in range(0, len(text), BLOCK):  # in blocks: a 10 MB text must not need another 10 MB
        try:
            text[start : start + BLOCK].encode("utf-8")
        except UnicodeEncodeError as e:
            position = start + e.start
            raise InputError(
                f"The text has a lone surrogate (U+{ord(text[position]):04X}) at character {position}; "
                "expected valid Unicode. Decode the source correctly, or replace such characters."
            ) from e
    return text


def check_rows(text: str, without_row: Sequence[str]) -> None:
    """Refuse a text with a special token that the model has no row for; called if special tokens are allowed.

    Raises:
        InputError: one of `without_row` is in the text.
    """
    if token := next((t for t in without_row if t in text), None):
        raise InputError(
            f"The text has {token} at character {text.index(token)}, a special token that this model has no "
            "embedding for. Take it out of the text, or embed without allow_special: then it is text."
        )


def checked_limit(max_length: int | None) -> None:
    """Refuse a limit that has no room for `<bos>` and `<eos>`.

    Raises:
        InputError: `max_length` is below 2.
    """
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length is {max_length}; expected at least 2: <bos> and <eos> are counted.")


def checked_ids(ids: Sequence[int]) -> list[int]:
    """`ids` as plain integers.

    Raises:
        InputError: one is negative.
    """
    plain = [int(i) for i in ids]
    if negative := [i for i in plain if i < 0]:
        raise InputError(f"{negative[0]} is not a token id; expected 0 or more.")
    return plain


def unknown_id(token_id: int, size: int) -> InputError:
    """The error for an id outside a vocabulary of `size` entries."""
    return InputError(f"There is no token {token_id}; expected 0 ... {size - 1}.")
