"""Where an export's progress goes."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reporter:
    """`step` gets a line; `weights` makes a byte counter for a total."""

    step: Callable[[str], None]
    weights: Callable[[int], Callable[[int], None]]


SILENT = Reporter(lambda _: None, lambda _: lambda _: None)
