"""Errors that the exporter raises on purpose. Each says what was found, what was expected, and what to do."""

from embedding_runtime.errors import EmbeddingError


class CheckpointError(EmbeddingError):
    """A checkpoint is missing, damaged, or of a kind that this version does not understand."""


class ExportError(EmbeddingError):
    """The bundle cannot be written: the target, the disk, or an option stands in the way."""

    exit_status = 1


class AuditError(EmbeddingError):
    """A written graph does not hold the checkpoint's weights."""

    exit_status = 1


class ParityError(EmbeddingError):
    """A written bundle does not give the reference's vectors."""

    exit_status = 1
