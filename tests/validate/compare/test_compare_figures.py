"""What a comparison's figures say: noise, spread, growth, the front, recommendations, agreement."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedding_validate.compare.document import agreement, figures
from embedding_validate.compare.document import store as compare_store
from embedding_validate.compare.document.agreement import agreements
from embedding_validate.compare.document.case import Case, Rounds, noise, spread, timed
from embedding_validate.compare.document.document import (
    Accuracy,
    BundleEntry,
    Document,
    GraphEntry,
    LoadAverage,
    ManifestVerdict,
    Opening,
    PeerEntry,
    Run,
    RunMachine,
    RunPlan,
    Size,
    SystemEntry,
)
from embedding_validate.compare.measure import run as compare_run
from embedding_validate.compare.measure.machine_state import Clock, State, clock, foreign, glance, throttling
from embedding_validate.compare.measure.process import explained
from embedding_validate.compare.report import advice as compare_advice
from embedding_validate.compare.report import page as compare_page
from embedding_validate.compare.report import text as compare_text
from embedding_validate.measures.thresholds import LOSS
from embedding_validate.report.plots import Axis

ROOT = Path(__file__).parents[3]


def rounds(**other: Any) -> Rounds:
    """Five rounds in which the case takes half of the reference's time."""
    own, reference = ((0.01, 0.011, 0.01),) * 5, ((0.02, 0.021, 0.02),) * 5
    return Rounds(**{"own": own, "reference": reference, "waited_s": 0.0, "foreign_s": 0.0, **other})


def test_a_quiet_case() -> None:
    found = timed(Case("a", 1, 2, 8, ""), rounds())
    assert (found.status, found.noise, found.runs) == ("measured", (), 15)
    assert (found.median_ms, found.ratio, found.ratio_spread) == (10, 2, 0)
    assert found.tokens_per_s == 1600
    assert found.key == "a | 1 threads | 2x8"


@pytest.mark.parametrize(
    ("disturbed", "said"),
    [
        ({"waited_s": 0.1}, "waited for a CPU"),
        ({"foreign_s": 0.2}, "others kept"),
        ({"throttled": "the CPU throttled itself 3 times"}, "throttled itself"),
        ({"own": ((0.01,), (0.01,), (0.013,), (0.013,), (0.01,))}, "rounds differ by"),
    ],
)
def test_what_disturbs_a_case_is_said(disturbed: dict[str, Any], said: str) -> None:
    (reason,) = noise(rounds(**disturbed), 1)
    assert said in reason


def test_one_odd_round_of_five_is_no_noise() -> None:
    assert spread([2, 2, 2, 2, 9]) == 0
    assert spread([2, 2, 3]) == pytest.approx(0.5)


def test_what_is_worth_another_attempt() -> None:
    """What was disturbed, once more, where that is not for long."""
    case = Case("a", 1, 1, 8, "")
    disturbed = rounds(waited_s=0.1)
    assert not another(rounds(), case) and another(disturbed, case)
    long = rounds(own=((4.0,), (6.0,)), reference=((1.0,), (1.0,)))
    assert noise(long, 1) and not another(long, case)


def another(last: Rounds, case: Case) -> bool:
    once = compare_run.again([last], case)
    assert not compare_run.again([last, last], case), "twice is enough"
    return once


def test_waiting_counts_per_thread() -> None:
    waited = rounds(waited_s=0.03)
    assert noise(waited, 1) and not noise(waited, 2)


def test_cpu_time_of_others(tmp_path: Path) -> None:
    """proc(5): the machine's busy time less the process's own, whatever its name holds."""
    (tmp_path / "proc" / "7").mkdir(parents=True)
    stat, own = tmp_path / "proc" / "stat", tmp_path / "proc" / "7" / "stat"
    stat.write_text("cpu  1000 10 500 90000 50 3 2 5 0 0\ncpu0 1 2 3\n")
    own.write_text("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 300 40 0 0\n")
    before = clock(7, tmp_path)
    assert before == Clock(15.20, 3.40)
    stat.write_text("cpu  1400 10 500 90900 50 3 2 5 0 0\n")
    own.write_text("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 500 40 0 0\n")
    assert foreign(before, clock(7, tmp_path)) == pytest.approx(2)
    assert clock(8, tmp_path) is None and foreign(before, None) == 0


