"""LiteRT files at full size, so only under `make test-full`: every bucket, loss, sizes and memory.

Plain random weights, which do not amplify rounding errors. Prints its figures.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import standin
from full_size import exported, graph_sizes

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import BUCKETS, ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import load_manifest
from embedding_validate.parity import parity
from embedding_validate.parity.results import GraphReport
from embedding_validate.probes import probes
from embedding_validate.probes import texts as probe_texts
from embedding_validate.reference.reference import Reference

pytestmark = pytest.mark.full
OPTIONS = ExportOptions(precisions=("fp32", "int8", "int8_q4", "mixed"), formats=("litert",))
# Of vectors of norm 1 whose 768 components differ by at most so much, the cosine is 0.999 at least.
COSINE_999 = (2 * 0.001 / 768) ** 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    standin.write(folder, standin.Options(size="full", plain=True))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written in a process of its own: 6 GB resident at most."""
    folder = tmp_path_factory.mktemp("litert") / "bundle"
    _, peaks = exported(checkpoint, folder, OPTIONS)
    assert peaks["VmRSS"] <= 6_000_000
    return folder


@pytest.fixture(scope="module")
def reports(checkpoint: Path, bundle: Path) -> Mapping[str, GraphReport]:
    """Of the exporter's probes: 3 tokens, half a bucket and a full one in every bucket among them."""
    reference = Reference.load(load_checkpoint(checkpoint))
    limits = reference.limits
    limits = probes.Limits(limits.window, limits.max_seq_length, probes.buckets(load_manifest(bundle).graphs))
    chosen = probes.short(probe_texts.packaged(), reference.prompts, limits, reference.count)
    graphs = parity.check(bundle, reference.answer(chosen)).graphs
    for key, graph in graphs.items():
        print(
            f"\n{key}: {graph.status}, cosine {graph.cosine}, error {graph.max_abs_error}, {graph.invariance}"
        )
    return graphs


def test_every_bucket_was_asked(reports: Mapping[str, GraphReport]) -> None:
    usual = [b for b in BUCKETS if b <= 2_048]
    for graph in reports.values():
        alone = {c.tokens for c in graph.cases if c.check == "alone"}
        longer = {(c.check, c.tokens) for c in graph.cases}
        assert alone >= {3, *usual}
        assert longer >= {(f"bucket {b}", n) for b in usual[1:] for n in (3, b // 2)}


def test_fp32_is_the_reference(reports: Mapping[str, GraphReport]) -> None:
    """≤ 1e-5 in every bucket, and from one to another."""
    fp32 = reports["litert/fp32"]
    assert fp32.status == "passed"
    assert fp32.max_abs_error and fp32.max_abs_error.maximum <= 1e-5
    assert fp32.invariance and fp32.invariance.buckets is not None and fp32.invariance.buckets <= 1e-5


def test_int8_is_near(reports: Mapping[str, GraphReport]) -> None:
    """Cosine ≥ 0.998 on average, ≥ 0.995 at worst, ≥ 0.999 between buckets; batches change nothing."""
    int8 = reports["litert/int8"]
    assert int8.cosine and int8.cosine.mean >= 0.998 and int8.cosine.minimum >= 0.995
    assert int8.invariance and int8.invariance.buckets is not None and int8.invariance.batch is not None
    assert int8.invariance.buckets <= COSINE_999
    assert int8.invariance.batch == 0


def test_sizes(bundle: Path) -> None:
    """Seven buckets: ≤ 325 MB in int8, ≤ 228 MB with a 4-bit table, ≤ 250 MB in mixed."""
    size = graph_sizes(bundle)
    assert size["litert/int8"] <= 325_000_000
    assert size["litert/int8_q4"] <= 228_000_000
    assert size["litert/mixed"] <= 250_000_000


def test_a_single_length(checkpoint: Path, tmp_path: Path) -> None:
    """mixed at 512 tokens: ≤ 180 MB."""
    options = ExportOptions(("mixed",), formats=("litert",), litert_single=512)
    export_bundle(load_checkpoint(checkpoint), tmp_path / "bundle", options, "only its size is looked at")
    assert graph_sizes(tmp_path / "bundle")["litert/mixed"] <= 180_000_000
