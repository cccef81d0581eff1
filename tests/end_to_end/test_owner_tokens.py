"""Tokens of the checkpoint's owner in every way in: engines, command, adaptors, chunks, `decode`, flags."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assumed
from edits import reference
from fine_tunes import Change, special, tuned
from text_command import records
from tokenizers import AddedToken

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.embed_text.cli import main
from embedding_runtime.encoding.overflow import Request
from embedding_runtime.langchain import langchain_embeddings
from embedding_runtime.llamaindex import llamaindex_embedding
from embedding_validate.gate import parity_gate

Captured = pytest.CaptureFixture[str]
TEXTS = ["[E1] Aspirin [/E1] reduces fever.", "no marker", "[E1][/E1]", "x[E1]y <eos> z <pad>"]
PLAIN = TEXTS[:3]  # without control tokens: those are text here, and the reference reads them


@pytest.fixture(scope="module")
def marked(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tiny_checkpoint, tmp_path_factory.mktemp("marked") / "tuned", special("[E1]", "[/E1]"))


@pytest.fixture(scope="module")
def bundle(marked: Path) -> Path:
    """The fine-tune for both engines."""
    options = ExportOptions(("fp32",), formats=("onnx", "litert"), buckets=(64,))
    export_bundle(load_checkpoint(marked), marked.parent / "bundle", options, assumed)
    return marked.parent / "bundle"


@pytest.fixture(scope="module", params=["onnx", "litert"])
def embedder(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Embedder]:
    with Embedder(bundle, threads=1, format=request.param) as opened:
        yield opened


def test_both_engines_give_the_references_vectors(embedder: Embedder, marked: Path) -> None:
    model = reference(marked)
    for verb in ("encode", "encode_query", "encode_document"):
        found, expected = getattr(embedder, verb)(PLAIN), getattr(model, verb)(PLAIN)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ids_and_text_of_the_owners_tokens(embedder: Embedder, marked: Path) -> None:
    tokenizer = reference(marked).tokenizer
    for text in PLAIN:
        ids = embedder.tokenize([text])["input_ids"][0].tolist()
        assert ids == tokenizer(text)["input_ids"]
        assert embedder.tokenizer.decode(ids) == text
    assert [embedder.tokenizer.id_to_token(i) for i in embedder.tokenizer.encode("[E1]")][1] == "[E1]"


def test_chunks_keep_the_owners_tokens(bundle: Path, marked: Path) -> None:
    text = "[E1] Aspirin [/E1] reduces fever. " * 20
    model = reference(marked)
    with Embedder(bundle, threads=1, format="onnx") as embedder:
        embedder.max_seq_length = 32
        cutter = embedder._encoder.cutter("chunk", allow_special=False)
        pieces = cutter.pieces(Request("", text)).ids
        assert len(pieces) > 3
        whole = model.tokenizer(text)["input_ids"]
        for marker in model.tokenizer.convert_tokens_to_ids(["[E1]", "[/E1]"]):
            assert sum((piece == marker).sum() for piece in pieces) == whole.count(marker) == 20


@pytest.mark.parametrize("allow", [False, True])
def test_embed_text(allow: bool, bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*TEXTS[:2], "a <eos> b<bos>"]) + "\n")
    options = ["--format", "onnx", *(["--allow-special"] if allow else [])]
    assert main([str(bundle), str(file), *options]) == 0
    found = [r["embedding"] for r in records(capfd.readouterr().out)]
    with Embedder(bundle, threads=1, format="onnx") as embedder:
        expected, other = (
            embedder.encode(file.read_text().splitlines(), allow_special=a) for a in (allow, not allow)
        )
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected[2] - other[2]).max() > 1e-3  # the option is about something


@pytest.mark.parametrize("make", [langchain_embeddings, llamaindex_embedding])
def test_adaptors(make: Any, bundle: Path, marked: Path) -> None:
    pytest.importorskip("langchain_core" if make is langchain_embeddings else "llama_index.core")
    model, control = reference(marked), "a <eos> b<bos>"
    with Embedder(bundle, threads=1, format="onnx") as embedder:
        plain, allowing = make(embedder), make(embedder, allow_special=True)
        for adaptor in (plain, allowing):
            query = getattr(adaptor, "embed_query", None) or adaptor.get_query_embedding
            documents = getattr(adaptor, "embed_documents", None) or adaptor.get_text_embedding_batch
            np.testing.assert_allclose(query(TEXTS[0]), model.encode_query(TEXTS[0]), atol=1e-5)
            np.testing.assert_allclose(documents(PLAIN), model.encode_document(PLAIN), atol=1e-5)
            same = np.abs(np.array(query(control)) - model.encode_query(control)).max() < 1e-5
            assert same == (adaptor is allowing)
            same = np.abs(np.array(documents([control])[0]) - model.encode_document(control)).max() < 1e-5
            assert same == (adaptor is allowing)
        told = [a.to_dict() if hasattr(a, "to_dict") else a.identity for a in (plain, allowing)]
    assert {n for n in told[0] if told[0][n] != told[1][n]} == {"allow_special"}


def flagged(content: str, **flags: bool) -> Change:
    return lambda t: t.add_tokens([AddedToken(content, normalized=False, **flags)], special_tokens=False)


FLAGS: dict[str, tuple[Change, str]] = {
    "lstrip": (
        lambda t: t.add_tokens([AddedToken("[E1]", lstrip=True, normalized=False, special=True)]),
        "a  [E1] b [E1]  c[E1]",
    ),
    "rstrip": (flagged("[E1]", rstrip=True), "a  [E1]   b [E1]"),
    "single word": (flagged("gene", single_word=True), "gene genes gene, the gene"),
    "all, and a special one": (
        lambda t: (
            flagged("pre", lstrip=True, rstrip=True, single_word=True)(t),
            special("[X]")(t),
        ),
        "a pre b prefix [X] pre[X] pre",
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_tokens_with_flags_are_read_by_the_library(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    add, text = FLAGS[case]
    folder = tuned(tiny_checkpoint, tmp_path / "tuned", add)
    checkpoint = load_checkpoint(folder)
    options = ExportOptions(("fp32",))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, parity_gate(checkpoint))
    assert manifest.tokenizer.file == "tokenizer.json"
    model = reference(folder)
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        ids = embedder.tokenize([text])["input_ids"][0].tolist()
        assert ids == model.tokenizer(text)["input_ids"]
        np.testing.assert_allclose(embedder.encode(text), model.encode(text), atol=1e-5)
        control = embedder.tokenize(["<eos> <start_of_turn> <pad>"])["input_ids"][0].tolist()
        assert control.count(embedder.manifest.tokenizer.eos_id) == 1