def test_temperature_clock_and_throttling(tmp_path: Path) -> None:
    def put(name: str, text: str) -> None:
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    put("class/thermal/thermal_zone0/temp", "47200\n")
    put("class/thermal/thermal_zone1/temp", "51800\n")
    put("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000\n")
    put("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4\n")
    put("devices/platform/soc/soc:firmware/get_throttled", "0x50000\n")
    before = glance(tmp_path)
    assert (before.celsius, before.megahertz, before.throttle_events) == (51.8, 1800, 4)
    assert before.throttled_now is False, "it was throttled once, and is not now"
    put("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "6\n")
    assert throttling(before, glance(tmp_path)) == "the CPU throttled itself 2 times"
    put("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4\n")
    put("devices/platform/soc/soc:firmware/get_throttled", "0x50005\n")
    assert throttling(before, glance(tmp_path)) == "the firmware throttles the CPU"
    nothing = State(None, None, None, None, None)
    assert throttling(nothing, nothing) is None


@pytest.mark.parametrize(
    ("status", "errors", "expected"),
    [
        (-9, "", ("out of memory", "killed by the system, most likely for using too much memory")),
        (-6, "x\nGGML_ASSERT(a) failed\nfoot", ("crashed", "SIGABRT; GGML_ASSERT(a) failed")),
        (1, "Traceback\nMemoryError", ("out of memory", "MemoryError")),
        (1, "embedding_runtime.errors.BundleError: no bundle", ("refused", "no bundle")),
        (1, "ValueError: a: b", ("crashed", "exit status 1; ValueError: a: b")),
        (
            1,
            "KeyError: 'x'\nsubprocess.CalledProcessError: Command",
            ("crashed", "exit status 1; KeyError: 'x'"),
        ),
        (3, "", ("crashed", "exit status 3; it said nothing")),
    ],
)
def test_an_end_is_explained(status: int, errors: str, expected: tuple[str, str]) -> None:
    assert explained(status, errors) == expected


# name: MB, ms at 64 tokens, cosine, parity
SYSTEMS: dict[str, tuple[float, float, float, str | None]] = {
    "onnx/fp32": (1200, 40, 1.0, "passed"),
    "onnx/int8": (310, 15, 0.999, "passed"),
    "onnx/int4": (187, 30, 0.93, "passed"),
    "broken": (100, 1, 0.2, "failed"),
    "peer": (300, 5, 0.5, None),
}


def document(**changes: Any) -> Document:
    """One run as compare-embedding writes it, latency growing as length to the 1.5 on two threads."""
    systems: list[SystemEntry] = []
    sizes: dict[str, Size] = {}
    cases: list[Case] = []
    openings: list[Opening] = []
    for name, (size, ms, least, status) in SYSTEMS.items():
        peer = PeerEntry(name, "peer", "python", "worker.py", "folder")
        systems.append(graph_entry(name, int(size * 1e6), status) if status else peer)
        sizes[name] = Size(int(size * 1e6), {})
        accuracy = Accuracy(9, least - 0.02, least)
        openings.append(Opening(name, 2, "measured", first_s=2.0, cold_s=0.5, accuracy=accuracy))
        for tokens in (64, 256):
            case = Case(
                name,
                2,
                1,
                tokens,
                "measured",
                runs=15,
                median_ms=ms * (tokens / 64) ** 1.5,
                p5_ms=ms * 0.9,
                p95_ms=ms * 1.1,
                tokens_per_s=1e3,
                ratio=15 / ms,
                load_s=0.2,
                first_ms=2 * ms,
                memory={"anonymous_peak": 100 * 1024, "file_peak": 50 * 1024},
                machine_state={"celsius": 60.5 if tokens == 64 else 71.5},
            )
            cases.append(case)
    run = Run(
        label="board",
        origin="measured",
        started="2026-01-01T00:00:00+00:00",
        finished="now",
        complete=True,
        command="compare-embedding /home/me/some/bundle",
        plan=RunPlan(tuple(SYSTEMS), ("64", "256"), (2,), "onnx/int8", "onnx/fp32", 5),
        machine=RunMachine("Linux", "x", "CPU", "2", "3.11", "board", features={"VNNI": True}),
        versions={"onnxruntime": "1"},
        load_average=LoadAverage((0.25, 0, 0), (1.5, 0, 0)),
        bundles=(BundleEntry("b", "s", "0" * 64, "space", 300_000_000),),
        systems=tuple(systems),
        sizes=sizes,
        openings=tuple(openings),
        cases=tuple(cases),
    )
    return Document((replace(run, **changes),))


def graph_entry(name: str, size: int, status: str, precision: str = "int4") -> GraphEntry:
    said = ManifestVerdict("manifest.json", status, "planted", 9, None, None)
    return GraphEntry(
        name,
        "bundle",
        "b",
        "onnx",
        precision,
        "v",
        {},
        size,
        9_000_000,
        parts=None,
        buckets=(),
        parity=said,
    )


def only(found: Document) -> Run:
    (run,) = found.measured
    return run


def test_growth() -> None:
    run = only(document())
    assert figures.exponent(run, "onnx/int8", 2) == pytest.approx(1.5)
    assert figures.exponent(run, "onnx/int8", 1) is None


def test_the_first_run() -> None:
    """Of the length nearest to a query's."""
    assert figures.first_run(only(document()), "onnx/int8") == 30


def test_memory_is_quoted_once() -> None:
    """At 256 tokens, of most threads where there are several."""
    run = only(document())
    alone = [replace(c, threads=1, memory={"anonymous_peak": 1}) for c in run.cases]
    assert figures.memory(replace(run, cases=(*run.cases, *alone)), "onnx/int8") == run.cases[3].memory
    assert figures.memory(replace(run, cases=()), "onnx/int8") == {}


def test_the_front() -> None:
    assert figures.pareto([(1, 3), (2, 2), (3, 1), (3, 3), (1, 3)]) == [True, True, True, False, True]


def test_what_is_wrong() -> None:
    run = only(document())
    assert "failed its comparison" in (figures.wrong(run, "broken") or "")
    assert "not the same model" in (figures.wrong(run, "peer") or "")
    assert figures.wrong(run, "onnx/int4") is None, "it has passed: coarser, not wrong"


def test_the_recommendation() -> None:
    """Never what is wrong, never a peer; a coarse graph only where no better one fits."""
    said = compare_advice.recommendation(only(document()))
    assert said[0].startswith("For ≤ 200 MB and queries of up to 64 tokens take onnx/int4: 196 MB")
    assert "mind its accuracy, cosine down to 0.910" in said[0]
    assert said[1].startswith("For ≤ 400 MB and queries of up to 64 tokens take onnx/int8")
    assert len(said) == 4 and "256 tokens" in said[2]
    assert not any("broken" in line or "peer" in line or "fp32" in line for line in said)


def test_words_follow_the_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bounds on the least and the mean, and no other: moved, they move the words."""
    run = only(document())
    monkeypatch.setitem(LOSS, "int4", replace(LOSS["int4"], cosine_min=0.76))
    assert "cosine 0.4800, below 0.76," in (figures.wrong(run, "peer") or "")
    monkeypatch.setitem(LOSS, "int4", replace(LOSS["int4"], cosine_min=0.4, cosine_mean=0.6))
    assert "0.5000 on average, below 0.6" in (figures.wrong(run, "peer") or "")
    assert [figures.coarseness(run, f"onnx/{p}") for p in ("fp32", "int8", "int4")] == [0, 0, 1]
    monkeypatch.setitem(LOSS, "int4", replace(LOSS["int4"], cosine_mean=0.45))
    assert figures.wrong(run, "peer") is None
    monkeypatch.setitem(LOSS, "int8_q4", replace(LOSS["int8_q4"], cosine_min=0.99))
    assert figures.coarseness(run, "onnx/int8") == 1, "its least is 0.979"
    run = replace(run, systems=tuple(graph_entry(name, 1, "not run", "int8") for name in SYSTEMS))
    monkeypatch.setitem(LOSS, "int8", replace(LOSS["int8"], cosine_min=0.95))
    assert "cosine 0.9100, below 0.95," in (figures.wrong(run, "onnx/int4") or "")


def test_doubts_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a graph that nobody has compared, or that was never measured in peace: taken last, with a word."""
    monkeypatch.setitem(LOSS, "int8", replace(LOSS["int8"], cosine_min=0.97))
    run = only(document())
    unchecked = graph_entry("onnx/int8", 310_000_000, "not run", "int8")
    run = replace(run, systems=tuple(unchecked if s.name == "onnx/int8" else s for s in run.systems))
    said = compare_advice.recommendation(run)
    assert any("take onnx/fp32" in line for line in said), "slower, and compared"
    assert said[1].startswith("Nobody has compared onnx/int8 with the reference. For ≤ 400 MB")
    run = only(document())
    noisy = ("others kept 2.0 CPUs busy",)
    cases = [replace(c, noise=noisy) if c.system == "onnx/int8" else c for c in run.cases]
    run = replace(run, cases=tuple(cases))
    assert "Every figure of onnx/int8 was disturbed. For" in compare_advice.recommendation(run)[1]
    quiet = next(i for i, c in enumerate(cases) if c.system == "onnx/int8")
    cases[quiet] = replace(cases[quiet], noise=())
    run = replace(run, cases=tuple(cases))
    assert not any("disturbed" in line for line in compare_advice.recommendation(run))


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1), (1.01, 1.5), (199, 200), (8.1, 10), (0.26, 0.3)])
def test_rounding_up(value: float, expected: float) -> None:
    assert figures.rounded_up(value) == pytest.approx(expected)


