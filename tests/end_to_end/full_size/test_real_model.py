"""google/embeddinggemma-300m itself: `EMBEDDINGGEMMA=FOLDER pytest -m real`; skipped without it.

Half an hour. A folder or hub id; the files as published. Nothing of the model is in the repository.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_bundle import GRAPHS, export_all
from stress_lines import different_ids, stress_lines
from tokenizers import Tokenizer

from embedding_export.bundle.describe import architecture
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_validate.probes import lengths, texts
from embedding_validate.reference.reference import Reference
from embedding_validate.runners.calls import of_embedder
from embedding_validate.tutorial import examples, golden

pytestmark = pytest.mark.real
LENGTHS = (2, 3, 4, 16, 64, 256, 257, 258, 259, 511, 512, 513, 640, 1023, 1025, 2046, 2047, 2048)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    where = os.environ.get("EMBEDDINGGEMMA")
    if not where:
        pytest.skip("set EMBEDDINGGEMMA to the folder or hub id of google/embeddinggemma-300m")
    return load_checkpoint(where)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    return Reference.load(checkpoint)


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is offered, through the gate."""
    return export_all(checkpoint, tmp_path_factory.mktemp("real") / "bundle")


@pytest.fixture
def embedder(bundle: Path, request: pytest.FixtureRequest) -> Iterator[Embedder]:
    format, precision = request.param
    with Embedder.load(bundle, format=format, precision=precision) as opened:
        yield opened


def test_it_is_known_by_its_weights(checkpoint: Checkpoint) -> None:
    assert checkpoint.source.name == "google/embeddinggemma-300m"
    golden.require(checkpoint.source.name, architecture(checkpoint).parameters)
    assert checkpoint.prompts == golden.load().prompts
    assert checkpoint.tokenizer.without_row == ("<image_soft_token>",)
    assert not checkpoint.source.random_weights


def test_every_graph_passes_the_gate(bundle: Path) -> None:
    verdicts = {g.key: (g.parity.status, g.parity.floors) for g in load_manifest(bundle).graphs}
    assert verdicts == {f"{f}/{p}": ("passed", "trained weights") for f, p in GRAPHS}
    assert "ai.google.dev/gemma/terms" in (bundle / "NOTICE").read_text(encoding="utf-8")
    assert "license: gemma" in (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_reference_gives_the_printed_figures(reference: Reference) -> None:
    assert [c for c in golden.check(examples.of_reference(reference), "fp32") if not c.passed] == []


@pytest.mark.parametrize("embedder", GRAPHS, indirect=True, ids="/".join)
def test_every_graph_gives_the_printed_figures(embedder: Embedder) -> None:
    found = golden.check(of_embedder(embedder), embedder.graph.precision)
    assert [c for c in found if not c.passed] == []


LITERALS = ("<bos>", "<eos>", "<pad>", "<mask>", "<start_of_turn>", "<image_soft_token>", "<unused7>")


def test_ids_are_those_of_the_published_tokenizer(checkpoint: Checkpoint, bundle: Path) -> None:
    library = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    given = stress_lines(LITERALS)
    assert len(given) == 20_000
    with Embedder.load(bundle, precision="int8", format="onnx") as embedder:
        own = embedder._encoder.opened.tokenizer
        assert different_ids(own, library, given, allow_special=False) == []
        allowed = [t for t in given if "<image_soft_token>" not in t]
        assert different_ids(own, library, allowed, allow_special=True) == []


@pytest.mark.parametrize("tokens", LENGTHS)
def test_fp32_at_every_kind_of_length(bundle: Path, reference: Reference, tokens: int) -> None:
    pieces = [t.text for t in texts.packaged() if t.script not in ("Control tokens", "Control")]
    text = lengths.compose(pieces, tokens, reference.count)
    assert reference.count(text) == tokens
    with Embedder.load(bundle, format="onnx", precision="fp32") as embedder:
        np.testing.assert_allclose(embedder.encode(text), reference.encode([text])[0], atol=1e-5)
