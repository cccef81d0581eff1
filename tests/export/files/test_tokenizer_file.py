"""Added tokens: those without a row in the table are text, those of the checkpoint's owner are tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin_tokenizer
import torch
from conftest import assumed
from fine_tunes import Change, special, tuned
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError, ParityError
from embedding_export.files.tokenizer_file import NEWER_CONTROL_TOKENS, TokenizerFile
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder, InputError
from embedding_runtime.bundle import load_manifest
from embedding_validate.gate import parity_gate

SOFT = "<image_soft_token>"
FP32 = ExportOptions(precisions=("fp32",))


def edited(file: Path, change: Change) -> None:
    """Change a JSON document in place."""
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    change(data)
    file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def token(content: str, token_id: int, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


def rows(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def add_past_the_table(folder: Path) -> None:
    """The published checkpoint's image token, in every file that names it there."""
    size = rows(folder)
    edited(folder / "tokenizer.json", lambda t: t["added_tokens"].append(token(SOFT, size)))
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    edited(
        folder / "tokenizer_config.json",
        lambda t: t.update(
            image_token=SOFT,
            extra_special_tokens={"image_token": SOFT, "boi_token": "<start_of_image>"},
            added_tokens_decoder=decoder,
        ),
    )
    edited(folder / "special_tokens_map.json", lambda t: t.update(image_token=SOFT))
    (folder / "added_tokens.json").write_text(json.dumps({SOFT: size}))


def test_media_tokens_control_the_model_that_has_them(tmp_path: Path, editable: Path) -> None:
    """They are text unless allowed; one that is added to the first model's vocabulary is its owner's."""
    standin_tokenizer.write(tmp_path / "tokenizer.json", 4_096, 0, standin_tokenizer.GEMMA_4)
    second = TokenizerFile.read(tmp_path / "tokenizer.json", 4_096)
    ends = {"<pad>", "<eos>", "<bos>", "<unk>"}
    assert set(second.control_tokens) == ends | NEWER_CONTROL_TOKENS
    assert len(NEWER_CONTROL_TOKENS) == 19
    assert (second.owner_tokens, second.without_row) == (("<mask>",), ())
    edited(
        editable / "tokenizer.json", lambda t: t["added_tokens"].append(token("<|image|>", rows(editable)))
    )
    first = TokenizerFile.read(editable / "tokenizer.json")
    assert "<|image|>" in first.owner_tokens and "<|image|>" not in first.control_tokens


@pytest.fixture
def published(editable: Path) -> Path:
    """A stand-in with a token past its table, as the published tokenizer has one."""
    if not load_checkpoint(editable).tokenizer.without_row:
        add_past_the_table(editable)
    return editable


@pytest.fixture
def past_the_table(published: Path, tmp_path: Path) -> Path:
    export_bundle(load_checkpoint(published), tmp_path / "bundle", FP32, assumed)
    return tmp_path / "bundle"


def test_a_token_without_a_row_is_named_and_left_out(published: Path, past_the_table: Path) -> None:
    manifest = load_manifest(past_the_table)
    assert manifest.tokenizer.without_row == (SOFT,)
    assert any(SOFT in note and "ordinary text" in note for note in manifest.source.notes)
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    assert all(SOFT in (published / name).read_text() for name in names)
    for name in names:
        assert SOFT not in (past_the_table / name).read_text(), name
        json.loads((past_the_table / name).read_text())
    assert not (past_the_table / "added_tokens.json").exists()  # it named that token alone


def test_a_token_without_a_row_is_text(published: Path, past_the_table: Path) -> None:
    text = f"an image {SOFT}{SOFT} here"
    library = TokenizerFile.read(published / "tokenizer.json", rows(published)).library
    with Embedder.load(past_the_table, threads=1) as embedder:
        library.encode_special_tokens = True
        assert embedder.tokenize([text])["input_ids"][0].tolist() == library.encode(text).ids
        assert np.isfinite(embedder.encode(text)).all()
        with pytest.raises(InputError, match=rf"{SOFT} at character 9.*without allow_special"):
            embedder.encode([text], allow_special=True)
        assert embedder.encode("no image", allow_special=True).shape == (64,)
    with pytest.raises(IndexError):
        SentenceTransformer(str(published), device="cpu").encode(text)


