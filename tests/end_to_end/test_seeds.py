"""No false alarm: what is soundly exported passes, in every precision and format, whatever the weights."""

from functools import partial
from pathlib import Path

import pytest
import standin
import torch

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import Format, Precision
from embedding_runtime.engines.registry import installed
from embedding_validate.parity import parity, weights
from embedding_validate.parity.execution import Execution
from embedding_validate.probes import probes, texts
from embedding_validate.reference.reference import Reference

FORMATS: tuple[Format, ...] = ("onnx", "litert") if installed("litert") else ("onnx",)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8_q4", "mixed", "int4")


def _of_seed(seed: int, folder: Path) -> Path:
    standin.write(folder / "checkpoint", standin.Options(seed=seed))
    return folder / "checkpoint"


def _verdicts(path: Path, folder: Path, precisions: tuple[Precision, ...]) -> dict[str, str | None]:
    """Reasons of all three questions by graph, None where it passed; short texts alone, but many of them."""
    torch.set_num_threads(1)
    checkpoint, bundle = load_checkpoint(path), folder / "bundle"
    options = ExportOptions(precisions, formats=FORMATS, buckets=(32, 128))
    export_bundle(checkpoint, bundle, options, "checked by the test itself")
    reference = Reference.load(checkpoint)
    chosen = probes.of_texts(texts.packaged(), reference.prompts)
    answers = reference.answer(chosen)
    report = parity.check(
        bundle,
        answers,
        execution=Execution(checkpoint, answers),
        weights=partial(weights.compare_weights, checkpoint),
    )
    return {key: graph.reason for key, graph in report.graphs.items()}


def test_one_seed(tmp_path: Path) -> None:
    found = _verdicts(_of_seed(11, tmp_path), tmp_path, ("int8", "int8_q4", "int4"))
    assert found and set(found.values()) == {None}, found


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_ten_seeds(seed: int, tmp_path: Path) -> None:
    found = _verdicts(_of_seed(seed, tmp_path), tmp_path, PRECISIONS)
    assert len(found) >= 4 and set(found.values()) == {None}, found


@pytest.mark.full
def test_full_size(full_checkpoint: Path, tmp_path: Path) -> None:
    found = _verdicts(full_checkpoint, tmp_path, PRECISIONS)
    assert len(found) >= 4 and set(found.values()) == {None}, found
