"""Known faults: the sound model is the reference, and no two faults look alike on the evidence."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_validate.diagnosis import hypotheses, tokens
from embedding_validate.diagnosis.tokens import Mismatch
from embedding_validate.forward.interpreter import Interpreter
from embedding_validate.probes import lengths
from embedding_validate.probes.probes import Probe, Verb
from embedding_validate.reference.reference import Reference

PIECES = ("The orchard gives more plums than we can eat.", "老渔夫把网晒在礁石上", "x = sum(a) / len(a)")


@pytest.fixture(scope="module")
def interpreter(reference: Reference) -> Interpreter:
    return Interpreter.of(reference.checkpoint)


@pytest.fixture(scope="module")
def evidence(reference: Reference) -> list[tuple[int, ...]]:
    """Short, just past the window of 8, past twice the window."""
    sizes = (5, 10, 40)
    return [reference.token_ids(lengths.compose(PIECES, n, reference.count)) for n in sizes]


def test_the_sound_model_is_the_reference(reference: Reference, interpreter: Interpreter) -> None:
    for text in PIECES:
        found = interpreter.vectors(interpreter.sound, [reference.token_ids(text)])[0]
        np.testing.assert_allclose(found, reference.vector(text), atol=2e-6)


def test_no_two_faults_look_alike(interpreter: Interpreter, evidence: list[tuple[int, ...]]) -> None:
    sound = interpreter.sound
    models = {
        "sound": sound,
        **{n: f(sound) for n, f in hypotheses.alone(sound.config, sound.dense).items()},
    }
    del models["normalised, though the checkpoint does not"]  # this checkpoint does
    found = {n: [interpreter.vectors(m, [ids])[0] for ids in evidence] for n, m in models.items()}
    assert len(found) > 25
    alike = [
        (a, b)
        for a in found
        for b in found
        if a < b
        and all(
            x.shape == y.shape and np.abs(x - y).max() < 1e-4 for x, y in zip(found[a], found[b], strict=True)
        )
    ]
    assert alike == []


def test_faults_of_padding_show_in_a_batch_only(
    interpreter: Interpreter, evidence: list[tuple[int, ...]]
) -> None:
    right = interpreter.vectors(interpreter.sound, evidence)
    for name, fault in hypotheses.padded().items():
        model = fault(interpreter.sound)
        alone = interpreter.vectors(model, [evidence[0]])[0]
        assert np.abs(alone - right[0]).max() < 2e-6, name
        assert np.abs(interpreter.vectors(model, evidence)[0] - right[0]).max() > 1e-3, name


def test_exchanged_layers_twice_is_the_sound_model(
    interpreter: Interpreter, evidence: list[tuple[int, ...]]
) -> None:
    sound, once = interpreter.sound, interpreter.exchanged(0, 2)
    right = interpreter.vectors(sound, evidence)
    assert np.abs(once.vectors(sound, evidence) - right).max() > 1e-3
    np.testing.assert_array_equal(once.exchanged(2, 0).vectors(sound, evidence), right)


def _ids(reference: Reference, text: str, prompt: str = "") -> tuple[int, ...]:
    return reference.token_ids(text, prompt)


TEXT = "  Plums keep <eos> for a Week"
LONG = "plum tart " * 1500


def _long(reference: Reference) -> tuple[int, ...]:
    return reference.whole_ids(Probe("x", "Latin", LONG))


# Name of the fault -> verb, text, and the ids it would give.
FAULTS: dict[str, tuple[Verb, str, Callable[[Reference], tuple[int, ...]]]] = {
    "<bos> missing": ("encode", TEXT, lambda r: _ids(r, TEXT)[1:]),
    "<eos> missing": ("encode", TEXT, lambda r: _ids(r, TEXT)[:-1]),
    "<bos> and <eos> missing": ("encode", TEXT, lambda r: _ids(r, TEXT)[1:-1]),
    "<bos> doubled": ("encode", TEXT, lambda r: (2, *_ids(r, TEXT))),
    "<eos> doubled": ("encode", TEXT, lambda r: (*_ids(r, TEXT), 1)),
    "text stripped": ("encode", TEXT, lambda r: _ids(r, TEXT.strip())),
    "text lowercased": ("encode", TEXT, lambda r: _ids(r, TEXT.lower())),
    "literal control tokens read the other way": (
        "encode",
        TEXT,
        lambda r: r.token_ids(TEXT, allow_special=True),
    ),
    "prompt missing": ("encode_query", TEXT, lambda r: _ids(r, TEXT)),
    "prompt doubled": ("encode_query", TEXT, lambda r: _ids(r, TEXT, 2 * r.prompts["query"])),
    "prompt stripped": ("encode_query", TEXT, lambda r: _ids(r, TEXT, r.prompts["query"].strip())),
    "prompt of another family ('Clustering')": (
        "encode_query",
        TEXT,
        lambda r: _ids(r, TEXT, r.prompts["Clustering"]),
    ),
    "prompt and text tokenized apart": (
        "encode_query",
        "plums",
        lambda r: (*_ids(r, "", r.prompts["query"])[:-1], *_ids(r, "plums")[1:]),
    ),
    "no truncation": ("encode", LONG, _long),
    "truncated on the left": ("encode", LONG, lambda r: (2, *_long(r)[-2047:])),
    "truncated on the left, <bos> lost": ("encode", LONG, lambda r: _long(r)[-2048:]),
    "truncation loses <eos>": ("encode", LONG, lambda r: _long(r)[:2048]),
    "truncated at 512 tokens": ("encode", LONG, lambda r: (*_long(r)[:511], 1)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_token_faults_are_named(name: str, reference: Reference) -> None:
    verb, text, ids = FAULTS[name]
    probe = Probe("x", "Latin", text, verb)
    expected = reference.answer_one(probe).ids
    found = ids(reference)
    assert found != expected
    assert tokens.explain([Mismatch(probe, expected, found)], reference) == [(name, 1)]


def test_an_ignored_title_is_named(reference: Reference) -> None:
    probe = Probe("x", "Latin", "plums", "encode_document", title="Fruit")
    found = reference.token_ids("plums", reference.prompts["document"])
    explained = tokens.explain([Mismatch(probe, reference.answer_one(probe).ids, found)], reference)
    assert explained == [("title ignored", 1)]


def test_two_faults_are_both_named(reference: Reference) -> None:
    probe, long = Probe("x", "Latin", "plums", "encode_query"), Probe("y", "Latin", LONG)
    mismatches = [
        Mismatch(probe, reference.answer_one(probe).ids, reference.token_ids("plums")),
        Mismatch(long, reference.answer_one(long).ids, (*_long(reference)[:511], 1)),
        Mismatch(long, reference.answer_one(long).ids, (*_long(reference)[:511], 1)),
    ]
    assert tokens.explain(mismatches, reference) == [("truncated at 512 tokens", 2), ("prompt missing", 1)]


def test_unknown_ids_have_no_name(reference: Reference) -> None:
    probe = Probe("x", "Latin", "plums")
    assert tokens.explain([Mismatch(probe, (2, 5, 1), (2, 77, 78, 1))], reference) == []
