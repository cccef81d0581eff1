"""Kept answers are used only where everything they depend on is the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_runtime.bundle import Graph, load_manifest
from embedding_runtime.manifest.composition import Composition
from embedding_validate.probes import lengths, texts
from embedding_validate.probes.texts import Text
from embedding_validate.reference import cache as reference_cache
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference

OWN: tuple[Text, ...] = (Text("a", "User", "wind"), Text("b", "User", "How deep is the well?"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embedding-edge" / "references"


def _answers(folder: Path, own: tuple[Text, ...] = OWN) -> Answers:
    return reference_cache.answers(load_checkpoint(folder), own, (), lambda _done, _total: None)


def _refuse(*_: object) -> None:
    raise AssertionError("the reference was loaded again")


def test_answers_are_kept(tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _answers(tiny_checkpoint)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(Reference, "load", _refuse)
    second = _answers(tiny_checkpoint)
    assert second.probes == first.probes and second.source == first.source
    for name, answer in first.by_probe.items():
        np.testing.assert_array_equal(second.by_probe[name].vector, answer.vector)


@pytest.mark.parametrize(
    "change", ["texts", "prompts", "buckets", "composed", "damage", "code", "packaged texts"]
)
def test_other_answers_are_computed(
    change: str,
    editable: Path,
    tiny_bundle: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _answers(editable)
    own: tuple[Text, ...] = OWN
    graphs: tuple[Graph, ...] = ()
    (graph,) = load_manifest(tiny_bundle).graphs
    if change == "texts":
        own = (*OWN, Text("c", "User", "tide"))
    elif change == "buckets":
        graphs = (replace(graph, buckets=(32,)),)
    elif change == "composed":
        graphs = (replace(graph, composition=Composition(0.9, {}, 42, 0.9, 0.9, ())),)
    elif change == "prompts":
        path = editable / "config_sentence_transformers.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        data["prompts"]["query"] = "other: "
        path.write_text(json.dumps(data), encoding="utf-8")
    elif change == "code":
        path = tmp_path / "lengths.py"
        path.write_bytes(Path(lengths.__file__).read_bytes() + b"# changed")
        monkeypatch.setattr(lengths, "__file__", str(path))
    elif change == "packaged texts":
        path = tmp_path / "passages.json"
        path.write_bytes(texts.PASSAGES.read_bytes() + b" ")
        monkeypatch.setattr(reference_cache, "_DATA", (texts.TEXTS, path))
    else:
        (kept,) = cache.iterdir()
        kept.write_bytes(kept.read_bytes()[:-100])
    monkeypatch.setattr(Reference, "load", _refuse)
    with pytest.raises(AssertionError, match="loaded again"):
        reference_cache.answers(load_checkpoint(editable), own, graphs, lambda _done, _total: None)


def test_a_folder_that_cannot_be_written_is_no_hindrance(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(_answers(tiny_checkpoint).by_probe) == 6
