"""The synthesised tokenizer: consistent merges, Gemma 3's construction, work for every kind of text."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import standin_tokenizer
import texts
from tokenizers import Tokenizer

CONTROL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}


def document(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def check_consistency(file: dict[str, Any], entries: int) -> None:
    vocabulary, merges = file["model"]["vocab"], file["model"]["merges"]
    assert list(vocabulary.values()) == list(range(entries))
    assert CONTROL.items() <= vocabulary.items()
    assert all(token["id"] == vocabulary[token["content"]] for token in file["added_tokens"])
    assert len({tuple(pair) for pair in merges}) == len(merges)
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        assert left in vocabulary
        assert right in vocabulary
        rank.setdefault(left + right, i)
    assert rank.keys() <= vocabulary.keys()
    # Every piece can be made from pieces that rank before it, hence from characters.
    earlier = Counter(left + right for i, (left, right) in enumerate(merges) if _before(left, right, rank, i))
    pieces = [piece for piece in rank if set(piece) - set("\n▁")]
    assert [piece for piece in pieces if not earlier[piece]] == []
    fixed = {token["content"] for token in file["added_tokens"]}
    single = {piece for piece in vocabulary if len(piece) == 1} | {f"<0x{byte:02X}>" for byte in range(256)}
    assert vocabulary.keys() == rank.keys() | fixed | single


def _before(left: str, right: str, rank: dict[str, int], i: int) -> bool:
    return rank.get(left, -1) < i and rank.get(right, -1) < i


def check_texts(tokenizer: Any) -> Counter[int]:
    """Encode and decode many scripts; returns how many tokens of each length in characters came out."""
    lengths: Counter[int] = Counter()
    for text in texts.lines(5_000):
        encoding = tokenizer.encode(text)
        assert encoding.ids[0] == 2
        assert encoding.ids[-1] == 1
        if "▁" not in text and not any(token in text for token in CONTROL):
            assert 3 not in encoding.ids
            assert tokenizer.decode(encoding.ids) == text
        lengths.update(len(token) for token in encoding.tokens if not token.startswith("<"))
    return lengths


def test_tiny_is_consistent(tiny_checkpoint: Path) -> None:
    check_consistency(document(tiny_checkpoint / "tokenizer.json"), 4_096)


def test_tiny_takes_every_text(tiny_checkpoint: Path) -> None:
    lengths = check_texts(Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json")))
    assert all(lengths[n] > 20 for n in range(1, 9)), lengths


def test_words_newlines_spaces_and_bytes(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    pieces = tokenizer.encode("\n\n\n<h1>𓀀").tokens
    assert pieces == ["<bos>", "\n\n\n", "<h1>", "<0xF0>", "<0x93>", "<0x80>", "<0x80>", "<eos>"]
    assert "▁the" in tokenizer.encode("see the sea").tokens
    assert tokenizer.encode(" " * 31).tokens == ["<bos>", "▁" * 31, "<eos>"]


def test_small_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take at least 4,096"):
        standin_tokenizer.write(tmp_path / "tokenizer.json", 1_000, 0)


@pytest.mark.full
def test_full_tokenizer(full_checkpoint: Path) -> None:
    path = full_checkpoint / "tokenizer.json"
    file = document(path)
    check_consistency(file, 262_144)
    assert len(file["model"]["merges"]) > 300_000
    lengths = check_texts(Tokenizer.from_file(str(path)))
    assert all(lengths[n] > 100 for n in range(1, 9)), lengths
