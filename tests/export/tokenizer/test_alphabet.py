"""Trimming: the same tokens inside the alphabet, bytes outside, and a table that the runtime reads."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizer_pair import SHARED, Both, lines

from embedding_export.errors import ExportError
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.tokenizer.alphabet import Trimmed, read_alphabet, trim


@pytest.fixture(scope="module")
def full(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tiny_checkpoint / "tokenizer.json", tmp_path_factory.mktemp("tables") / "tiny.table")


@pytest.fixture(scope="module")
def trimmed(tiny_checkpoint: Path) -> Trimmed:
    return trim(TokenizerFile(tiny_checkpoint / "tokenizer.json"), "latin")


@pytest.fixture(scope="module")
def both(trimmed: Trimmed, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("trimmed")
    (folder / "tokenizer.json").write_text(trimmed.tokenizer.text, encoding="utf-8")
    return Both(folder / "tokenizer.json", folder / "tokenizer.table")


def texts_in(alphabet: str, count: int, seed: int) -> list[str]:
    draw, chars = random.Random(seed), sorted(read_alphabet(alphabet))
    common = "etaoin shrdlu <>\n/"
    return [
        "".join(draw.choices(draw.choice((chars, common)), k=draw.randint(1, 60))) for _ in range(count)
    ] + ["Which planet is red?", "<b>x</b>\n\n\n   y", "<unused><bos>", "a" * 500]


def test_ids_inside_the_alphabet_are_the_same_tokens(full: Both, both: Both, trimmed: Trimmed) -> None:
    for text in texts_in("latin", 1500, seed=1):
        for special in (False, True):
            new = both.table.encode(text, allow_special=special)
            assert trimmed.kept_ids[new].tolist() == full.expected(text, None, special), text


def test_the_table_agrees_with_the_trimmed_json_everywhere(both: Both) -> None:
    """Outside the alphabet too: other clients of the bundle read tokenizer.json."""
    for text in lines(400, seed=2):
        both.check(text)


def test_what_is_kept(full: Both, trimmed: Trimmed) -> None:
    kept = {full.source.pieces[i] for i in trimmed.kept_ids}
    assert trimmed.kept_ids.dtype == np.int64
    assert (np.diff(trimmed.kept_ids) > 0).all()
    assert trimmed.kept_ids[:5].tolist() == [0, 1, 2, 3, 4]
    assert {"<pad>", "<bos>", "<0x00>", "<0xFF>", "e", "▁the"} <= kept
    assert "中" not in kept
    assert "д" not in kept
    assert 0 < len(kept) < len(full.source.pieces)


def test_reserved_entries_are_read_as_text(full: Both, both: Both, trimmed: Trimmed) -> None:
    """The documented exception: they go, for they were never trained, and their names stay readable."""
    assert len(full.table.encode("<unused3>")) == 3
    ids = both.table.encode("<unused3>")
    assert len(ids) > 3
    assert both.table.decode(ids) == "<unused3>"
    assert not any(full.source.pieces[i].startswith("<unused") for i in trimmed.kept_ids)


def test_the_summary_says_what_is_saved_and_what_it_costs(trimmed: Trimmed) -> None:
    assert trimmed.outside > 1.5
    assert f"{len(trimmed.kept_ids)} of {trimmed.entries} entries stay" in trimmed.summary()
    assert f"{trimmed.outside:.1f} on average" in trimmed.summary()


def test_an_alphabet_from_a_file_and_a_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("ДЖ\nxy", encoding="utf-8")
    chars = read_alphabet(f"{tmp_path / 'mine.txt'}+ascii")
    assert {"Д", "д", "A", " ", "\n"} <= chars
    assert "é" not in chars
    plain = trim(TokenizerFile(tiny_checkpoint / "tokenizer.json"), str(tmp_path / "mine.txt"))
    prompted = trim(
        TokenizerFile(tiny_checkpoint / "tokenizer.json"), str(tmp_path / "mine.txt"), required="query: "
    )
    assert prompted.characters == plain.characters + len(set("quer:"))
    assert len(plain.kept_ids) < len(prompted.kept_ids) < 2000


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_bad_alphabet_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "alphabet.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match="alphabet"):
        read_alphabet(str(path))


def test_the_proof_can_fail(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping one entry of the alphabet, as trimming by frequency would, is found."""
    from embedding_export.tokenizer import alphabet

    keep = alphabet._select_ids

    def forgetful(*arguments: object) -> object:
        kept = keep(*arguments)  # type: ignore[arg-type]
        return np.delete(kept, len(kept) // 2)

    monkeypatch.setattr(alphabet, "_select_ids", forgetful)
    with pytest.raises(ExportError, match="trimmed tokenizer gives"):
        trim(TokenizerFile(tiny_checkpoint / "tokenizer.json"), "ascii")


def test_tokenizer_config_is_renumbered(trimmed: Trimmed) -> None:
    old = int(trimmed.kept_ids[-1])
    config = {
        "x": 1,
        "added_tokens_decoder": {"0": {"content": "<pad>"}, str(old): {"content": "y"}, "999999": {}},
    }
    assert trimmed.renumbered(config) == {
        "x": 1,
        "added_tokens_decoder": {"0": {"content": "<pad>"}, str(len(trimmed.kept_ids) - 1): {"content": "y"}},
    }
    assert json.loads(trimmed.tokenizer.text)["model"]["vocab"]["<pad>"] == 0


@pytest.mark.full
def test_ascii_of_the_full_size_halves_the_table(tmp_path: Path) -> None:
    if not SHARED.is_file():
        pytest.skip("the full-size shared tokenizer is not beside this checkout")
    found = trim(TokenizerFile(SHARED), "ascii")
    assert len(found.kept_ids) * (768 + 4) <= 100e6
    (tmp_path / "tokenizer.json").write_text(found.tokenizer.text, encoding="utf-8")
    both, full = Both(tmp_path / "tokenizer.json", tmp_path / "x.table"), Both(SHARED, tmp_path / "y.table")
    for text in texts_in("ascii", 3000, seed=3):
        assert found.kept_ids[both.table.encode(text)].tolist() == full.table.encode(text)
