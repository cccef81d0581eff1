"""google/embeddinggemma-2 itself: `EMBEDDINGGEMMA2=FOLDER pytest -m real`; skipped without it.

An hour. A folder or hub id; the files as published. Nothing of the model is in the repository. A stand-in's
folder runs through all but what is the published model's alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import standin2_config
from real_bundle import GRAPHS, export_all
from standin_tokenizer import GEMMA_4
from stress_lines import different_ids, stress_lines
from tokenizers import Tokenizer

from embedding_export.bundle.describe import MRL_DIMS, architecture
from embedding_export.checkpoint.checkpoint import KNOWN_WEIGHTS, Checkpoint, load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import GlobalLayers, load_manifest
from embedding_validate.probes import lengths, texts
from embedding_validate.reference.reference import Reference

pytestmark = pytest.mark.real
# Around the window of 512 to either side, where blocks of queries begin, and at the bundle's end.
LENGTHS = (2, 3, 40, 511, 512, 513, 514, 1025, 1026, 1153, 2047, 2048)
SEARCH = ["Which planet is the Red Planet?", "How do plants make sugar?", "What is a mutex?"]


@pytest.fixture(scope="module")
def where() -> str:
    found = os.environ.get("EMBEDDINGGEMMA2")
    if not found:
        pytest.skip("set EMBEDDINGGEMMA2 to the folder or hub id of google/embeddinggemma-2")
    return found


@pytest.fixture(scope="module")
def checkpoint(where: str) -> Checkpoint:
    return load_checkpoint(where)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    return Reference.load(checkpoint)


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is offered, through the gate."""
    return export_all(checkpoint, tmp_path_factory.mktemp("real") / "bundle")


@pytest.fixture(scope="module")
def embedder(bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(bundle, format="onnx", precision="fp32") as opened:
        yield opened


def test_it_is_the_published_model(checkpoint: Checkpoint) -> None:
    """Figures of its config.json and of its files."""
    found = architecture(checkpoint)
    assert (found.model_type, found.num_hidden_layers, found.window) == ("embedding_gemma2_text", 24, 512)
    assert (found.num_attention_heads, found.num_key_value_heads, found.head_dim) == (4, 2, 256)
    assert found.global_layers == GlobalLayers(1, 512)
    assert [i for i, kind in enumerate(found.layer_types) if kind == "global"] == [5, 11, 17, 23]
    assert found.parameters == 271_002_648
    assert not checkpoint.source.random_weights
    assert any("left out" in note for note in checkpoint.source.notes), "towers for images and sound"


def test_it_takes_up_to_8192_tokens(where: str, checkpoint: Checkpoint) -> None:
    assert checkpoint.max_seq_length == 2_048
    assert load_checkpoint(where, max_length=8_192).max_seq_length == 8_192


def test_prompts_and_dims(checkpoint: Checkpoint, bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert manifest.prompts == checkpoint.prompts == standin2_config.PROMPTS_2
    assert manifest.aliases["sentence similarity"] == "PairClassification"
    assert manifest.aliases["code retrieval"] == "CodeRetrieval"
    assert manifest.dims == (MRL_DIMS if manifest.embedding_dim == 768 else (manifest.embedding_dim,))


def test_every_graph_passes_the_gate(bundle: Path, checkpoint: Checkpoint) -> None:
    floors = "random weights" if checkpoint.source.random_weights else "trained weights"
    verdicts = {g.key: (g.parity.status, g.parity.floors) for g in load_manifest(bundle).graphs}
    assert verdicts == {f"{f}/{p}": ("passed", floors) for f, p in GRAPHS}


def test_its_space_is_not_the_first_models(bundle: Path, checkpoint: Checkpoint) -> None:
    assert checkpoint.source.weights_sha256 not in KNOWN_WEIGHTS
    if first := os.environ.get("EMBEDDINGGEMMA"):
        assert load_checkpoint(first).source.weights_sha256 != load_manifest(bundle).source.weights_sha256


@pytest.mark.parametrize("allow_special", [False, True])
def test_ids_are_those_of_the_published_tokenizer(
    checkpoint: Checkpoint, bundle: Path, allow_special: bool
) -> None:
    """Tokens for media and turns are text unless they are allowed."""
    assert load_manifest(bundle).tokenizer.file == "tokenizer.table"
    library = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    given = stress_lines(sorted(GEMMA_4.special - set(checkpoint.tokenizer.without_row)))
    assert len(given) == 20_000
    with Embedder.load(bundle, precision="int8", format="onnx") as embedder:
        own = embedder._encoder.opened.tokenizer
        assert different_ids(own, library, given, allow_special=allow_special) == []


@pytest.mark.parametrize("tokens", LENGTHS)
def test_fp32_at_every_kind_of_length(embedder: Embedder, reference: Reference, tokens: int) -> None:
    text = _text(reference, tokens)
    np.testing.assert_allclose(embedder.encode(text), reference.encode([text])[0], atol=1e-5)


def test_fp32_in_one_padded_batch(embedder: Embedder, reference: Reference) -> None:
    batch = [_text(reference, tokens) for tokens in LENGTHS]
    np.testing.assert_allclose(embedder.encode(batch, batch_size=16), reference.encode(batch), atol=1e-5)


def test_fp32_at_8192_tokens(where: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(where, max_length=8_192)
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), "compared here")
    reference = Reference.load(checkpoint)
    text = _text(reference, 8_192)
    with pytest.warns(UserWarning, match="compared here"):
        embedder = Embedder.load(tmp_path / "bundle", format="onnx", precision="fp32")
    with embedder:
        np.testing.assert_allclose(embedder.encode(text), reference.encode([text])[0], atol=1e-5)


def test_every_task_is_the_references(embedder: Embedder, reference: Reference) -> None:
    for name in embedder.prompts:
        expected = reference.encode(SEARCH, prompt_name=name)
        np.testing.assert_allclose(embedder.encode(SEARCH, task=name), expected, atol=1e-5)
        for dim in embedder.manifest.dims:
            cut = expected[:, :dim] / np.linalg.norm(expected[:, :dim], axis=1, keepdims=True)
            np.testing.assert_allclose(embedder.encode(SEARCH, task=name, dim=dim), cut, atol=1e-5)


def _text(reference: Reference, tokens: int) -> str:
    pieces = [t.text for t in texts.packaged() if t.script not in ("Control tokens", "Control")]
    text = lengths.compose(pieces, tokens, reference.count)
    assert reference.count(text) == tokens
    return text
