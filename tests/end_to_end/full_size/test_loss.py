"""What quantization loses at full size, on plain random weights: slow, so only under `make test-full`.

The other stand-in makes faults show, and with them every rounding error; this one says what 8 bits cost.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import standin

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_validate.parity import parity
from embedding_validate.parity.results import GraphReport
from embedding_validate.probes import probes
from embedding_validate.probes import texts as probe_texts
from embedding_validate.reference.reference import Reference

pytestmark = pytest.mark.full


def _graphs(folder: Path, options: standin.Options) -> Mapping[str, GraphReport]:
    standin.write(folder / "checkpoint", options)
    checkpoint = load_checkpoint(folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle", ExportOptions(precisions=("int8", "int4")), "checked below")
    reference = Reference.load(checkpoint)
    chosen = probes.short(probe_texts.packaged(), reference.prompts, reference.limits, reference.count)
    graphs = parity.check(folder / "bundle", reference.answer(chosen)).graphs
    for key, graph in graphs.items():
        print(f"\n{key}: {graph.texts} probes, {graph.status}, cosine {graph.cosine}, {graph.invariance}")
    return graphs


def test_plain_weights(tmp_path: Path) -> None:
    """int8: cosine ≥ 0.998 on average, ≥ 0.995 at worst; int8 and int4 the same in company."""
    graphs = _graphs(tmp_path, standin.Options(size="full", plain=True))
    int8 = graphs["onnx/int8"].cosine
    assert int8 is not None
    assert int8.mean >= 0.998
    assert int8.minimum >= 0.995
    for graph in graphs.values():
        assert graph.invariance is not None and graph.invariance.batch is not None
        assert graph.invariance.batch <= 1e-6


def test_outliers(tmp_path: Path) -> None:
    """A few channels 20 times as large as the others: int8 ≥ 0.99 on average."""
    int8 = _graphs(tmp_path, standin.Options(size="full", plain=True, outliers=True))["onnx/int8"].cosine
    assert int8 is not None
    assert int8.mean >= 0.99
