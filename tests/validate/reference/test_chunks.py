"""Texts in chunks: the rule, computed by the reference, against the runtime; mistakes with it are named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime.encoding import overflow, stream
from embedding_runtime.encoding.overflow import Pieces
from embedding_runtime.encoding.stream import Stream
from embedding_validate.diagnosis import diagnosis
from embedding_validate.parity import parity
from embedding_validate.probes import probes, texts
from embedding_validate.probes.probes import ProbeSet
from embedding_validate.reference import chunks
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.chunks import ChunkError
from embedding_validate.reference.reference import Reference
from embedding_validate.report import table

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def chosen(reference: Reference) -> ProbeSet:
    return probes.full(texts.packaged(), reference.prompts, reference.limits, reference.count)


@pytest.fixture(scope="module")
def answers(reference: Reference, chosen: ProbeSet) -> Answers:
    """All probes in chunks of the full set, but the one at the model's own limit, and one plain probe."""
    kept = tuple(p for p in chosen.probes if (p.chunked_at or 9999) < 500 or p.id == "en-question")
    return reference.answer(dataclasses.replace(chosen, probes=kept, batches=(), dims=()))


def test_the_probes(reference: Reference, chosen: ProbeSet, answers: Answers) -> None:
    """As a query, plain, with a title, and without a space to cut at; at the model's own limit too."""
    names = {p.id.partition("/")[2] for p in answers.probes.probes if p.chunked_at}
    assert names == {"", "query", "title", "unspaced"}
    for probe in answers.probes.probes[1:]:
        assert len(reference.chunks(probe)) >= 3
    (longest,) = (p for p in chosen.probes if p.id == "chunks-2048")
    assert longest.chunked_at == 2048 and len(reference.chunks(longest)) == 2


def test_the_rule(reference: Reference, answers: Answers) -> None:
    probe = next(p for p in answers.probes.probes if p.id.endswith("/query"))
    prompt, pieces = reference.prompts["query"], reference.chunks(probe)
    vectors = [reference.encode([c.text], prompt_name="query")[0] for c in pieces]
    counts = [reference.count(prompt + c.text) for c in pieces]
    mean = np.average(vectors, axis=0, weights=counts)
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(answers.by_probe[probe.id].vector, expected, atol=1e-6)
    assert len(answers.by_probe[probe.id].ids) == sum(counts)


def test_chunks_that_are_not_the_text(reference: Reference, monkeypatch: Patch) -> None:
    true = overflow.Cutter._at_space
    monkeypatch.setattr(
        overflow.Cutter, "_at_space", lambda *a: (true(*a)[0] + 1, true(*a)[1])
    )  # skips a character at each cut
    with pytest.raises(ChunkError, match="are not the text"):
        chunks.cut("", "How deep is the well? " * 20, 24, reference.token_ids)


def _unweighted(patch: Patch) -> None:
    patch.setattr(stream, "weighted_mean", lambda vectors, _: vectors.mean(0))


def _not_normalised(patch: Patch) -> None:
    true = stream._merge
    patch.setattr(
        stream,
        "_merge",
        lambda v, pieces, s: true(v, pieces, dataclasses.replace(s, renormalize_chunks=False)),
    )


def _pieces(change: Callable[[Pieces], Pieces]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        true = Stream._pieces

        def pieces(self: Stream, request: overflow.Request, *rest: Any) -> Pieces:
            found = true(self, request, *rest)
            return change(found) if self.cutter.overflow == "chunk" else found

        patch.setattr(Stream, "_pieces", pieces)

    return plant


def _prompt_once(patch: Patch) -> None:
    true = Stream._pieces

    def pieces(self: Stream, request: overflow.Request, *rest: Any) -> Pieces:
        found, tokenizer = true(self, request, *rest), self.cutter.tokenizer
        texts = [tokenizer.decode(ids.tolist()).removeprefix(request.prompt) for ids in found.ids[1:]]
        return Pieces([found.ids[0], *(np.array(tokenizer.encode(t)) for t in texts)], found.long)

    patch.setattr(Stream, "_pieces", pieces)


def _truncated(patch: Patch) -> None:
    true = Stream._pieces

    def pieces(self: Stream, *rest: Any) -> Pieces:
        cut = dataclasses.replace(self.cutter, overflow="truncate")
        return true(dataclasses.replace(self, cutter=cut), *rest)

    patch.setattr(Stream, "_pieces", pieces)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "chunks: mean not weighted by tokens": _unweighted,
    "chunks: mean not normalised": _not_normalised,
    "chunks: the last one lost": _pieces(lambda p: Pieces(p.ids[:-1], p.long)),
    "chunks: the text is truncated instead": _truncated,
    "chunks: prompt before the first one alone": _prompt_once,
}


@pytest.mark.parametrize("name", FAULTS)
def test_mistakes_are_named(
    name: str, tiny_bundle: Path, reference: Reference, answers: Answers, monkeypatch: Patch
) -> None:
    FAULTS[name](monkeypatch)
    report = diagnosis.diagnose(tiny_bundle, parity.check(tiny_bundle, answers), reference, answers)
    assert [f.name for f in report.graphs["onnx/fp32"].findings] == [name], table.lines(report)


def test_a_sound_bundle_passes(tiny_bundle: Path, answers: Answers) -> None:
    graph = parity.check(tiny_bundle, answers).graphs["onnx/fp32"]
    assert graph.status == "passed" and graph.groups["arrangement"]["chunked"].checks == 4
