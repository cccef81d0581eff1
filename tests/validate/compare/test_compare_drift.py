"""A reference that is slower in one case's turns than in the others' marks that case."""

from dataclasses import replace

from embedding_validate.compare.document.case import Case, Samples
from embedding_validate.compare.document.drift import marked


def case(reference_s: float, tokens: int = 16, noise: tuple[str, ...] = ()) -> Case:
    samples: dict[str, Samples] = {
        "own": ((0.02, 0.02),),
        "reference": ((reference_s, 1.01 * reference_s), (reference_s,)),
    }
    return Case("onnx/int8", 2, 1, tokens, "measured", noise=noise, samples=samples)


def test_the_case_in_slow_company_is_marked() -> None:
    cases = marked([case(0.010), case(0.0105), case(0.0125), case(0.009), case(0.03, tokens=64)])
    assert [len(c.noise) for c in cases] == [0, 0, 1, 0, 0]
    assert cases[2].noise == ("its reference took +22% against its other turns",)


def test_marks_follow_what_is_known() -> None:
    """A case marked beside one other is cleared when more turns show which of the two was odd."""
    cases = marked([case(0.010, noise=("a core was busy",)), case(0.014)])
    assert all("its reference" in c.noise[-1] for c in cases)
    cases = marked([*cases, case(0.010), case(0.010)])
    assert [c.noise for c in cases][::3] == [("a core was busy",), ()]
    assert len(cases[1].noise) == 1


def test_a_case_without_samples_is_left_alone() -> None:
    failed = replace(case(0.01), samples={})
    assert marked([failed]) == (failed,)
