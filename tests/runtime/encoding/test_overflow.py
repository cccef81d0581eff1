"""Texts that are longer than the model reads, and the warnings that are given once."""

import warnings

import numpy as np
import pytest
from sentences import WORDS, sentences

from embedding_runtime import Embedder, EmbeddingWarning, InputError, OverflowWarning
from embedding_runtime.encoding.overflow import Request


def test_truncation_keeps_eos(embedder: Embedder) -> None:
    long = " ".join(sentences(300))
    ids = embedder.tokenize([long, "a"])
    assert ids["input_ids"].shape == (2, embedder.max_seq_length)
    assert ids["input_ids"][0, -1] == embedder.manifest.tokenizer.eos_id
    assert ids["attention_mask"].sum(axis=1)[0] == embedder.max_seq_length
    assert ids["input_ids"][1, 3:].tolist() == [embedder.manifest.tokenizer.pad_id] * 2045


def test_ten_megabytes_are_cut_in_bounded_time(embedder: Embedder) -> None:
    text = "the red planet " * 700_000
    np.testing.assert_array_equal(embedder.encode(text), embedder.encode(text[:60_000]))


def test_max_seq_length_may_be_lowered(fresh: Embedder) -> None:
    fresh.max_seq_length = 8
    assert fresh.tokenize(" ".join(WORDS))["input_ids"].shape == (1, 8)
    for value in (2, 4096):
        with pytest.raises(InputError, match=f"max_seq_length is {value}"):
            fresh.max_seq_length = value


def test_a_cut_is_told_once(fresh: Embedder) -> None:
    fresh.max_seq_length = 8
    with pytest.warns(OverflowWarning, match=r"inputs\[1\] has more than 8 tokens"):
        fresh.encode(["a", " ".join(WORDS)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode(" ".join(WORDS))


def test_overflow_error(fresh: Embedder) -> None:
    fresh.max_seq_length = 8
    with pytest.raises(InputError, match=r"inputs\[1\] has more than the 8 tokens"):
        fresh.encode(["a", " ".join(WORDS)], overflow="error")
    fresh.overflow = "error"
    with pytest.raises(InputError, match="8 tokens"):
        fresh.encode(" ".join(WORDS))
    fresh.encode("a")


def test_overflow_chunk_is_the_mean_of_its_pieces(fresh: Embedder) -> None:
    """Weighted by tokens, each piece with its prompt, all of the text in order, nothing twice."""
    fresh.max_seq_length = 40
    text = " ".join(sentences(12, seed=3)) + "!"
    cutter = fresh._encoder.cutter("chunk", allow_special=False)
    prompt = fresh.prompts["query"]
    pieces = cutter.pieces(Request(prompt, text)).ids
    tokenizer = fresh._encoder.opened.tokenizer
    assert len(pieces) > 3
    assert all(20 < len(ids) <= 40 for ids in pieces[:-1])
    decoded = [tokenizer.decode(ids.tolist()) for ids in pieces]
    assert all(piece.startswith(prompt.strip()) for piece in decoded)
    assert "".join(p.removeprefix(prompt.rstrip()).lstrip() for p in decoded).replace(
        " ", ""
    ) == text.replace(" ", "")
    vectors = [fresh.encode(piece, prompt="") for piece in decoded]
    expected = np.average(vectors, axis=0, weights=[len(ids) for ids in pieces])
    found = fresh.encode_query(text, overflow="chunk")
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_array_equal(fresh.encode("a", overflow="chunk"), fresh.encode("a"))


@pytest.mark.parametrize("text", ["x" * 3000, "日本語" * 500, "a " * 900, " " * 2000, "🙂" * 300])
def test_chunks_of_any_text_fit(fresh: Embedder, text: str) -> None:
    fresh.max_seq_length = 24
    pieces = fresh._encoder.cutter("chunk", allow_special=False).pieces(Request("", text))
    assert pieces.long
    assert max(len(ids) for ids in pieces.ids) <= 24
    assert np.linalg.norm(fresh.encode(text, overflow="chunk")) == pytest.approx(1, abs=1e-5)


def test_a_prompt_that_leaves_no_room(fresh: Embedder) -> None:
    fresh.max_seq_length = 5
    for text in ("some text", ""):
        with pytest.raises(InputError, match="prompt leaves no room in 5 tokens"):
            fresh.encode(text, prompt="a very long prompt indeed ", overflow="chunk")


def test_a_prompt_twice_is_told_once(fresh: Embedder) -> None:
    query = fresh.prompts["query"]
    with pytest.warns(EmbeddingWarning, match=r"inputs\[1\] already begins with a prompt"):
        found = fresh.encode_query(["a", query + "a"])
    np.testing.assert_allclose(found[1], fresh.encode(query + query + "a", prompt=""), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode_query(query + "b")


def test_warnings_point_at_the_caller(fresh: Embedder) -> None:
    with pytest.warns(EmbeddingWarning) as told:
        fresh.encode("a", dim=3)
    assert told[0].filename == __file__
