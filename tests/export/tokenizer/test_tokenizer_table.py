"""The table's file: damage never goes unseen, what it cannot reproduce is refused, and the proof can fail."""

import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizer_pair import Both, lines

from embedding_export.errors import ExportError
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.files.tokenizer_json import UnsupportedTokenizer
from embedding_export.tokenizer.conformance import write_conformance
from embedding_export.tokenizer.table import build_table
from embedding_runtime.errors import BundleError
from embedding_runtime.tokenizers.table import TableTokenizer
from embedding_runtime.tokenizers.table_file import MAGIC, PREFIX, TableFile
from embedding_runtime.tokenizers.tokenizer import open_tokenizer

Json = dict[str, Any]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tiny_checkpoint / "tokenizer.json", tmp_path_factory.mktemp("tables") / "tiny.table")


# Damage


def test_damage_anywhere_is_refused(tiny: Both, tmp_path: Path) -> None:
    """Flip one byte after another over the whole file: refused, or (in padding) without any effect."""
    good = tiny.path.read_bytes()
    draw, path = random.Random(14), tmp_path / "x.table"
    texts = lines(20, seed=15)
    expected = [tiny.expected(t) for t in texts]
    header = PREFIX.size + struct.unpack_from("<I", good, 12)[0]
    for place in [*range(0, header, 7), *(draw.randrange(len(good)) for _ in range(300))]:
        bad = bytearray(good)
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        try:
            table = open_tokenizer(tmp_path, replace(tiny.info, file="x.table"))
        except BundleError:
            continue
        sections = TableFile.open(tiny.path).header.sections.values()
        assert not any(s.offset <= place < s.stop for s in sections)
        assert [table.encode(t) for t in texts] == expected


def test_unverified_damage_is_found_by_verify(tiny: Both, tmp_path: Path) -> None:
    bad = bytearray(tiny.path.read_bytes())
    bad[TableFile.open(tiny.path).header.sections["merge_slots"].offset + 5] ^= 1
    (tmp_path / "x.table").write_bytes(bad)
    file = TableFile.open(tmp_path / "x.table")
    with pytest.raises(BundleError, match="section merge_slots"):
        file.verify()


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", "cannot be read"),
    "short": (lambda b: b[:10], "fewer than"),
    "foreign": (lambda b: b'{"version": "1.0"}' * 9, "not a tokenizer table"),
    "newer": (lambda b: PREFIX.pack(MAGIC, 3, 0, 0) + b[PREFIX.size :], "of version 3.*Upgrade"),
    "truncated": (lambda b: b[:-1], "bytes; its header says"),
    "longer": (lambda b: b + b"x", "bytes; its header says"),
    "cut in the header": (lambda b: b[:100], "damaged in its header"),
    "unknown section": (
        lambda b: _reheaded(b, lambda h: h["sections"].update(x=h["sections"].pop("byte_ids"))),
        "the sections",
    ),
    "unknown field": (lambda b: _reheaded(b, lambda h: h.update(later=1)), "does not understand"),
    "text for a number": (lambda b: _reheaded(b, lambda h: h.update(merges="1")), "not a natural number"),
    "wrong count": (lambda b: _reheaded(b, lambda h: h.update(vocab_size=5)), "not a table's layout"),
}


def _rename(header: Json) -> None:
    header["sections"]["other"] = header["sections"].pop("byte_ids")


def _reheaded(data: bytes, change: Callable[[Json], object]) -> bytes:
    size = struct.unpack_from("<I", data, 12)[0]
    header: Json = json.loads(data[PREFIX.size : PREFIX.size + size])
    change(header)
    raw = json.dumps(header).encode()
    return PREFIX.pack(MAGIC, 1, len(raw), zlib.crc32(raw)) + raw + data[PREFIX.size + len(raw) :]


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_with_its_reason(tiny: Both, tmp_path: Path, name: str) -> None:
    change, reason = REFUSED[name]
    (tmp_path / "x.table").write_bytes(change(tiny.path.read_bytes()))
    with pytest.raises(BundleError, match=reason):
        TableTokenizer.open(tmp_path / "x.table", tiny.info)


def test_a_table_of_another_bundle_is_refused(tiny: Both) -> None:
    info = replace(tiny.info, bos_id=5)
    with pytest.raises(BundleError, match="the manifest says"):
        TableTokenizer.open(tiny.path, info)


