"""A reference that is slower in one case's turns than in the others' marks that case."""

from typing import Any

from embedding_validate.compare.document.drift import mark


def case(reference_s: float, tokens: int = 16, noise: tuple[str, ...] = ()) -> dict[str, Any]:
    samples = {"own": [[0.02, 0.02]], "reference": [[reference_s, 1.01 * reference_s], [reference_s]]}
    return {"threads": 2, "batch": 1, "tokens": tokens, "noise": list(noise), "samples": samples}


def test_the_case_in_slow_company_is_marked() -> None:
    cases = [case(0.010), case(0.0105), case(0.0125), case(0.009), case(0.03, tokens=64)]
    mark(cases)
    assert [len(c["noise"]) for c in cases] == [0, 0, 1, 0, 0]
    assert cases[2]["noise"] == ["its reference took +22% against its other turns"]


def test_marks_follow_what_is_known() -> None:
    """A case marked beside one other is cleared when more turns show which of the two was odd."""
    cases = [case(0.010, noise=("a core was busy",)), case(0.014)]
    mark(cases)
    assert all("its reference" in c["noise"][-1] for c in cases)
    cases += [case(0.010), case(0.010)]
    mark(cases)
    assert [c["noise"] for c in cases][::3] == [["a core was busy"], []]
    assert len(cases[1]["noise"]) == 1


def test_a_case_without_samples_is_left_alone() -> None:
    failed = {**case(0.01), "samples": {}}
    mark([failed])
    assert failed["noise"] == []
