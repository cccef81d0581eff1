"""Tokenizers of the runtime against the `tokenizers` library: same ids, spans and text, in bounded time."""

import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import standin_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_pair import SHARED, Both, from_pieces, lines
from tokenizers import Tokenizer as Library

from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.tokenizer.stress_texts import stress_texts
from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.errors import BundleError, InputError, InputTypeError
from embedding_runtime.tokenizers import table as tokenizer_table
from embedding_runtime.tokenizers.table import TableTokenizer
from embedding_runtime.tokenizers.tokenizer import open_tokenizer


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tiny_checkpoint / "tokenizer.json", tmp_path_factory.mktemp("tables") / "tiny.table")


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The tokenizer of EmbeddingGemma 2's stand-in."""
    folder = tmp_path_factory.mktemp("tables")
    standin_tokenizer.write(folder / "tokenizer.json", 4_096, 0, standin_tokenizer.GEMMA_4)
    return Both(folder / "tokenizer.json", folder / "second.table")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Both:
    if not SHARED.is_file():
        pytest.skip("the full-size shared tokenizer is not beside this checkout")
    return Both(SHARED, tmp_path_factory.mktemp("tables") / "shared.table")


@pytest.fixture(scope="session")
def full_standin(full_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(full_checkpoint / "tokenizer.json", tmp_path_factory.mktemp("tables") / "full.table")


@pytest.fixture(params=["tiny", "second", pytest.param("shared", marks=pytest.mark.full)])
def both(request: pytest.FixtureRequest) -> Both:
    found: Both = request.getfixturevalue(request.param)
    return found


def test_ids_are_the_librarys_in_every_script(both: Both) -> None:
    for text in lines(800, seed=1) + from_pieces(both, 800, seed=2):
        both.check(text)


@pytest.mark.full
@pytest.mark.parametrize("name", ["tiny", "shared", "full_standin"])
def test_ids_are_the_librarys_on_100_000_lines(name: str, request: pytest.FixtureRequest) -> None:
    both: Both = request.getfixturevalue(name)
    for text in lines(50_000, seed=3) + from_pieces(both, 50_000, seed=4):
        for special in (False, True):
            assert both.table.encode(text, allow_special=special) == both.expected(text, None, special), text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_ids_of_random_unicode(tiny: Both, text: str) -> None:
    tiny.check(text)


@pytest.mark.full
@settings(max_examples=20_000, deadline=None)
@given(text=st.text(max_size=120))
def test_ids_of_20_000_random_strings(shared: Both, text: str) -> None:
    shared.check(text)


PARTS = (
    *("<bos>", "<eos>", "<pad>", "<mask>", "<unused3>", "<b>", "</s>", "<0x41>", "bos", "<", ">"),
    *("▁", "▁▁", " ", "\n", "\n\n\n", "a", "é", "𐍈"),
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS)))
def test_ids_around_added_tokens(tiny: Both, parts: list[str]) -> None:
    tiny.check("".join(parts))


MEDIA = ("<|image|>", "<|video|>", "<|audio>", "<image|>", "<|turn>", '<|"|>', "<|", "|>", "image")


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS + MEDIA)))
def test_ids_around_media_tokens(second: Both, parts: list[str]) -> None:
    second.check("".join(parts))


def test_media_tokens_are_text_unless_allowed(second: Both) -> None:
    for token in (*standin_tokenizer.MEDIA.values(), *standin_tokenizer.TURNS.values()):
        (media,) = [t["id"] for t in second.added if t["content"] == token]
        text = f"a {token} b"
        assert media not in second.table.encode(text)
        assert media in second.table.encode(text, allow_special=True)


TRICKY = {
    "a run": "a" * 1500,
    "two letters": "ab" * 700,
    "spaces": " " * 700,
    "markers": "▁" * 400,
    "mixed": "▁ " * 150,
    "newlines": "\n" * 500,
    "angles": "<" * 700,
    "no entry": "\U00010348" * 400,
    "han": "中文" * 500,
    "joined emoji": "👩\u200d👩\u200d👧\u200d👦" * 60,
    "controls": "".join(map(chr, range(1, 160))),
    "nul": "a\0b",
}


