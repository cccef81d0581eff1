"""The tutorial's figures: the data is whole, the check can fail."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_validate.measures.thresholds import LOSS
from embedding_validate.probes.probes import Probe
from embedding_validate.runners.calls import VectorOf
from embedding_validate.tutorial import examples, golden

TUTORIAL = Path(__file__).parents[4] / "shared" / "golden-tutorial.json"


def stub(change: Callable[[NDArray[np.float64]], None] = lambda _: None) -> VectorOf:
    """The same vector for every text: the first axis, changed by `change`."""

    def vector_of(probe: Probe, dim: int | None) -> NDArray[np.float32]:
        vector = np.zeros(dim or 768)
        vector[0] = 1
        change(vector)
        return vector.astype(np.float32)

    return vector_of


def test_the_data_is_whole() -> None:
    data = golden.load()
    assert (data.name, data.parameters) == ("google/embeddinggemma-300m", 307_581_696)
    assert len(data.prompts) == 14
    assert [c.probe.text for c in data.components] == ["apple", "banana", "car"]
    assert {s.group for s in data.scores} == {"pairs", "classification", "matryoshka", "retrieval"}
    assert len({s.id for s in data.scores}) == len(data.scores)
    assert {s.dim for s in data.scores} == {768, 512, 256}
    for s in data.scores:
        assert {s.left.prompt_name, s.right.prompt_name} <= {None, *data.prompts}
    assert data.tolerances.keys() == LOSS.keys(), "every precision that is judged at all"
    for kinds in data.tolerances.values():
        assert "any" in kinds and all(set(t) == {"score", "component"} for t in kinds.values())
    assert data.tolerances["fp32"]["any"] == {"score": 1e-4, "component": 1e-6}


def test_the_figures_are_the_tutorial_s() -> None:
    """Every number printed by the tutorial is there once, and no other."""
    if not TUTORIAL.exists():
        pytest.skip(f"{TUTORIAL.name}, the figures as they were noted down, is not here")
    noted = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    scores = [v for p in noted["pairs"] for v in (p["cosine_no_prompt"], p["cosine_STS"])]
    scores += [v for row in noted["classification"]["cosine"] for v in row]
    scores += [v for m in noted["mrl"] for v in (m["apple_banana"], m["apple_car"])]
    scores += noted["model_card_sample"]["cosine"]
    data = golden.load()
    assert sorted(s.value for s in data.scores if s.value is not None) == sorted(scores)
    found = [[*c.first, *c.last] for c in data.components]
    assert found == noted["words"]["first_three_and_last_three"]
    assert data.prompts == noted["prompts"] and data.parameters == noted["parameters"]


@pytest.mark.parametrize(
    "name", ["google/embeddinggemma-300m", "google/EmbeddingGemma-300M", "embeddinggemma-300m"]
)
def test_takes_the_real_model(name: str) -> None:
    golden.require(name, 307_581_696)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 478_848), ("google/embeddinggemma-300m", 478_848), ("my/fine-tune", 307_581_696)],
)
def test_refuses_any_other_model(name: str, parameters: int) -> None:
    with pytest.raises(InputError, match=f"this is {name}"):
        golden.require(name, parameters)


def test_a_model_that_is_wrong_misses_figures() -> None:
    cases = golden.check(stub(), "fp32")
    assert len(cases) == 18 + 22
    assert not any(c.passed for c in cases if c.id.startswith(("high", "ticket", "apple and")))


def test_nan_misses_everything() -> None:
    assert not any(c.passed for c in golden.check(stub(lambda v: v.fill(np.nan)), "fp32"))


def test_a_figure_at_the_tolerance_passes() -> None:
    case = golden.GoldenCase("x", printed=0.5, found=0.5015, tolerance=2e-3)
    assert case.passed
    assert not golden.GoldenCase("x", printed=0.5, found=0.503, tolerance=2e-3).passed


def test_no_tolerances_for_a_precision() -> None:
    with pytest.raises(InputError, match="no golden tolerances for precision 'int2'"):
        golden.check(stub(), "int2")


def test_tolerances_follow_precision_and_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = {}
    for kind in ("x86-vnni", "arm", "riscv64"):
        monkeypatch.setattr(golden, "cpu_kind", lambda kind=kind: kind)
        allowed[kind] = [golden.tolerances(p)["score"] for p in ("fp32", "fp16", "int8", "int8_q4", "int4")]
        assert allowed[kind] == sorted(allowed[kind])
        (case, *_) = golden.check(stub(), "int4")
        assert case.tolerance == golden.tolerances("int4")["component"]
    assert allowed["arm"] == allowed["riscv64"] != allowed["x86-vnni"], "4 bits round otherwise there"


def test_scores_are_taken_at_the_dim() -> None:
    """Cosine normalises by itself, dot does not."""
    score = next(s for s in golden.load().scores if s.similarity == "cosine")
    assert score.of(stub(lambda v: v.fill(2)), 5) == pytest.approx(1)
    dot = next(s for s in golden.load().scores if s.similarity == "dot")
    assert dot.of(stub(lambda v: v.fill(2)), 5) == pytest.approx(20)


def test_examples_side_by_side() -> None:
    prompts = golden.load().prompts
    shown = examples.run(
        stub(), stub(lambda v: v.__setitem__(1, 0.1)), prompts, (768, 512, 256, 128), real=True
    )
    assert not shown.left_out and len(shown.rows) == len(golden.load().scores)
    assert shown.largest_difference == pytest.approx(0.1)
    text = "\n".join(examples.lines(shown))
    assert "not offered" not in text
    assert "printed" in text and "0.800215" in text and "Largest difference shown: 1.0e-01" in text


def test_examples_fit_a_small_model_without_prompts() -> None:
    shown = examples.run(stub(), stub(), {"STS": "x"}, (64, 40), real=False)
    assert {(r.asked, r.dim) for r in shown.rows} == {(64, 64), (42, 40), (21, 40)}
    assert any(name.startswith("ticket") for name in shown.left_out)
    assert any(name.startswith("planets") for name in shown.left_out)
    text = "\n".join(examples.lines(shown))
    assert "21 is not offered by this checkpoint; shown at 40" in text
    assert "printed" not in text and "Left out" in text and "Retrieval" not in text
