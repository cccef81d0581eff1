"""Checkpoint → bundle: reads a sentence-transformers EmbeddingGemma and writes graphs for devices.

    checkpoint = load_checkpoint("my-checkpoint")
    export_bundle(checkpoint, Path("my-bundle"), ExportOptions(), embedding_validate.parity_gate(checkpoint))

`load_checkpoint` takes a folder or a hub id. The last argument is the gate, which checks the bundle before it
gets its final name; pass a str instead to skip the gate, saying why.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
    from embedding_export.errors import AuditError, CheckpointError, ExportError, ParityError
    from embedding_export.options import ExportOptions
    from embedding_export.pipeline import export_bundle
    from embedding_export.weights.sample import read_calibration

# Imported when first asked for: the commands say what is missing where an extra is not installed.
_HOMES = {
    "AuditError": "errors",
    "Checkpoint": "checkpoint.checkpoint",
    "CheckpointError": "errors",
    "ExportError": "errors",
    "ExportOptions": "options",
    "ParityError": "errors",
    "export_bundle": "pipeline",
    "load_checkpoint": "checkpoint.checkpoint",
    "read_calibration": "weights.sample",
}

__all__ = [
    "AuditError",
    "Checkpoint",
    "CheckpointError",
    "ExportError",
    "ExportOptions",
    "ParityError",
    "export_bundle",
    "load_checkpoint",
    "read_calibration",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