# What is not reproduced

UNSUPPORTED: dict[str, tuple[Callable[[Json], object], str]] = {
    "model": (lambda d: d["model"].update(type="Unigram"), "model"),
    "no bytes": (lambda d: d["model"].update(byte_fallback=False), "byte_fallback"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "dropout"),
    "prefix": (lambda d: d["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "ignore_merges": (lambda d: d["model"].update(ignore_merges=True), "ignore_merges"),
    "normalizer": (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
    "pre-tokenizer": (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer"),
    "template": (lambda d: d["post_processor"]["single"].pop(), "template"),
    "decoder": (lambda d: d.update(decoder=None), "decoder"),
    "lstrip": (lambda d: d["added_tokens"][0].update(lstrip=True), "lstrip"),
    "single_word": (lambda d: d["added_tokens"][0].update(single_word=True), "single_word"),
    "gap": (lambda d: d["model"]["vocab"].pop("<0x00>"), "byte entries"),
    "byte merge": (
        lambda d: (
            d["added_tokens"].pop(),  # its id is past the table
            d["model"]["vocab"].update({"<0x41>a": len(d["model"]["vocab"])}),
            d["model"]["merges"].append(["<0x41>", "a"]),
        ),
        "byte entry",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_reproduced_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    data = json.loads((tiny_checkpoint / "tokenizer.json").read_text())
    change, reason = UNSUPPORTED[name]
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UnsupportedTokenizer, match=reason):
        build_table(TokenizerFile(tmp_path / "tokenizer.json"), tmp_path / "x.table")
    assert not (tmp_path / "x.table").exists()


def test_the_proof_can_fail(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that merges wrongly must stop the export and leave no table."""
    monkeypatch.setattr("embedding_runtime.tokenizers.bpe.Merger._merge_short", lambda self, ids: ids)
    with pytest.raises(ExportError, match="The compact table gives"):
        build_table(TokenizerFile(tiny_checkpoint / "tokenizer.json"), tmp_path / "x.table")
    assert not (tmp_path / "x.table").exists()


def test_merges_across_spaces_are_exact_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With a merge over a space the text is not cut into words, and the ids are still the library's."""
    data = json.loads((tiny_checkpoint / "tokenizer.json").read_text())
    for left, right in (("e", "▁"), ("e▁", "a")):
        data["model"]["vocab"][left + right] = len(data["model"]["vocab"])
        data["model"]["merges"].insert(0, [left, right])
    data["added_tokens"] = [a for a in data["added_tokens"] if a["id"] < data["model"]["vocab"]["e▁"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    both = Both(tmp_path / "tokenizer.json", tmp_path / "x.table")
    assert not both.built.cuts
    assert len(both.table.encode("the apple e a")) < len("the apple e a")
    for text in ["the apple e a", "e  a e a", *lines(100, seed=16)]:
        both.check(text)


def test_the_conformance_file_is_met(tiny: Both, tiny_checkpoint: Path, tmp_path: Path) -> None:
    count = write_conformance(TokenizerFile(tiny_checkpoint / "tokenizer.json"), tmp_path / "cases.jsonl")
    cases = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().split("\n")[:-1]]
    assert len(cases) == count > 400
    for case in cases:
        found = tiny.table.encode(case["text"], case["max_length"], allow_special=case["allow_special"])
        assert (found, tiny.table.decode(found)) == (case["ids"], case["decoded"]), case["text"]
    assert {c["allow_special"] for c in cases} == {True, False}
    assert any(c["max_length"] for c in cases)


def test_no_token_begins_inside_a_control_token_read_as_text(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = json.loads((tiny_checkpoint / "tokenizer.json").read_text())
    control = data["added_tokens"][0] | {"id": len(data["model"]["vocab"]), "content": "<x<b>y>"}
    data["added_tokens"][-1] = control  # in place of the one past the table
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    both = Both(tmp_path / "tokenizer.json", tmp_path / "x.table")
    inner = both.source.vocab["<b>"]
    assert inner in both.table.encode("<b>")
    assert inner not in both.table.encode("<x<b>y>")
    both.check("a<x<b>y><b> <x<b><x<b>y>")
