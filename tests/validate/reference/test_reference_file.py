"""`reference.npz`: what was saved is what is read, and nothing damaged is believed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime.bundle import Source
from embedding_runtime.errors import InputError
from embedding_validate.probes.probes import Probe, ProbeSet
from embedding_validate.reference import file as reference_file
from embedding_validate.reference.answers import Answer, Answers


@pytest.fixture
def answers() -> Answers:
    probes = (
        Probe("a", "Latin", "wind"),
        Probe("b", "Control", "\0 \u2028 🙂", "encode_document", title="Träume"),
        Probe("c", "Control tokens", "<bos>", prompt_name="STS", allow_special=True),
    )
    vectors = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    ids = [(2, 1), (2, 7, 8, 1), (2, 2, 262_143, 1)]
    return Answers(
        probes=ProbeSet("texts", probes, (("a", "b"),), ("a",)),
        by_probe={
            p.id: Answer(i, v, np.ones((len(i), 5), np.float32) * n if n != 1 else None)
            for n, (p, i, v) in enumerate(zip(probes, ids, vectors, strict=True))
        },
        source=Source("name", None, "abc", "float32", None, ("a note",)),
        prompts={"STS": "sts: "},
        default_prompt_name=None,
        similarity_fn_name="cosine",
        max_seq_length=2048,
        versions={"torch": "2"},
    )


@pytest.fixture
def file(answers: Answers, tmp_path: Path) -> Path:
    reference_file.save(answers, tmp_path / "reference.npz")
    return tmp_path / "reference.npz"


def test_round_trip(answers: Answers, file: Path) -> None:
    found = reference_file.load(file)
    assert found.probes == answers.probes
    for name, answer in answers.by_probe.items():
        assert found.by_probe[name].ids == answer.ids
        np.testing.assert_array_equal(found.by_probe[name].vector, answer.vector)
        assert found.by_probe[name].vector.dtype == np.float32
        if answer.states is None:
            assert found.by_probe[name].states is None
        else:
            np.testing.assert_array_equal(found.by_probe[name].states, answer.states)
    for name in (
        "source",
        "prompts",
        "default_prompt_name",
        "similarity_fn_name",
        "max_seq_length",
        "versions",
    ):
        assert getattr(found, name) == getattr(answers, name)
    assert [n for n, a in found.by_probe.items() if a.states is not None] == ["a", "c"]
    assert [p.name for p in file.parent.iterdir()] == ["reference.npz"]
    bare = {name: dataclasses.replace(a, states=None) for name, a in answers.by_probe.items()}
    reference_file.save(dataclasses.replace(answers, by_probe=bare), file)
    assert all(a.states is None for a in reference_file.load(file).by_probe.values())


def test_every_flipped_byte_is_seen_or_harmless(answers: Answers, file: Path) -> None:
    """A damaged file is refused, or (in the archive's own fields that nobody reads) changes nothing."""
    whole = file.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            found = reference_file.load(file)
        except InputError:
            refused += 1
            continue
        assert found.probes == answers.probes, f"byte {at}"
        for name, answer in answers.by_probe.items():
            assert found.by_probe[name].ids == answer.ids, f"byte {at}"
            np.testing.assert_array_equal(found.by_probe[name].vector, answer.vector)
    assert refused > len(whole) / 7 * 0.7


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b[:10], lambda _: b"", lambda _: b"text"])
def test_refuses_what_is_no_such_file(file: Path, damage: Callable[[bytes], bytes]) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="damaged or not a reference file"):
        reference_file.load(file)


def test_refuses_other_archives_and_schemas(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(file, vectors=np.zeros(3))
    with pytest.raises(InputError, match="damaged or not a reference file"):
        reference_file.load(file)


def test_refuses_another_schema(answers: Answers, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_file, "SCHEMA_VERSION", 7)
    with pytest.raises(InputError, match="schema_version 3; this version reads 7"):
        reference_file.load(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*none.npz"):
        reference_file.load(tmp_path / "none.npz")
