"""Every fault that diagnosis knows gets its name: each faulty forward pass, judged like a graph."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime.bundle import Graph, load_manifest
from embedding_validate.diagnosis import diagnosis, hypotheses
from embedding_validate.diagnosis.diagnosis import Subject
from embedding_validate.forward.interpreter import Interpreter, Model
from embedding_validate.parity import parity
from embedding_validate.probes import probes, texts
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference
from embedding_validate.runners.calls import Call, Result

# Of this checkpoint (window 8, two kinds of layers, two Dense stages, normalised at the end), those that
# change something; `test_hypotheses` shows that no two of them look alike.
ALONE = (
    "all Dense stages missing",
    "only the first Dense stage",
    "not normalised",
    "causal attention",
    "window off by one (too narrow)",
    "window off by one (too wide)",
    "window halved",
    "window doubled (sliding_window taken as the distance)",
    "window ignored",
    "RoPE bases swapped",
    "global RoPE base everywhere",
    "local RoPE base everywhere",
    "all layers local",
    "all layers global",
    "type of layer 0 swapped",
    "type of layer 3 swapped",
    "table scale missing",
    "norms multiply by w instead of 1 + w",
    "final norm missing",
    "q and k norms missing",
    "attention scale missing",
    "attention scale from the head dimension",
    "exact gelu instead of tanh",
    "pooling takes the first token",
    "pooling takes the last token",
    "RoPE on neighbouring pairs instead of halves",
    "keys reshaped where they should be transposed",
)
PADDED = ("pooling without mask", "attention without mask", "no mask at all")


@pytest.fixture(scope="module")
def answers(reference: Reference) -> Answers:
    """The gate's probes up to 100 tokens, whole."""
    chosen = probes.short(texts.packaged(), reference.prompts, reference.limits, reference.count)
    kept = tuple(p for p in chosen.probes if p.chunked_at is None and len(reference.whole_ids(p)) <= 100)
    ids = {p.id for p in kept}
    batches = tuple(tuple(i for i in batch if i in ids) for batch in chosen.batches)
    return reference.answer(dataclasses.replace(chosen, probes=kept, batches=batches))


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path) -> Graph:
    return load_manifest(tiny_bundle).graphs[0]


def _runner(model: Model, interpreter: Interpreter, answers: Answers) -> Callable[[Call], list[Result]]:
    """Runs the reference's own ids through a faulty model, padded where there are several."""

    def run(call: Call) -> list[Result]:
        ids = [answers.by_probe[p.id].ids for p in call.probes]
        vectors = interpreter.vectors(model, ids)
        return [Result(i if len(ids) == 1 else None, v) for i, v in zip(ids, vectors, strict=True)]

    return run


def _findings(model: Model, graph: Graph, bundle: Path, reference: Reference, answers: Answers) -> list[str]:
    interpreter = Interpreter.of(reference.checkpoint)
    run = _runner(model, interpreter, answers)
    report = parity.check_runner(run, graph, answers)
    subject = Subject(run, graph, bundle / graph.file, reference.checkpoint, same_weights=True, ours=True)
    if report.status == "passed":
        return []
    findings = diagnosis.diagnose_subject(subject, report, reference, answers).findings
    assert all("to the reference with this fault 1.000000" in f.evidence for f in findings)
    return [f.name for f in findings]


def test_no_fault_is_forgotten(reference: Reference) -> None:
    sound = Interpreter.of(reference.checkpoint).sound
    known = set(hypotheses.alone(sound.config, sound.dense))
    known -= {f"type of layer {i} swapped" for i in (1, 2, 4, 5)}  # as those of layers 0 and 3
    assert known - {"normalised, though the checkpoint does not"} == set(ALONE)
    assert set(hypotheses.padded()) == set(PADDED)


def test_numbers_that_are_none(
    tiny_bundle: Path, graph: Graph, reference: Reference, answers: Answers
) -> None:
    """A graph whose layers are right, and whose vectors are not numbers, is not passed over in silence."""

    def run(call: Call) -> list[Result]:
        given = [answers.by_probe[p.id] for p in call.probes]
        return [Result(a.ids, np.full_like(a.vector, np.nan)) for a in given]

    report = parity.check_runner(run, graph, answers)
    subject = Subject(run, graph, tiny_bundle / graph.file, reference.checkpoint, True, True)
    (found,) = diagnosis.diagnose_subject(subject, report, reference, answers).findings
    assert found.name == "no known fault" and "vectors with NaN or infinity" in found.evidence


def test_the_sound_model_passes(
    tiny_bundle: Path, graph: Graph, reference: Reference, answers: Answers
) -> None:
    sound = Interpreter.of(reference.checkpoint).sound
    assert _findings(sound, graph, tiny_bundle, reference, answers) == []


@pytest.mark.parametrize("name", [*ALONE, *PADDED])
def test_a_fault_has_its_name(
    name: str, tiny_bundle: Path, graph: Graph, reference: Reference, answers: Answers
) -> None:
    sound = Interpreter.of(reference.checkpoint).sound
    faults = {**hypotheses.alone(sound.config, sound.dense), **hypotheses.padded()}
    assert _findings(faults[name](sound), graph, tiny_bundle, reference, answers) == [name]
