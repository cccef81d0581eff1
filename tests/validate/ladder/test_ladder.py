"""The ladder: its sets, its figures, and the command on a tiny bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import InputError
from embedding_runtime.bundle import Parity
from embedding_validate.compare import cli as compare
from embedding_validate.ladder import cli, document, page, publish, sets
from embedding_validate.ladder.quality import Embedded, measure
from embedding_validate.ladder.sets import Pairs

PAIRS = Pairs(("a", "b", "c"), ("d", "e", "f"), np.array([0.0, 1.0, 2.0]))


def vectors(*angles: float) -> np.ndarray:
    """Unit vectors in the plane of the first two components, with two more that are 0."""
    return np.array([[np.cos(a), np.sin(a), 0, 0] for a in angles], np.float32)


def embedded(*turns: float) -> Embedded:
    """Pairs the less alike the lower their score; queries that point at their documents, turned."""
    left = vectors(0, 0, 0)
    return Embedded((left, vectors(0.9, 0.6, 0.3)), vectors(*(t + 0.0 for t in turns)), vectors(0, 1, 2))


def test_figures_of_a_perfect_model() -> None:
    base = embedded(0, 1, 2)
    found = measure(base, base, 4, PAIRS)
    assert (found.sts, found.ndcg_10, found.recall_1) == (1.0, 1.0, 1.0)
    assert found.cosine_min == pytest.approx(1)


def test_figures_fall_with_what_is_lost() -> None:
    base, turned = embedded(0, 1, 2), embedded(0.8, 1, 2)
    found = measure(turned, base, 4, None)
    assert found.sts is None
    assert found.recall_1 == pytest.approx(2 / 3)
    assert found.ndcg_10 == pytest.approx((1 / np.log2(3) + 2) / 3)
    assert found.cosine_min == pytest.approx(np.cos(0.8), abs=1e-6)
    assert found.cosine_mean == pytest.approx((11 + np.cos(0.8)) / 12, abs=1e-6)


def test_a_dim_is_cut_and_made_unit_again() -> None:
    base = embedded(0, 1, 2)
    more = 9 * np.eye(3, 4, dtype=np.float32)
    wide = Embedded(None, np.hstack([base.queries, more]), np.hstack([base.documents, more]))
    short = Embedded(None, base.queries, base.documents)
    assert measure(wide, short, 4, None).cosine_min == pytest.approx(1)


def test_the_search_is_many_texts_of_numpy_s() -> None:
    search = sets.numpy_search()
    assert len(search.queries) == len(search.documents) > 300
    assert len(set(search.queries)) == len(search.queries)
    assert len(set(search.documents)) == len(search.documents)
    assert max(map(len, search.documents)) == 1000
    assert any(q.startswith("Return the sum") or "element-wise" in q for q in search.queries)


BAD = {
    "empty": ("", "0 pairs"),
    "one": ("1.0\ta\tb\n", "1 pairs"),
    "two fields": ("1.0\ta\tb\n2.0\ta\n", "line 2: expected a number and two sentences"),
    "no number": ("high\ta\tb\n1\ta\tb", "line 1.*'high'"),
    "not finite": ("nan\ta\tb\n1\ta\tb", "line 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_of_pairs_that_are_none(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    (tmp_path / "sts.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        sets.read_pairs(tmp_path / "sts.tsv")


def test_the_command(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    options = ExportOptions(precisions=("fp32", "int8"), dims=(64, 32))
    export_bundle(load_checkpoint(tiny_checkpoint), bundle, options, assumed)
    (tmp_path / "sts.tsv").write_text("0\tred\tblue\n1\tred planet\tred planets\n5\tMars\tMars\n")
    few = sets.Search(("add", "cut", "sort"), ("Adds two arrays.", "Cuts an array.", "Sorts the values."))
    monkeypatch.setattr(sets, "numpy_search", lambda: few)
    arguments = [str(bundle), "--reference", str(tiny_checkpoint), "--sts", str(tmp_path / "sts.tsv")]
    assert cli.main([*arguments, "--output", str(out), "--threads", "1", "--lengths", "16"]) == 0
    found = document.load(out / "ladder.json")
    assert [r.name for r in found.rungs] == ["torch fp32", "onnx/fp32", "onnx/int8"]
    assert found.random_weights
    reference, fp32, int8 = found.rungs
    assert [q.dim for q in fp32.quality] == [64, 32]
    assert fp32.quality[0].cosine_min > 0.999999 > int8.quality[0].cosine_min
    assert fp32.quality[0].sts == reference.quality[0].sts
    assert all(r.cost.median_ms["16"] > 0 for r in found.rungs)
    assert fp32.cost.bytes is not None and int8.cost.bytes is not None
    assert fp32.cost.bytes > int8.cost.bytes > 100_000
    text = capsys.readouterr().out
    assert text == page.page(found) == (out / "ladder.md").read_text(encoding="utf-8")
    assert "| onnx/int8 | 32 |" in text
    assert str(tmp_path) not in (out / "ladder.json").read_text()


def test_a_checkpoint_of_another_model_is_refused(
    other_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured: losses to its vectors would mean nothing."""
    arguments = [str(other_bundle), "--reference", str(tiny_checkpoint), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "Give the checkpoint that the bundle was exported from." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--lengths", "many"], ["--lengths", "99999"], ["--resume"]])
def test_what_the_comparison_refuses_ends_the_command(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    export_bundle(load_checkpoint(tiny_checkpoint), bundle, ExportOptions(precisions=("fp32",)), assumed)
    arguments = [str(bundle), "--reference", str(tiny_checkpoint), "--output", str(out), *wrong]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "embedding-ladder: error: " in said
    assert "embedding with" not in said
    assert not (out / "ladder.json").exists()


def test_an_interrupted_comparison_interrupts_the_command(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    export_bundle(load_checkpoint(tiny_checkpoint), bundle, ExportOptions(precisions=("fp32",)), assumed)
    monkeypatch.setattr(compare, "_measure", raise_interrupt)
    assert cli.main([str(bundle), "--reference", str(tiny_checkpoint), "--output", str(out)]) == 130
    assert "--resume keeps" in capsys.readouterr().err
    assert not (out / "ladder.json").exists()


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_graph_that_is_wrong_is_named_and_the_status_says_so(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    manifest = export_bundle(
        load_checkpoint(tiny_checkpoint), bundle, ExportOptions(precisions=("fp32",), dims=(64,)), assumed
    )
    failed = tuple(replace(g, parity=Parity("failed", "another model")) for g in manifest.graphs)
    (bundle / "manifest.json").write_text(replace(manifest, graphs=failed).to_json())
    monkeypatch.setattr(sets, "numpy_search", lambda: sets.Search(("add", "cut"), ("Adds.", "Cuts.")))
    arguments = [str(bundle), "--reference", str(tiny_checkpoint), "--output", str(out), "--lengths", "8"]
    assert cli.main(arguments) == 1
    assert "failed: onnx/fp32: failed its comparison: another model" in capsys.readouterr().err
    assert document.load(out / "ladder.json").rungs[1].verdict == "failed"


def test_a_damaged_document_is_refused(tmp_path: Path) -> None:
    for text in (
        "",
        "{}",
        json.dumps({"schema_version": 99}),
        json.dumps({"schema_version": 1, "rungs": [1]}),
    ):
        (tmp_path / "ladder.json").write_text(text)
        with pytest.raises(InputError, match=r"ladder|schema_version 99"):
            document.load(tmp_path / "ladder.json")


def test_the_repository_shows_one_ladder() -> None:
    """README's table and the page are what the committed result says, of the real model."""
    ladder = document.load(publish.RESULT)
    assert (ladder.checkpoint, ladder.random_weights) == ("google/embeddinggemma-300m", False)
    readme = publish.README.read_text(encoding="utf-8")
    made = publish.with_table(readme, page.readme(ladder))
    assert made == readme, "run: python -m embedding_validate.ladder.publish"
    assert publish.PAGE.read_text(encoding="utf-8") == page.page(ladder)


def test_readme_without_its_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="put the marks"):
        publish.with_table("# A\n", "table")
