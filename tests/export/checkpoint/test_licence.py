"""What a bundle says about its weights' licence, and what it carries along."""

import shutil
from pathlib import Path

import pytest
from conftest import assumed

from embedding_export.bundle.licence import GEMMA_NOTICE, read_card
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle

FP32 = ExportOptions(precisions=("fp32",))


def exported(checkpoint: Path, bundle: Path) -> Path:
    export_bundle(load_checkpoint(checkpoint), bundle, FP32, assumed)
    return bundle


def with_card(folder: Path, front_matter: str) -> Path:
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n\n# A model\n", encoding="utf-8")
    return folder


GEMMA = {
    "its card says so": "license: gemma",
    "made from it": "license: apache-2.0\nbase_model: google/embeddinggemma-300m",
    "made from several": "base_model:\n- other/model\n- google/embeddinggemma-300m-qat-q4_0-unquantized",
    "named otherwise": "license: other\nlicense_name: gemma",
}


@pytest.mark.parametrize("case", GEMMA)
def test_gemma_s_terms_travel_with_the_bundle(editable: Path, tmp_path: Path, case: str) -> None:
    bundle = exported(with_card(editable, GEMMA[case]), tmp_path / "bundle")
    notice = (bundle / "NOTICE").read_text(encoding="utf-8")
    assert GEMMA_NOTICE in notice
    assert "ai.google.dev/gemma/prohibited_use_policy" in notice
    assert "Modified from" in notice
    assert "onnx/fp32" in notice
    assert (bundle / "MODEL_CARD.md").read_bytes() == (editable / "README.md").read_bytes()


def test_an_apache_checkpoint_carries_its_licence(editable: Path, tmp_path: Path) -> None:
    bundle = exported(with_card(editable, "license: apache-2.0"), tmp_path / "bundle")
    assert "Apache License" in (bundle / "LICENSE").read_text(encoding="utf-8")
    notice = (bundle / "NOTICE").read_text(encoding="utf-8")
    assert "gives its licence as apache-2.0" in notice
    assert "Gemma" not in notice


def test_a_checkpoint_s_own_licence_text_is_the_one_that_travels(editable: Path, tmp_path: Path) -> None:
    (editable / "LICENSE.txt").write_text("our text")
    bundle = exported(with_card(editable, "license: apache-2.0"), tmp_path / "bundle")
    assert (bundle / "LICENSE.txt").read_text() == "our text"
    assert not (bundle / "LICENSE").exists()


def test_the_notice_does_not_name_a_folder(editable: Path, tmp_path: Path) -> None:
    private = Path(shutil.move(editable, tmp_path / "client-acme-secret"))
    notice = (exported(private, tmp_path / "bundle") / "NOTICE").read_text(encoding="utf-8")
    assert "acme" not in notice
    assert "Modified from a checkpoint" in notice


DAMAGED = {"none": "# A model", "not closed": "---\nlicense: gemma\n", "no mapping": "---\n- a\n---\n"}
DAMAGED |= {"not YAML": "---\nlicense: [\n---\n", "a number": "---\nlicense: 3\nbase_model: 4\n---\n"}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_card_without_usable_fields_says_nothing(tmp_path: Path, case: str) -> None:
    (tmp_path / "README.md").write_bytes(DAMAGED[case].encode() + b"\xff")
    card = read_card(tmp_path)
    assert card is not None
    assert (card.licence, card.base_models) == (None, ())