def test_the_untouched_checkpoint_passes_the_gate(published: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(published)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", FP32, parity_gate(checkpoint))
    assert [g.parity.status for g in manifest.graphs] == ["passed"]


REACHABLE: dict[str, Change] = {
    "not special": lambda t: t["added_tokens"].append(token("<late>", 9_999, special=False)),
    "no flag": lambda t: t["added_tokens"].append({"id": 9_999}),
    "an entry": lambda t: t["model"]["vocab"].update({"late": 9_999}),
    "an entry that is special too": lambda t: (
        t["model"]["vocab"].update({"<late>": 9_999}),
        t["added_tokens"].append(token("<late>", 9_999)),
    ),
    "around every text": lambda t: (
        t["added_tokens"].append(token("<end>", 9_999)),
        t["post_processor"]["special_tokens"].update({"<end>": {"id": "<end>", "ids": [9_999]}}),
    ),
}


@pytest.mark.parametrize("case", REACHABLE)
def test_ids_that_a_text_can_reach_stay_refused(editable: Path, case: str) -> None:
    edited(editable / "tokenizer.json", REACHABLE[case])
    with pytest.raises(CheckpointError, match="ids up to 9999, but the embedding table has 4096 rows"):
        load_checkpoint(editable)


OWN: dict[str, tuple[Change, str]] = {
    "markers": (special("[E1]", "[/E1]"), "[E1] Aspirin [/E1] reduces fever."),
    "a role": (lambda t: t.add_special_tokens({"sep_token": "[SEP]"}), "one [SEP] two[SEP]three"),
    "as special": (
        lambda t: t.add_tokens([AddedToken("<gene>", special=True, normalized=False)]),
        "<gene>p53 suppresses",
    ),
    "a reserved entry": (special("<unused3>"), "<unused3> word <unused4>"),
    "mask": (special("<mask>"), "a <mask> in a text"),
}


@pytest.mark.parametrize("case", OWN)
def test_tokens_of_the_owner_are_tokens(tiny_checkpoint: Path, tmp_path: Path, case: str) -> None:
    add, text = OWN[case]
    folder = tuned(tiny_checkpoint, tmp_path / "tuned", add)
    checkpoint = load_checkpoint(folder)
    bundle = tmp_path / "bundle"
    (graph,) = export_bundle(checkpoint, bundle, FP32, parity_gate(checkpoint)).graphs
    assert graph.parity.status == "passed"
    reference = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    with Embedder.load(bundle, threads=1) as embedder:
        ids = embedder.tokenize([text])["input_ids"][0].tolist()
        assert ids == reference.tokenizer(text)["input_ids"]
        np.testing.assert_allclose(embedder.encode(text), reference.encode(text), atol=1e-5)
        np.testing.assert_allclose(embedder.encode_query(text), reference.encode_query(text), atol=1e-5)
        control = embedder.tokenize(["<eos> <start_of_turn> <pad>"])["input_ids"][0].tolist()
        assert embedder.manifest.tokenizer.pad_id not in control  # the base model's stay text
        assert control.count(embedder.manifest.tokenizer.eos_id) == 1


def test_the_gate_would_see_tokens_read_as_text(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tuned(tiny_checkpoint, tmp_path / "tuned", special("[E1]", "[/E1]"))
    checkpoint = load_checkpoint(folder)
    judge = parity_gate(checkpoint)
    monkeypatch.setattr(TokenizerFile, "_is_control", lambda _, token: token["special"])
    checkpoint.tokenizer.release()
    with pytest.raises(ParityError, match="ids"):
        export_bundle(checkpoint, tmp_path / "bundle", FP32, judge)


def test_an_alphabet_keeps_tokens_of_the_owner(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tuned(tiny_checkpoint, tmp_path / "tuned", special("〔実体〕", "<unused3>"))
    options = ExportOptions(precisions=("fp32",), alphabet="ascii")
    export_bundle(load_checkpoint(folder), tmp_path / "bundle", options, assumed)
    reference = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    with Embedder.load(tmp_path / "bundle", threads=1) as embedder:
        for text in ("〔実体〕 is marked", "a <unused3> b"):
            np.testing.assert_allclose(embedder.encode(text), reference.encode(text), atol=1e-5)


def test_saving_again_changes_no_ids(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """transformers flags `<mask>` as special when it saves, and back: the same text gives the same ids."""
    ids = []
    for flag in (False, True):
        folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / str(flag)))

        def mark(data: Any, flag: bool = flag) -> None:
            next(t for t in data["added_tokens"] if t["content"] == "<mask>")["special"] = flag

        edited(folder / "tokenizer.json", mark)
        export_bundle(load_checkpoint(folder), tmp_path / f"bundle {flag}", FP32, assumed)
        with Embedder.load(tmp_path / f"bundle {flag}", threads=1) as embedder:
            ids.append(embedder.tokenize(["a <mask> b"])["input_ids"][0].tolist())
    assert ids[0] == ids[1]
    assert 4 in ids[0]
