"""`do_lower_case` stands in the bundle's `tokenizer.json`: other clients give the runtime's ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import assumed
from edits import change, reference
from fine_tunes import Change, special, tuned
from tokenizer_pair import lines
from tokenizers import AddedToken, Tokenizer

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.files.lower_case import lowered
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import TokenizerInfo, load_manifest
from embedding_runtime.tokenizers.tokenizer import open_tokenizer
from embedding_validate.gate import parity_gate

TEXTS = [
    "Mars is the Red Planet",
    "MARS",
    "ΟΔΟΣ ΣΑΣ Σ",
    "İSTANBUL İİ",
    "ǅ ẞ Ω K Å Straße",
    "[Ent] Marks [ENT]",
    *lines(150, seed=31),
]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def lowering(folder: Path) -> Path:
    change(folder / "sentence_bert_config.json", {"do_lower_case": True})
    return folder


def exported(folder: Path, **options: Any) -> Path:
    checkpoint = load_checkpoint(folder)
    bundle = folder.parent / "bundle"
    chosen = ExportOptions(precisions=("fp32",), **options)
    export_bundle(checkpoint, bundle, chosen, assumed if options else parity_gate(checkpoint))
    return bundle


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lowering") / "tuned"
    return lowering(tuned(tiny_checkpoint, folder, special("[Ent]")))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    return exported(checkpoint)


def client(bundle: Path) -> Any:
    """The bundle's tokenizer.json in the `tokenizers` library, and nothing else."""
    library: Any = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    library.encode_special_tokens = True
    return library


def test_another_client_gives_the_references_vectors(bundle: Path, checkpoint: Path) -> None:
    session = onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx"))
    model, library = reference(checkpoint), client(bundle)
    for text in TEXTS[:12]:
        ids = np.array([library.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (vectors,) = session.run(["sentence_embedding"], feed)
        np.testing.assert_allclose(vectors[0], model.encode(text), atol=1e-5)


def test_every_client_gives_the_runtimes_ids(bundle: Path, checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    library, model = client(bundle), reference(checkpoint)
    transformers = AutoTokenizer.from_pretrained(str(bundle))
    with Embedder(bundle, threads=1) as embedder:
        assert embedder.manifest.tokenizer.file == "tokenizer.table"
        for text in TEXTS:
            ids = embedder.tokenizer.encode(text)
            assert library.encode(text).ids == ids == transformers(text)["input_ids"], text
            assert model.tokenizer(text)["input_ids"] == ids, text
        assert embedder.tokenizer.encode(TEXTS[5]).count(4097) == 1  # the owner's token, as it is written


def test_every_character_is_lowered_as_the_runtime_lowers_it(bundle: Path) -> None:
    every = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i <= 0xDFFF)
    with Embedder(bundle, threads=1) as embedder:
        table: Any = embedder.tokenizer
        assert client(bundle).normalizer.normalize_str(every) == table._normal(every)


ADDED: dict[str, Change] = {
    "the library": lambda t: t.add_tokens([AddedToken("Gene", single_word=True, normalized=False)]),
    "another normalizer": lambda t: t.add_tokens(["Nothing Special"]),
}


@pytest.mark.parametrize("case", ADDED)
def test_a_bundle_without_a_table_lowers_once(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = lowering(tuned(tiny_checkpoint, tmp_path / "tuned", ADDED[case]))
    bundle, model = exported(folder), reference(folder)
    text = "a Gene GENE genes, NOTHING special Nothing Special İ ΟΔΟΣ"
    with Embedder(bundle, threads=1) as embedder:
        assert embedder.tokenizer.encode(text) == model.tokenizer(text)["input_ids"]
        long = "Word İ " * 30_000
        assert embedder.tokenizer.encode(long, 50) == [*embedder.tokenizer.encode(long)[:49], 1]


def test_an_older_bundle_is_lowered_by_the_runtime(bundle: Path, tmp_path: Path) -> None:
    """Its tokenizer.json says nothing of lower case; its manifest does."""
    data = json.loads((bundle / "tokenizer.json").read_text()) | {"normalizer": REPLACE}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    old = open_tokenizer(tmp_path, TokenizerInfo("tokenizer.json", 0, 2, 1, 0, True, ()))
    new = open_tokenizer(bundle, TokenizerInfo("tokenizer.json", 0, 2, 1, 0, True, ()))
    for text in TEXTS:
        assert old.encode(text) == new.encode(text)


def test_a_trimmed_vocabulary_lowers_too(checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ExportOptions(precisions=("fp32",), alphabet="ascii")
    export_bundle(load_checkpoint(checkpoint), bundle, options, assumed)
    library, model = client(bundle), reference(checkpoint)
    with Embedder(bundle, threads=1) as embedder:
        for text in TEXTS[:2] + TEXTS[5:6]:
            assert library.encode(text).ids == embedder.tokenizer.encode(text)
            np.testing.assert_allclose(embedder.encode(text), model.encode(text), atol=1e-5)


def test_lowering_twice_is_lowering_once() -> None:
    once = lowered(REPLACE)
    nested = {
        "type": "Sequence",
        "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}],
    }
    assert lowered(once) == once == lowered({"type": "Sequence", "normalizers": [nested, REPLACE]})
    assert lowered(None)["normalizers"] == lowered({"type": "Lowercase"})["normalizers"]


def test_a_checkpoint_without_it_keeps_its_files(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    assert not load_manifest(tiny_bundle).tokenizer.do_lower_case
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert "Lowercase" not in (tiny_bundle / name).read_text()
    kind = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text()).get("tokenizer_class")
    assert json.loads((tiny_bundle / "tokenizer_config.json").read_text()).get("tokenizer_class") == kind
