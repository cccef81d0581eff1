"""For the tests of published files: a bundle of everything that is offered, through the gate."""

from pathlib import Path

from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import Precision
from embedding_validate.gate import parity_gate

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int8_q4", "mixed", "int4")
GRAPHS = [("onnx", p) for p in ("fp32", "int8", "int8_q4", "int4")] + [("litert", p) for p in PRECISIONS]


def export_all(checkpoint: Checkpoint, folder: Path) -> Path:
    """The bundle of every graph of `GRAPHS`, in `folder`."""
    options = ExportOptions(precisions=PRECISIONS, formats=("onnx", "litert"))
    export_bundle(checkpoint, folder, options, parity_gate(checkpoint))
    return folder
