"""The reference gives what sentence-transformers gives, and refuses any model but the checkpoint's."""

import dataclasses
import importlib.util
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
from sentence_transformers import SentenceTransformer

from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_validate.probes import probes, texts
from embedding_validate.probes.probes import Probe
from embedding_validate.reference import reference
from embedding_validate.reference.checks import ReferenceLoadError
from embedding_validate.reference.reference import Reference, ask
from embedding_validate.runners.calls import sliced

TEXTS = ["wind", "How do I keep a sourdough starter alive?", "Träge Flüsse 川 🙂", ""]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def loaded(checkpoint: Checkpoint) -> Reference:
    torch.set_num_threads(1)
    return Reference.load(checkpoint)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})


def test_is_available_here() -> None:
    assert reference.unavailable() is None


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    true = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else true(n))
    assert reference.unavailable() == 'torch is not installed (pip install "embedding-edge[validate]")'
    with pytest.raises(ReferenceLoadError, match="torch is not installed"):
        Reference.load(checkpoint)


@pytest.mark.parametrize("prompt_name", [None, "query", "STS", "document"])
def test_vectors_are_those_of_sentence_transformers(
    loaded: Reference, model: SentenceTransformer, prompt_name: str | None
) -> None:
    expected = np.stack([model.encode(t, prompt_name=prompt_name) for t in TEXTS])
    np.testing.assert_array_equal(loaded.encode(TEXTS, prompt_name=prompt_name), expected)


def test_verbs_and_titles(loaded: Reference, model: SentenceTransformer) -> None:
    def vector(**fields: Any) -> Any:
        return loaded.answer_one(Probe("x", "Latin", TEXTS[1], **fields)).vector

    np.testing.assert_array_equal(vector(verb="encode_query"), model.encode_query(TEXTS[1]))
    np.testing.assert_array_equal(vector(verb="encode_document"), model.encode_document(TEXTS[1]))
    titled = model.encode(TEXTS[1], prompt="title: Bread | text: ")
    np.testing.assert_array_equal(vector(verb="encode_document", title="Bread"), titled)
    with pytest.raises(ReferenceLoadError, match="no 'title: none'"):
        vector(verb="encode", prompt_name="STS", title="Bread")


@pytest.mark.parametrize("normalize", [True, False])
def test_dims_are_sliced_as_the_reference_slices(
    loaded: Reference, model: SentenceTransformer, normalize: bool
) -> None:
    expected = model.encode(TEXTS[1], truncate_dim=24, normalize_embeddings=normalize)
    found = sliced(loaded.vector(TEXTS[1]), 24, normalize)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_ids_truncation_and_count(loaded: Reference, model: SentenceTransformer) -> None:
    long = "plum " * 3000
    ids = loaded.token_ids(long)
    assert len(ids) == loaded.max_seq_length == 2048
    assert (ids[0], ids[-1]) == (2, 1), "truncation keeps <eos>"
    assert loaded.count(long) > 3000
    assert loaded.token_ids("") == (2, 1)
    prompted = loaded.token_ids("wind", "task: search result | query: ")
    assert list(prompted) == model.tokenizer("task: search result | query: wind")["input_ids"]


def test_literal_control_tokens(loaded: Reference, model: SentenceTransformer) -> None:
    text = "a <pad> b<eos>"
    special = loaded.token_ids(text, allow_special=True)
    assert list(special) == model.tokenizer(text)["input_ids"]
    assert 0 in special
    plain = loaded.token_ids(text)
    assert 0 not in plain and plain.count(1) == 1
    np.testing.assert_array_equal(loaded.vector(text, allow_special=True), model.encode(text))
    assert np.abs(loaded.vector(text) - model.encode(text)).max() > 1e-3


def test_hidden_states(loaded: Reference, model: SentenceTransformer) -> None:
    states = loaded.hidden_states(TEXTS[1])
    expected = model.encode(TEXTS[1], output_value="token_embeddings")
    np.testing.assert_array_equal(states, np.asarray(expected))
    assert states.shape == (len(loaded.token_ids(TEXTS[1])), 64)


