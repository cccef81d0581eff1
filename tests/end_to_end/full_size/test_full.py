"""The full size, against sentence-transformers: slow, so only under `make test-full`. Prints its figures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import standin
import texts
from full_size import exported, graph_sizes
from tokenizers import Tokenizer

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_runtime.tokenizers.tokenizer import open_tokenizer
from embedding_validate.gate import parity_gate
from embedding_validate.parity import parity
from embedding_validate.probes import probes
from embedding_validate.probes import texts as probe_texts
from embedding_validate.reference.reference import Reference

pytestmark = pytest.mark.full

LENGTHS = (1, 2, 16, 64, 255, 256, 257, 258, 511, 512, 513, 1023, 1024, 1025, 2046, 2047, 2048, 2300)


@pytest.fixture(scope="module")
def bundle(full_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("full") / "bundle"
    export_bundle(
        load_checkpoint(full_checkpoint), folder, ExportOptions(precisions=("fp32",)), "checked below"
    )
    yield folder


def test_every_probe(full_checkpoint: Path, bundle: Path) -> None:
    """Scripts, prompts, dims, titles, batches, the window's edges: what validate-embedding runs."""
    reference = Reference.load(load_checkpoint(full_checkpoint))
    chosen = probes.full(probe_texts.packaged(), reference.prompts, reference.limits, reference.count)
    report = parity.check(bundle, reference.answer(chosen))
    graph = report.graphs["onnx/fp32"]
    print(f"\n{graph.texts} probes: {graph.status}, cosine {graph.cosine}, {graph.reason}")
    assert report.passed


@pytest.mark.filterwarnings("ignore::embedding_runtime.errors.EmbeddingWarning")
def test_every_length(full_checkpoint: Path, bundle: Path) -> None:
    """max abs difference ≤ 1e-5 and cosine ≥ 0.999999 at each length, alone and beside a longer text."""
    reference = Reference.load(load_checkpoint(full_checkpoint))
    words = " ".join(texts.lines(1500))
    with Embedder.load(bundle) as embedder:
        for length in LENGTHS:
            text = _of_length(words, length, reference)
            expected = reference.vector(text)
            beside = embedder.encode([text, "short", _of_length(words, min(length + 40, 2048), reference)])
            for got in (embedder.encode(text), beside[0]):
                error, cosine = float(np.abs(got - expected).max()), float(got @ expected)
                print(f"{len(reference.token_ids(text)):5} tokens  error {error:.1e}  cosine {cosine:.8f}")
                assert error <= 1e-5
                assert cosine >= 0.999999


def _of_length(words: str, tokens: int, reference: Reference) -> str:
    """A prefix of `words` with that many tokens, or the nearest above (control tokens count; 2 at least)."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high) // 2
        if reference.count(words[:middle]) < tokens:
            low = middle + 1
        else:
            high = middle
    return words[:low]


@pytest.mark.parametrize(
    "options",
    [
        standin.Options(size="full", dialect="transformers-5", dtype="bfloat16", shards=3),
        standin.Options(size="full", dtype="float16", outliers=True),
    ],
    ids=["bfloat16 in three shards", "float16 with outliers"],
)
def test_other_files_of_the_same_model(options: standin.Options, tmp_path: Path) -> None:
    """The gate itself decides; it raises on a miss."""
    standin.write(tmp_path / "checkpoint", options)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    manifest = export_bundle(
        checkpoint, tmp_path / "bundle", ExportOptions(precisions=("fp32",)), parity_gate(checkpoint)
    )
    verdict = manifest.graphs[0].parity
    print(f"\n{verdict}")
    assert verdict.status == "passed"
    assert verdict.max_abs_error is not None and verdict.max_abs_error <= 1e-5


def test_token_ids_of_many_scripts(full_checkpoint: Path, bundle: Path) -> None:
    oracle = Tokenizer.from_file(str(full_checkpoint / "tokenizer.json"))
    oracle.no_truncation()
    oracle.encode_special_tokens = True
    lines = texts.lines(5000)
    tokenizer = open_tokenizer(bundle, load_manifest(bundle).tokenizer)
    found = [tokenizer.encode(line) for line in lines]
    assert found == [encoding.ids for encoding in oracle.encode_batch(lines)]


def test_export_is_quick_and_small(full_checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own, without the parity step: ≤ 60 s, ≤ 900 MB anonymous, ≤ 2 GB resident."""
    seconds, peaks = exported(full_checkpoint, tmp_path / "bundle", ExportOptions(precisions=("fp32",)))
    assert peaks["RssAnon"] <= 900_000
    assert peaks["VmRSS"] <= 2_000_000
    assert seconds <= 60


def test_every_precision_in_one_command(full_checkpoint: Path, tmp_path: Path) -> None:
    """Without the parity step: ≤ 2 GB resident; int8 ≤ 312 MB and int4 ≤ 196 MB on the disk."""
    options = ExportOptions(precisions=("fp32", "fp16", "int8", "int4"))
    _, peaks = exported(full_checkpoint, tmp_path / "bundle", options)
    assert peaks["VmRSS"] <= 2_000_000
    size = graph_sizes(tmp_path / "bundle")
    assert size["onnx/int8"] <= 312_000_000
    assert size["onnx/int4"] <= 196_000_000
