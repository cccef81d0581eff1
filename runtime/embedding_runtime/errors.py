"""Errors and warnings that the runtime raises on purpose.

Each message says what was found, what was expected, and what to do.
"""

from typing import ClassVar


class EmbeddingError(Exception):
    """Base of all errors raised on purpose by the runtime, the exporter and the validator.

    `exit_status` is the status of a command that ends with the error: 2 if its input cannot be used, 1 if a
    check or the machine failed.
    """

    exit_status: ClassVar[int] = 2


class BundleError(EmbeddingError):
    """A bundle is missing, damaged, incomplete, or written in a schema this version does not know."""


class EngineError(EmbeddingError):
    """The inference engine is missing, too old, closed, or failed on a graph."""

    exit_status = 1


class InputError(EmbeddingError, ValueError):
    """A value the caller passed is outside what the function accepts."""


class InputTypeError(InputError, TypeError):
    """An argument has a type the function does not accept; a ValueError too, as in the reference."""


class EmbeddingWarning(UserWarning):
    """Base of the runtime's own warnings: the result is as requested, but perhaps not as intended."""


class ParityWarning(EmbeddingWarning):
    """A graph was loaded that has not been compared with its reference."""


class OverflowWarning(EmbeddingWarning):
    """A text was longer than max_seq_length and was cut."""
