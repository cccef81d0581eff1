"""Plain words added with `add_tokens`: the compact table finds them where the `tokenizers` library does."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from added_words import mixtures, with_tokens
from conftest import assumed
from edits import change, reference
from fine_tunes import special, tuned
from tokenizer_pair import Both, lines

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.files.tokenizer_json import UnsupportedTokenizer
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.tokenizer.table import build_table
from embedding_runtime import Embedder
from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.tokenizers import table as tokenizer_table
from embedding_runtime.tokenizers.library import LibraryTokenizer
from embedding_runtime.tokenizers.table import TableTokenizer
from embedding_runtime.tokenizers.table_file import PREFIX
from embedding_validate.gate import parity_gate

DEMO = Path(__file__).parents[3] / "models" / "demo"
FP32 = ExportOptions(precisions=("fp32",))


@pytest.fixture(scope="module", params=[False, True], ids=["cased", "lowered"])
def both(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    folder = tmp_path_factory.mktemp("added")
    file = with_tokens(tiny_checkpoint, folder / "tokenizer.json", request.param)
    return Both(file, folder / "x.table")


def test_ids_are_the_librarys(both: Both) -> None:
    assert both.path.read_bytes()[8:12] == struct.pack("<I", 2)
    for text in [*mixtures(1500, seed=1), *lines(100, seed=2), "METOPROLOL metoprolol" * 50]:
        both.check(text)


def test_ids_however_small_the_blocks(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 7, 24):
        monkeypatch.setattr(tokenizer_table, "LARGEST_BLOCK", block)
        monkeypatch.setattr(tokenizer_table, "SMALLEST_BLOCK", block)
        for text in mixtures(300, seed=block):
            both.check(text)


def test_offsets_and_decoding_are_the_librarys(both: Both) -> None:
    both.library.encode_special_tokens = True
    for text in mixtures(400, seed=5):
        found = both.library.encode(text)
        assert both.table.offsets(text) == [tuple(o) for o in found.offsets], text
        assert both.table.decode(found.ids) == both.library.decode(found.ids)


def test_a_long_text_costs_what_is_kept_of_it(both: Both) -> None:
    for text in ("metoprolol lowers high sugar " * 200_000, "metoprolol" * 500_000, "<e>" * 1_000_000):
        started = time.process_time()
        assert len(both.table.encode(text, 2048)) == 2048
        assert time.process_time() - started < 3  # 0.1 s when measured


def test_time_grows_with_length_not_its_square(both: Both) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        both.table.encode("metoprolol b" * count)
        return time.process_time() - start

    seconds(1_000)
    assert seconds(40_000) < 30 * max(seconds(5_000), 0.01)


def test_a_table_without_such_words_is_read_by_older_runtimes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    build_table(TokenizerFile(tiny_checkpoint / "tokenizer.json"), tmp_path / "x.table")
    assert PREFIX.unpack_from((tmp_path / "x.table").read_bytes())[1] == 1


def test_the_proof_sees_a_reader_that_takes_them_for_text(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedding_export.errors import ExportError

    monkeypatch.setattr("embedding_runtime.tokenizers.added.AddedTokens.longest", lambda table: 0)
    with pytest.raises(ExportError, match="The compact table gives"):
        build_table(with_tokens(tiny_checkpoint, tmp_path / "tokenizer.json", False), tmp_path / "x.table")


ALIKE: dict[str, tuple[bool, dict[str, Any]]] = {
    "alike once normalized": (False, {"content": "high▁sugar", "normalized": True}),
    "alike in lower case": (True, {"content": "METOPROLOL", "normalized": True}),
    "a raw one with İ": (True, {"content": "<İ>", "normalized": False}),
    "a flag": (False, {"content": "<f>", "normalized": True, "lstrip": True}),
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_stays_with_the_library(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    lower, token = ALIKE[case]
    file = with_tokens(tiny_checkpoint, tmp_path / "tokenizer.json", lower, token)
    with pytest.raises(UnsupportedTokenizer, match="added token"):
        build_table(file, tmp_path / "x.table")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_the_library_cuts_long_texts_first(flag: str, tmp_path: Path) -> None:
    data = json.loads((DEMO / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False, "normalized": True}
    data["added_tokens"].append(
        {"id": data["model"]["vocab"]["gene"], "content": "gene", **flags, flag: True}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    library = LibraryTokenizer.open(
        tmp_path / "tokenizer.json", TokenizerInfo("tokenizer.json", 32_000, 2, 1, 0, False, ())
    )
    for text in (
        "a gene   genes gene" * 6_000,
        "gene" + " " * 80_000 + "gene b" * 9000,
        "gene\n \t" * 12_000,
    ):
        whole = library.encode(text)
        for length in (3, 8, 2048):
            assert library.encode(text, length) == [*whole[: length - 1], 1]
    library.encode("warm up " * 20_000, 50)
    started = time.process_time()
    library.encode("word number gene and more " * 200_000, 2048)
    assert time.process_time() - started < 2  # 0.1 s when measured, 10 s without a cut


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("alphabet", [None, "ascii"])
def test_a_bundle_gives_the_references_vectors(
    lower: bool, alphabet: str | None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    def add(tokenizer: Any) -> None:
        tokenizer.add_tokens(["Metoprolol", "high sugar"])
        special("[E1]")(tokenizer)

    folder = tuned(tiny_checkpoint, tmp_path / "tuned", add)
    change(folder / "sentence_bert_config.json", {"do_lower_case": lower})
    checkpoint, model = load_checkpoint(folder), reference(folder)
    options = replace(FP32, alphabet=alphabet)
    gate: Callable[..., Any] = assumed if alphabet else parity_gate(checkpoint)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, gate)
    assert manifest.tokenizer.file == "tokenizer.table"
    texts = ["Metoprolol lowers high  sugar, high sugar", "METOPROLOL[E1]metoprolol", "nothing"]
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        np.testing.assert_allclose(embedder.encode(texts), model.encode(texts), atol=1e-5)
        np.testing.assert_allclose(embedder.encode_query(texts), model.encode_query(texts), atol=1e-5)
        table: Any = embedder.tokenizer
        assert isinstance(table, TableTokenizer)
