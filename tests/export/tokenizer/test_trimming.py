"""`--alphabet`: fewer rows, the same vectors for every text of the alphabet, in every file of the bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedding_export import cli
from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import ExportError
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.tokenizer.trimming import TensorRows
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_validate.gate import parity_gate

TEXTS = [
    "Mars, known for its reddish appearance.",
    "def f(x):\n\treturn  x ** 2",
    "",
    "a" * 300,
    "<bos> is text",
]
FOREIGN = "Привет, 世界 👩‍💻"


@pytest.fixture(scope="module")
def ascii_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trimmed to ASCII, and proved by the real gate."""
    folder = tmp_path_factory.mktemp("trimmed") / "bundle"
    checkpoint = load_checkpoint(tiny_checkpoint)
    options = ExportOptions(precisions=("fp32",), alphabet="ascii")
    manifest = export_bundle(checkpoint, folder, options, parity_gate(checkpoint))
    assert manifest.graphs[0].parity.status == "passed"
    assert manifest.graphs[0].parity.texts >= 20
    return folder


def test_vectors_inside_the_alphabet_are_unchanged(ascii_bundle: Path, tiny_bundle: Path) -> None:
    with Embedder.load(ascii_bundle) as trimmed, Embedder.load(tiny_bundle) as whole:
        np.testing.assert_allclose(trimmed.encode(TEXTS), whole.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(
            trimmed.encode(TEXTS, task="STS"), whole.encode(TEXTS, task="STS"), atol=1e-6
        )
        assert np.isfinite(trimmed.encode(FOREIGN)).all()


def test_ids_follow_the_kept_rows(ascii_bundle: Path, tiny_bundle: Path) -> None:
    manifest = load_manifest(ascii_bundle)
    assert manifest.tokenizer.kept_ids is not None
    kept = np.load(ascii_bundle / manifest.tokenizer.kept_ids)
    assert len(kept) == manifest.tokenizer.vocab_size == manifest.architecture.vocab_size < 2000
    with Embedder.load(ascii_bundle) as trimmed, Embedder.load(tiny_bundle) as whole:
        new, old = (e.tokenize(TEXTS)["input_ids"] for e in (trimmed, whole))
    np.testing.assert_array_equal(kept[new], old)


def test_the_bundle_says_so(ascii_bundle: Path, tiny_bundle: Path) -> None:
    trimmed, whole = load_manifest(ascii_bundle), load_manifest(tiny_bundle)
    assert trimmed.space_id != whole.space_id
    assert trimmed.tokenizer.alphabet == "ascii"
    assert any("entries stay" in note for note in trimmed.source.notes)
    assert trimmed.files["onnx/model.onnx_data"].size < 0.75 * whole.files["onnx/model.onnx_data"].size


def test_files_for_other_clients_are_trimmed_with_it(ascii_bundle: Path) -> None:
    library = Tokenizer.from_file(str(ascii_bundle / "tokenizer.json"))
    library.no_truncation()
    library.encode_special_tokens = True
    config = json.loads((ascii_bundle / "config.json").read_text())
    assert config["vocab_size"] == library.get_vocab_size()
    with Embedder.load(ascii_bundle) as embedder:
        for text in [*TEXTS, FOREIGN]:
            assert embedder.tokenize([text])["input_ids"][0].tolist() == library.encode(text).ids


def test_rows_of_a_tensor(tiny_checkpoint: Path) -> None:
    whole = load_checkpoint(tiny_checkpoint).tensors[TABLE]
    kept = np.array([0, 5, 4000, 7])
    some = TensorRows.of(whole, kept)
    np.testing.assert_array_equal(some.array(), whole.array()[kept])
    np.testing.assert_array_equal(some.rows(1, 3), whole.array()[kept[1:3]])
    some.release()
    assert some.nbytes == 4 * 64 * 4
    with pytest.raises(IndexError):
        some.rows(0, 5)


@pytest.mark.parametrize("existing", ["extend", "replace"])
def test_another_alphabet_cannot_join(
    ascii_bundle: Path, tiny_checkpoint: Path, existing: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    target = tmp_path / "bundle"
    export_bundle(checkpoint, target, ExportOptions(precisions=("fp32",)), "no gate here")
    options = ExportOptions(precisions=("fp32",), alphabet="ascii", existing=existing)  # type: ignore[arg-type]
    if existing == "extend":
        with pytest.raises(ExportError, match="trimmed to None, this export's to ascii"):
            export_bundle(checkpoint, target, options, "no gate here")
        assert load_manifest(target).tokenizer.alphabet is None
    else:
        assert export_bundle(checkpoint, target, options, "no gate here").tokenizer.alphabet == "ascii"


def test_an_unknown_alphabet_is_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tiny_checkpoint), str(tmp_path / "bundle"), "--alphabet", "klingon"]) == 1
    assert "neither one of ascii, latin" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_characters_that_has_changed_is_not_added_by(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where the number of tokens stays nothing else tells, and its graphs would read other texts."""
    checkpoint, characters, target = (
        load_checkpoint(tiny_checkpoint),
        tmp_path / "own.txt",
        tmp_path / "bundle",
    )
    characters.write_text("xj0")
    options = ExportOptions(precisions=("fp32",), alphabet=str(characters))
    before = export_bundle(checkpoint, target, options, "no gate here")
    characters.write_text("xj1")
    again = replace(options, precisions=("int8",), existing="extend")
    with pytest.raises(ExportError, match=r"trimmed to other tokens than .*own\.txt gives now"):
        export_bundle(checkpoint, target, again, "no gate here")
    assert load_manifest(target) == before
    characters.write_text("xj0")
    added = export_bundle(checkpoint, target, again, "no gate here")
    assert [g.key for g in added.graphs] == ["onnx/fp32", "onnx/int8"] and added.space_id == before.space_id
