"""Arithmetic on vectors, their stored precision and search among them, against sentence-transformers' own."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers import util
from sentence_transformers.util.quantization import quantize_embeddings as reference_quantize

from embedding_runtime import quantization_ranges, quantize_embeddings, semantic_search, similarity
from embedding_runtime.errors import InputError, InputTypeError
from embedding_runtime.vectors import l2_normalize, truncate, weighted_mean

RANDOM = np.random.default_rng(0)
MANY = RANDOM.standard_normal((130, 24)).astype(np.float32)


def test_normalised_to_length_one_and_zero_stays_zero() -> None:
    vectors = np.vstack((MANY[:3], np.zeros((1, 24), np.float32)))
    lengths = np.linalg.norm(l2_normalize(vectors), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 0], atol=1e-6)


def test_truncate_slices_and_leaves_the_rest_alone() -> None:
    np.testing.assert_array_equal(truncate(MANY, 5), MANY[:, :5])
    assert truncate(MANY, None) is MANY


def test_weighted_mean() -> None:
    vectors = np.array([[1, 0], [0, 4]], dtype=np.float32)
    mean = weighted_mean(vectors, [3, 1])
    np.testing.assert_array_equal(mean, np.array([0.75, 1.0], np.float32))
    assert mean.dtype == np.float32


@pytest.mark.parametrize("name", ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"])
@pytest.mark.parametrize("pairwise", [False, True])
def test_similarity_is_the_references(name: str, pairwise: bool) -> None:
    name = f"pairwise_{name}" if pairwise else name
    ours, theirs = getattr(similarity, name), getattr(util, name)
    a, b = MANY[:40], MANY[40:80] if pairwise else MANY[40:]
    expected = theirs(a, b).numpy()
    found = ours(a, b)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_similarity_of_small_integers_does_not_overflow() -> None:
    a = np.full((1, 64), 127, dtype=np.int8)
    assert similarity.dot_score(a, a)[0, 0] == 64 * 127 * 127


@pytest.mark.parametrize(("a", "b"), [((3, 4), (2, 5)), ((2, 3, 4), (2, 4))])
def test_similarity_of_shapes_that_do_not_fit(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for function in similarity.ALL_PAIRS.values():
        with pytest.raises(InputError, match="have shapes"):
            function(np.zeros(a), np.zeros(b))


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize(
    "vectors", [MANY, MANY[:20], MANY[0], MANY.astype(np.float64)], ids=["many", "few", "one", "float64"]
)
@pytest.mark.parametrize("with_ranges", [False, True])
def test_quantization_is_the_references(precision: Any, vectors: Any, with_ranges: bool) -> None:
    ranges = quantization_ranges(MANY[:50]) if with_ranges else None
    if vectors.ndim == 1 and precision.endswith("int8") and ranges is None:
        for function in (quantize_embeddings, reference_quantize):
            with pytest.raises(ValueError, match=r"[Rr]anges"):
                function(vectors, precision)
        return
    found = quantize_embeddings(vectors, precision, ranges)
    expected = np.asarray(reference_quantize(vectors, precision, ranges))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, (3, 9), elements=st.floats(-2, 2, width=32)),
    st.sampled_from(["int8", "uint8", "binary", "ubinary"]),
)
def test_quantization_of_any_vectors(vectors: Any, precision: Any) -> None:
    expected = reference_quantize(vectors, precision, calibration_embeddings=MANY[:, :9])
    found = quantize_embeddings(vectors, precision, calibration_embeddings=MANY[:, :9])
    np.testing.assert_array_equal(found, expected)


def test_a_single_vector_with_stored_ranges(tmp_path: Any) -> None:
    np.save(tmp_path / "ranges.npy", quantization_ranges(MANY))
    stored = quantize_embeddings(MANY, "int8")
    alone = quantize_embeddings(MANY[7], "int8", np.load(tmp_path / "ranges.npy"))
    np.testing.assert_array_equal(alone, stored[7])


def test_ranges_of_few_vectors_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quantize_embeddings(MANY, "int8")
        assert caplog.text == ""
        quantize_embeddings(MANY[:20], "int8")
    assert "20 vectors only" in caplog.text


def test_what_cannot_be_quantized() -> None:
    with pytest.raises(InputError, match="'foo' is unknown"):
        quantize_embeddings(MANY, "foo")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="int8 already"):
        quantize_embeddings(MANY.astype(np.int8), "int8")
    with pytest.raises(InputError, match=r"ranges has shape \(2, 3\)"):
        quantize_embeddings(MANY, "int8", np.zeros((2, 3)))


@pytest.mark.parametrize("top_k", [1, 3, 10, 200])
@pytest.mark.parametrize("chunk", [7, 40, 50_000])
def test_search_is_the_references(top_k: int, chunk: int) -> None:
    found = semantic_search(MANY[:5], MANY, corpus_chunk_size=chunk, query_chunk_size=2, top_k=top_k)
    expected = util.semantic_search(torch.from_numpy(MANY[:5]), torch.from_numpy(MANY), top_k=top_k)
    assert [[h["corpus_id"] for h in hits] for hits in found] == [
        [h["corpus_id"] for h in hits] for hits in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose([h["score"] for h in ours], [h["score"] for h in theirs], atol=1e-6)


def test_search_with_one_query_and_another_function() -> None:
    (hits,) = semantic_search(MANY[3], MANY, top_k=2, score_function=similarity.euclidean_sim)
    assert hits[0]["corpus_id"] == 3
    assert hits[0]["score"] == pytest.approx(0)


def test_search_in_nothing_and_for_nothing() -> None:
    assert semantic_search(MANY[:2], MANY[:0]) == [[], []]
    assert semantic_search(MANY[:0], MANY) == []
    with pytest.raises(InputError, match="top_k is 0"):
        semantic_search(MANY, MANY, top_k=0)
