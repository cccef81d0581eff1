"""The synthesised tokenizer: consistent merges, Gemma 3's construction, work for every kind of text."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import standin
import standin_tokenizer
import texts
from tokenizers import Tokenizer

CONTROL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}
IMAGE = "<image_soft_token>"


def document(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def check_consistency(file: dict[str, Any], entries: int) -> None:
    vocabulary, merges = file["model"]["vocab"], file["model"]["merges"]
    assert list(vocabulary.values()) == list(range(entries))
    assert CONTROL.items() <= vocabulary.items()
    *added, image = file["added_tokens"]
    assert all(token["id"] == vocabulary[token["content"]] for token in added)
    assert (image["content"], image["id"]) == (IMAGE, entries)
    assert len({tuple(pair) for pair in merges}) == len(merges)
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        assert left in vocabulary
        assert right in vocabulary
        rank.setdefault(left + right, i)
    assert rank.keys() <= vocabulary.keys()
    # Every piece can be made from pieces that rank before it, hence from characters.
    earlier = Counter(left + right for i, (left, right) in enumerate(merges) if _before(left, right, rank, i))
    pieces = [piece for piece in rank if set(piece) - set("\n▁\t")]
    assert [piece for piece in pieces if not earlier[piece]] == []
    fixed = {token["content"] for token in added}
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
            assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == f"<bos>{text}<eos>"
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
    for char, piece in ((" ", "▁"), ("\t", "\t"), ("\n", "\n")):
        assert tokenizer.encode(char * 31).tokens == ["<bos>", piece * 31, "<eos>"]
    # As Gemma's has: one piece with a space inside it.
    assert tokenizer.encode("x> </y").tokens[2] == ">▁</"


@pytest.mark.parametrize(("dialect", "mask"), [("transformers-4", False), ("transformers-5", True)])
def test_added_tokens_are_flagged_as_published(tmp_path: Path, dialect: Any, mask: bool) -> None:
    folder = tmp_path / "it"
    standin.write(folder, standin.Options(dialect=dialect))
    added = document(folder / "tokenizer.json")["added_tokens"]
    special = {token["content"]: token["id"] for token in added if token["special"]}
    assert special.pop("<mask>", None) == (4 if mask else None)
    turns = {"<start_of_turn>": 105, "<end_of_turn>": 106}
    images = {"<start_of_image>": 3_998, "<end_of_image>": 3_999, IMAGE: 4_096}
    assert special == {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, **turns, **images}
    assert not any(t[flag] for t in added for flag in ("normalized", "single_word", "lstrip", "rstrip"))
    config = document(folder / "tokenizer_config.json")
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": IMAGE}
    assert names.items() <= config.items()
    if dialect == "transformers-5":
        assert config["model_specific_special_tokens"] == names
        return
    assert config["extra_special_tokens"] == names
    listed = [{"id": int(i)} | token for i, token in config["added_tokens_decoder"].items()]
    assert listed == added
    assert document(folder / "added_tokens.json") == {IMAGE: 4_096}
    assert names.items() <= document(folder / "special_tokens_map.json").items()
    assert "license: apache-2.0" in (folder / "README.md").read_text()


def test_small_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take at least 4,096"):
        standin_tokenizer.write(tmp_path / "tokenizer.json", 1_000, 0)


@pytest.mark.full
def test_full_tokenizer(full_checkpoint: Path) -> None:
    path = full_checkpoint / "tokenizer.json"
    file = document(path)
    check_consistency(file, 262_144)
    assert len(file["model"]["merges"]) == 514_906
    flags = Counter(token["special"] for token in file["added_tokens"])
    assert flags == {True: 9, False: 6_406}
    ids = {token["content"]: token["id"] for token in file["added_tokens"]}
    assert (ids["<start_of_image>"], ids["<unused99>"], ids[IMAGE]) == (255_999, 256_001, 262_144)
    lengths = check_texts(Tokenizer.from_file(str(path)))
    assert all(lengths[n] > 100 for n in range(1, 9)), lengths
