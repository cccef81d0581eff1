"""Composes texts of an exact number of tokens from short ones; the caller passes the function that counts."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

Count = Callable[[str], int]

# Appended to reach an exact length; several, as any of them may merge with what stands before it.
_FILLERS = (" a", ".", " 7", " the", "\n", "!", " x")
# How many characters to step back before giving up on an exact fit.
_STEPS_BACK = 64


def compose(pieces: Sequence[str], tokens: int, count: Count) -> str:
    """A text of exactly `tokens` tokens (control tokens included), cut from the pieces joined by spaces.

    `count` gives the length of a text in tokens, without truncation. If a tokenizer allows no exact fit, the
    result is shorter; if `tokens` is below the count of the empty text, it is empty.
    """
    long = _longer_than(pieces, tokens, count)
    end = _cut(long, tokens, count)
    for cut in range(end, max(-1, end - _STEPS_BACK), -1):
        if (text := _fill(long[:cut], tokens, count)) is not None:
            return text
    return long[:end]


def _longer_than(pieces: Sequence[str], tokens: int, count: Count) -> str:
    """The pieces, repeated and rotated by `tokens` so that lengths share no beginning, until long enough."""
    order = cycle([*pieces[tokens % len(pieces) :], *pieces[: tokens % len(pieces)]])
    text = next(order)
    while count(text) <= tokens:
        text = " ".join([text, *islice(order, len(pieces) // 8 + 1)])
    return text


def _cut(text: str, tokens: int, count: Count) -> int:
    """Where to cut so that the count is at most `tokens` (bisection: counts grow almost monotonically)."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low


def _fill(text: str, tokens: int, count: Count) -> str | None:
    """The text with fillers appended until it counts `tokens`, or None."""
    missing = tokens - count(text)
    if missing == 0:
        return text
    for filler in _FILLERS if 0 < missing <= _STEPS_BACK else ():
        if count(text + filler * missing) == tokens:
            return text + filler * missing
    return None