@pytest.mark.parametrize("name", TRICKY)
def test_ids_of_long_words_however_small_the_blocks(
    both: Both, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks make every long word pass through the open-ended merge, also without a limit."""
    both.check(TRICKY[name])
    for block in (16, 37, 256):
        monkeypatch.setattr(tokenizer_table, "LARGEST_BLOCK", block)
        monkeypatch.setattr(tokenizer_table, "SMALLEST_BLOCK", block)
        both.check(TRICKY[name])


def test_small_blocks_change_nothing(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_table, "LARGEST_BLOCK", 24)
    for text in from_pieces(both, 150, seed=5) + stress_texts(both.source, 150)[-150:]:
        assert both.table.encode(text) == both.expected(text), text
        solid = text.replace(" ", "").replace("▁", "").replace("\n", "")
        assert both.table.encode(solid) == both.expected(solid), solid


def test_lower_case_is_the_references(tiny_checkpoint: Path, tiny: Both) -> None:
    """sentence-transformers puts Lowercase before the normalizer; added tokens still match the raw text."""
    from tokenizers import normalizers

    info = replace(tiny.info, do_lower_case=True)
    table = TableTokenizer.open(tiny.path, info)
    library: Any = Library.from_file(str(tiny_checkpoint / "tokenizer.json"))
    library.normalizer = normalizers.Sequence([normalizers.Lowercase(), library.normalizer])
    library.encode_special_tokens = True
    by_library = open_tokenizer(tiny_checkpoint, TokenizerInfo("tokenizer.json", 0, 2, 1, 0, True, ()))
    for text in ["ΟΔΟΣ ΣΑΣ", "İstanbul İİİ", "<B><b> HELLO", "ǅ ẞ Ω", *lines(200, seed=8), "İ" * 500]:
        expected = library.encode(text)
        assert table.encode(text) == expected.ids == by_library.encode(text), text
        assert len(table.offsets(text)) == len(expected.ids)


def test_a_thread_sees_what_one_thread_sees(tiny: Both) -> None:
    texts = lines(300, seed=9)
    expected = [tiny.expected(t) for t in texts]
    table = TableTokenizer.open(tiny.path, tiny.info)
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(t for t, ids in zip(texts, expected, strict=True) if table.encode(t) != ids)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_caches_stay_bounded(tiny: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_table, "CACHED_WORDS", 50)
    table = TableTokenizer.open(tiny.path, tiny.info)
    for text in lines(400, seed=10):
        assert table.encode(text) == tiny.expected(text)
    assert len(table._recent) <= 50
    assert len(table._older) <= 50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(char * (5_000_000 // len(char)), 5) for char in ("a", "é", " ", "<bos>", "word ")],
    ids=["a", "é", "spaces", "control", "words"],
)
def test_a_huge_text_is_truncated_in_bounded_time(tiny: Both, text: str, seconds: float) -> None:
    start = time.process_time()
    assert len(tiny.table.encode(text, 2048)) == 2048
    assert time.process_time() - start < seconds  # about 0.1 s when measured


def test_time_grows_with_length_not_its_square(tiny: Both) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        tiny.table.encode("ab" * count)
        return time.process_time() - start

    seconds(5_000)
    assert seconds(80_000) < 30 * max(seconds(10_000), 0.01)  # 8 times the text; a square would be 64 times


def test_offsets_are_the_librarys_up_to_bytes(both: Both) -> None:
    both.library.encode_special_tokens = True
    for text in ["Hi  there\n\n<b>x</b>", "a\U00010348b é", "", "▁▁ x", *lines(200, seed=11), "a" * 300]:
        assert both.table.offsets(text) == [tuple(o) for o in both.library.encode(text).offsets], text


def test_decode_is_the_librarys(both: Both) -> None:
    draw = random.Random(12)
    for text in lines(200, seed=13):
        ids = both.expected(text)
        assert both.table.decode(ids) == both.library.decode(ids)
    for _ in range(300):
        ids = draw.choices(range(both.info.vocab_size), k=12)
        assert both.table.decode(ids) == both.library.decode(ids), ids
    byte_ids = [both.source.vocab[f"<0x{b:02X}>"] for b in (0xF0, 0x9F, 0x41, 0xFF)]
    assert both.table.decode(byte_ids) == both.library.decode(byte_ids)


def test_id_to_token(tiny: Both) -> None:
    for i in (0, 1, 107, tiny.info.vocab_size - 1):
        assert tiny.table.id_to_token(i) == tiny.library.id_to_token(i)
    for i in (-1, tiny.info.vocab_size):
        with pytest.raises(InputError, match="no token"):
            tiny.table.id_to_token(i)


def test_bad_input_is_named(tiny: Both) -> None:
    with pytest.raises(InputError, match=r"lone surrogate .*U.D800.* at character 3"):
        tiny.table.encode("abc\ud800", 3)
    with pytest.raises(InputTypeError, match="bytes"):
        tiny.table.encode(b"abc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 2"):
        tiny.table.encode("abc", 1)


# The library behind the same protocol


def test_the_library_is_the_same_tokenizer(tiny: Both, tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"  # as a bundle has it
    file.write_text(TokenizerFile(tiny_checkpoint / file.name).text, encoding="utf-8")
    by_library = open_tokenizer(tmp_path, replace(tiny.info, file=file.name))
    for text in lines(300, seed=17) + from_pieces(tiny, 300, seed=18):
        for special in (False, True):
            for length in (None, 8):
                ids = by_library.encode(text, length, allow_special=special)
                assert ids == tiny.table.encode(text, length, allow_special=special)
        assert by_library.decode(ids) == tiny.table.decode(ids)
    assert by_library.id_to_token(107) == tiny.table.id_to_token(107)


@pytest.mark.parametrize("word", ["word ", "a", "  ab ", "<b> "])
def test_the_library_cuts_a_huge_text_exactly(tiny: Both, tiny_checkpoint: Path, word: str) -> None:
    by_library = open_tokenizer(tiny_checkpoint, replace(tiny.info, file="tokenizer.json"))
    text = word * (400_000 // len(word))
    assert by_library.encode(text, 2048) == tiny.expected(text, 2048)


def test_bad_input_of_the_library_is_named_too(tiny: Both, tiny_checkpoint: Path) -> None:
    by_library = open_tokenizer(tiny_checkpoint, replace(tiny.info, file="tokenizer.json"))
    with pytest.raises(InputError, match="lone surrogate"):
        by_library.encode("\ud800")
    with pytest.raises(InputError, match="at least 2"):
        by_library.encode("a", 1)
    with pytest.raises(InputError, match="no token"):
        by_library.id_to_token(tiny.info.vocab_size)


def test_what_is_no_tokenizer_is_refused(tiny: Both, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer.bin").write_text("x")
    for name, reason in (
        ("tokenizer.json", "not a tokenizer"),
        ("tokenizer.bin", "not a tokenizer that this version"),
        ("none.table", "is missing"),
    ):
        with pytest.raises(BundleError, match=reason):
            open_tokenizer(tmp_path, replace(tiny.info, file=name))
