"""Checks that every tensor that a bundle's graph stores is the checkpoint's.

Vectors cannot show every fault: a uniform scale on a projection cancels in the norm that follows. This module
hands the checkpoint, with the rows that the bundle keeps, to the exporter's audit.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.audit.audit import differences
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import AuditError
from embedding_export.tokenizer.trimming import TensorRows
from embedding_runtime.bundle import BundleGraph, Manifest
from embedding_validate.parity.results import WeightReport


def of_bundle(checkpoint: Checkpoint, bundle: Path, manifest: Manifest) -> Checkpoint:
    """The checkpoint in a bundle's own ids: if the vocabulary was trimmed, its table has fewer rows."""
    if manifest.tokenizer.kept_ids is None:
        return checkpoint
    kept_ids = np.load(bundle / manifest.tokenizer.kept_ids).astype(np.int64)
    table = TensorRows.of(checkpoint.tensors[TABLE], kept_ids)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, vocab_size=len(kept_ids)),
        tensors={**checkpoint.tensors, TABLE: table},
    )


def compare_weights(checkpoint: Checkpoint, graph: BundleGraph) -> WeightReport:
    """Compare a graph's tensors with the checkpoint's; the number compared, and those that differ."""
    try:
        count, faults = differences(graph.path, of_bundle(checkpoint, graph.folder, graph.manifest))
    except AuditError as e:
        return WeightReport(0, (str(e),))
    return WeightReport(count, tuple(f"{d.name} {d.words}" for d in faults))