def test_each_sequence_is_computed_once(loaded: Reference) -> None:
    assert loaded.vector("once") is loaded.vector("once")
    assert loaded.vector("y " * 2100) is loaded.vector("y " * 2500), "the same after truncation"


def test_answers_a_set_of_probes(loaded: Reference, checkpoint: Checkpoint) -> None:
    own = [texts.Text("a", "User", "wind"), texts.Text("b", "User", "sea")]
    seen: list[tuple[int, int]] = []
    answers = loaded.answer(probes.of_texts(own, loaded.prompts), lambda *p: seen.append(p))
    assert answers.by_probe.keys() == {"a", "b", "a/query", "b/query", "a/document", "b/document"}
    assert seen == [(n, 6) for n in range(6)]
    assert answers.source == checkpoint.source
    assert answers.prompts == checkpoint.prompts
    assert set(answers.versions) == {"sentence-transformers", "transformers", "torch", "tokenizers"}


def test_limits(loaded: Reference, checkpoint: Checkpoint) -> None:
    added = checkpoint.tokenizer.owner_tokens
    assert loaded.limits == probes.Limits(checkpoint.config.window, 2048, added=added)
    assert loaded.dim == 64


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_runs_in_float32_whatever_is_stored(tmp_path: Path, dtype: standin.Dtype) -> None:
    standin.write(tmp_path, standin.Options(dtype=dtype))
    loaded = Reference.load(load_checkpoint(tmp_path))
    assert {p.dtype for p in loaded._model.parameters()} == {torch.float32}


def _with_overrides(checkpoint: Checkpoint, **overrides: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, config_overrides=overrides)


def test_refuses_a_causal_model(checkpoint: Checkpoint) -> None:
    with pytest.raises(ReferenceLoadError, match="causally"):
        Reference.load(_with_overrides(checkpoint, use_bidirectional_attention=False))


@pytest.mark.parametrize("sliding_window", [18, 14, 8, 32])
def test_refuses_another_window(checkpoint: Checkpoint, sliding_window: int) -> None:
    with pytest.raises(ReferenceLoadError, match="to each side, the checkpoint over 8"):
        Reference.load(_with_overrides(checkpoint, sliding_window=sliding_window))


def test_refuses_other_layer_types(checkpoint: Checkpoint) -> None:
    names = {"local": "sliding_attention", "global": "full_attention"}
    types = [names[t] for t in reversed(checkpoint.config.layer_types)]
    assert tuple(reversed(checkpoint.config.layer_types)) != checkpoint.config.layer_types
    with pytest.raises(ReferenceLoadError, match="layers"):
        Reference.load(_with_overrides(checkpoint, layer_types=types))


def test_a_repaired_window_is_the_one_that_runs(tmp_path: Path) -> None:
    """A saved sliding_window of 17 would run as 9 // 1; the checkpoint repairs it or is told 16."""
    standin.write(tmp_path, standin.Options(sliding_window=17))
    repaired = load_checkpoint(tmp_path, sliding_window=16)
    assert repaired.config.window == 8
    loaded = Reference.load(repaired)
    assert loaded.limits.window == 8


def test_an_incomplete_checkpoint_is_explained(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ReferenceLoadError, match="cannot load"):
        Reference.load(dataclasses.replace(checkpoint, path=tmp_path))


def test_asking_lets_go_of_the_reference(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules stand in cycles: a gigabyte of them would stay beside what is compared."""
    held: list[weakref.ReferenceType[Any]] = []
    load = Reference.load

    def noted(checkpoint: Checkpoint) -> Reference:
        reference = load(checkpoint)
        held.append(weakref.ref(reference._model))
        return reference

    monkeypatch.setattr(Reference, "load", noted)
    asked = ask(
        checkpoint,
        lambda r: probes.of_texts(texts.packaged()[:2], r.prompts),
        lambda *_: None,
    )
    assert asked.by_probe
    assert held[0]() is None