def test_two_runs_on_one_machine() -> None:
    first, second = document(), document(started="2026-01-02T00:00:00+00:00")
    merged = compare_store.merge([first, second, document()])
    assert len(merged.runs) == 2, "the same run twice is one"
    (line,) = agreements(merged)
    assert "10 of 10 ratios undisturbed in both" in line and "0% at most" in line
    second = _changed(second, 3, ratio=1.3 * 15 / SYSTEMS["onnx/int8"][1])
    (line,) = agreements(compare_store.merge([first, second]))
    assert "not within 15%, and marked: onnx/int8 | 2 threads | 256." in line
    merged = agreement.marked(agreement.marked(compare_store.merge([first, second])))
    marked = [[c.noise for c in run.cases if c.noise] for run in merged.measured]
    assert [len(cases) for cases in marked] == [1, 1], "once in each run"
    assert all("another run on this machine gave" in reason for ((reason,),) in marked)
    assert agreements(merged) == [line], "its own mark disturbs nothing"
    second = _changed(second, 3, noise=("others kept 1.0 CPUs busy",))
    (line,) = agreements(compare_store.merge([first, second]))
    assert "9 of 10" in line and "not within" not in line
    assert agreements(compare_store.merge([first, document(label="another", started="x")])) == []


def _changed(found: Document, at: int, **changes: Any) -> Document:
    """The document with changes to one of its cases."""
    run = only(found)
    cases = [replace(c, **changes) if i == at else c for i, c in enumerate(run.cases)]
    return Document((replace(run, cases=tuple(cases)),))


def test_text_and_page_of_many_devices() -> None:
    merged = compare_store.merge([document(), document(label="phone")])
    for shown in (compare_text.markdown(merged), compare_page.render(merged)):
        assert "board" in shown and "phone" in shown
        assert "planted" in shown and "not the same model" in shown
        assert "71.5 °C" in shown and "0.25" in shown and "1.5" in shown, "heat and load"


def test_numbers_stand_on_a_line() -> None:
    found = _changed(document(), 0, samples={"own": ((1, 2.5), (3e-7,)), "reference": ()})
    text = compare_store.dumps(found)
    assert "[1, 2.5]" in text and "[3e-07]" in text
    assert Document.from_json(json.loads(text)) == found


def test_axis_of_a_single_value() -> None:
    assert Axis("x", 2, 2, base=2).place(2) == 0
