"""Shapes of a batch, and parsing of numbers in arguments."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedding_runtime.bundle import Manifest
from embedding_runtime.errors import InputError

LENGTHS = "16,64,128,256,512,1024,2048"


@dataclass(frozen=True)
class Shape:
    """Texts in a batch, and tokens in each."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return str(self.tokens) if self.batch == 1 else f"{self.batch}x{self.tokens}"


def shapes(text: str, longest: int) -> tuple[Shape, ...]:
    """The shapes in the argument of `--lengths`.

    Raises:
        InputError: something else than numbers, or more tokens than `longest`.
    """
    requested = []
    for part in text.split(","):
        numbers = counts(part.replace("x", ","), "--lengths")
        if len(numbers) > 2 or numbers[-1] > longest:
            raise InputError(
                f"--lengths has {part!r}; expected TOKENS or BATCHxTOKENS, of {longest} at most."
            )
        requested.append(Shape(numbers[0] if len(numbers) == 2 else 1, numbers[-1]))
    return tuple(requested)


def up_to(lengths: str, manifests: Sequence[Manifest]) -> str:
    """Those of a command's usual lengths that some graph of each bundle reads; where there is none, the
    longest that they read."""
    longest = min(
        max(min(m.max_seq_length, *g.buckets[-1:] or (m.max_seq_length,)) for g in m.graphs)
        for m in manifests
    )
    return ",".join(n for n in lengths.split(",") if int(n) <= longest) or str(longest)


def seconds(text: str) -> float:
    """An argument's seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def count(text: str) -> int:
    """An argument's whole number, for argparse."""
    try:
        (value,) = counts(text, "")
    except (InputError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1") from None
    return value


def counts(text: str, option: str) -> list[int]:
    """Comma-separated integers.

    Raises:
        InputError: something else, or a 0; `option` is named.
    """
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise InputError(f"{option} has {text!r}; expected whole numbers of at least 1.")
    return [int(p) for p in parts]
