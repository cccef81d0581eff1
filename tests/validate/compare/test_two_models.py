"""Bundles of several models side by side: accuracy is to one's own model, and none is preferred by it."""

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_runtime.tokenizers.tokenizer import open_tokenizer
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import figures, store
from embedding_validate.compare.document.document import Document, GraphEntry, ManifestVerdict, PeerEntry, Run
from embedding_validate.compare.measure import systems
from embedding_validate.compare.report import advice, page, text
from embedding_validate.measures.metrics import cosine
from embedding_validate.probes.texts import packaged

QUICK = ["--threads", "1", "--seconds", "0.05", "--rounds", "3", "--lengths", "4,64"]
NAMES = ("first onnx/fp32", "first onnx/int8", "second onnx/fp32", "second onnx/int8", "tuned onnx/int8")


@pytest.fixture(scope="module")
def checkpoints(
    tiny_checkpoint: Path, tiny_second: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """EmbeddingGemma, its successor, and one of the first's architecture with other weights."""
    tuned = tmp_path_factory.mktemp("checkpoints") / "tuned"
    standin.write(tuned, standin.Options(seed=7))
    return {"first": tiny_checkpoint, "second": tiny_second, "tuned": tuned}


@pytest.fixture(scope="module")
def bundles(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of each model; the third has only a quantized graph. Nobody has compared them with a reference."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, checkpoint in checkpoints.items():
        options = ExportOptions(("int8",) if name == "tuned" else ("fp32", "int8"), dims=(32,))
        export_bundle(load_checkpoint(checkpoint), folder / name, options, "left out by this test")
    return [folder / name for name in checkpoints]


@pytest.fixture(scope="module")
def compared(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder for all of them, with a corpus of pairs."""
    folder = tmp_path_factory.mktemp("compared")
    pairs = (("red planet", "Mars is red."), ("plants", "Roots take up water."), ("Paris", "In France."))
    (folder / "pairs.tsv").write_text("".join(f"{q}\t{d}\n" for q, d in pairs), encoding="utf-8")
    arguments = [*map(str, bundles), "--corpus", str(folder / "pairs.tsv"), "--output", str(folder / "out")]
    assert compare.main([*arguments, *QUICK]) == 0, "no graph is wrong beside another model"
    return folder / "out"


@pytest.fixture(scope="module")
def run(compared: Path) -> Run:
    (found,) = store.load(compared / "compare.json").measured
    return found


def shown(folder: Path) -> tuple[str, str]:
    """The text and the page."""
    made = [(folder / name).read_text(encoding="utf-8") for name in ("compare.md", "compare.html")]
    return made[0], html.unescape(made[1])


def test_each_graph_is_measured_against_its_own_model(run: Run, bundles: list[Path]) -> None:
    """On its own tokenizer's ids: the figures are those that its user would measure."""
    assert tuple(run.plan.systems) == NAMES
    bases = {name: f"{name.split()[0]} onnx/fp32" for name in NAMES[:4]}
    assert run.plan.bases == bases and run.plan.base == NAMES[0]
    by_hand = []
    for bundle in bundles[:2]:
        vectors = []
        for precision in ("fp32", "int8"):
            with Embedder.load(bundle, precision=precision, threads=1) as embedder:
                vectors.append(embedder.encode([t.text for t in packaged()], batch_size=1))
        by_hand.append(min(map(cosine, *vectors)))
    found = {o.system: o.accuracy for o in run.openings}
    for name, expected in zip(("first", "second"), by_hand, strict=True):
        base, quantized = (found[f"{name} onnx/{precision}"] for precision in ("fp32", "int8"))
        assert base is not None and base.minimum == pytest.approx(1)
        assert (
            quantized is not None and quantized.minimum == pytest.approx(expected, abs=2e-3) and expected < 1
        )
    assert found["tuned onnx/int8"] is None
    assert [figures.cosine(run, name) is None for name in NAMES] == [False] * 4 + [True]


def test_what_has_no_base_says_so(run: Run, compared: Path) -> None:
    as_text, as_page = shown(compared)
    (row,) = re.findall(r"^\| tuned onnx/int8 \|.* \| not run \|$", as_text, re.M)
    assert row.split(" | ")[-2] == "no base"
    assert re.findall(r"<td>no base</td>", as_page) == ["<td>no base</td>"]
    for said in (as_text, as_page):
        assert "the most exact of the same model (first onnx/fp32, second onnx/fp32; no base" in said
        assert "not the same model" not in said and "(wrong)" not in said
    assert (
        "tuned onnx/int8 " in as_page and "unknown" in as_page and "Dashed: nothing of its model" in as_page
    )
    data = json.loads((compared / "compare.json").read_text(encoding="utf-8"))["runs"][0]
    assert "tuned onnx/int8" not in data["plan"]["bases"]


def test_advice_is_for_each_model(run: Run, compared: Path) -> None:
    """Its own words for each, and no graph is left out for another model's."""
    said = advice.recommendation(run)
    assert said[0].startswith("3 models are compared here: ") and "their vectors cannot" in said[0]
    for folder in ("first", "second", "tuned"):
        own = [line for line in said[1:] if f"({folder}), " in line]
        assert own and all(f" take {folder} onnx/" in line for line in own), "of this model alone"
        slow = tuple(
            replace(c, median_ms=1e3 * c.median_ms) if c.system.startswith(folder) and c.median_ms else c
            for c in run.cases
        )
        coarse = replace(run, openings=_coarse(run, folder), systems=_passed(run))
        for changed in (replace(run, cases=slow), coarse):
            assert not any(figures.wrong(changed, name) for name in NAMES)
            words = [re.sub(r"take .*", "", line) for line in advice.recommendation(changed)]
            assert any(f"({folder}), " in line for line in words), "however slow or coarse it is"
    assert all(line in part for part in shown(compared) for line in said)


def _coarse(run: Run, folder: str) -> Any:
    """The openings, with vectors of one model that are far from its own base's."""
    far = [
        replace(o, accuracy=replace(o.accuracy, minimum=0.9, mean=0.95))
        if o.system.startswith(folder) and o.accuracy
        else o
        for o in run.openings
    ]
    return tuple(far)


def _passed(run: Run) -> Any:
    verdict = ManifestVerdict("manifest.json", "passed", None, 9, 0.99, 0.01)
    return tuple(replace(e, parity=verdict) for e in run.systems if isinstance(e, GraphEntry))


def test_a_front_is_of_one_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that another model's beats in everything is the best of its own."""
    monkeypatch.setattr(page, "_kind", lambda _run, _name: "good")
    dots = [(name, 10.0 - i, 10.0 - i) for i, name in enumerate(NAMES)]
    assert page._front(run, dots) == {NAMES[1], NAMES[3], NAMES[4]}


def test_bounds_are_those_of_its_own_weights(run: Run) -> None:
    """A stand-in beside real weights does not loosen theirs, nor is it held to them."""
    real = [replace(b, random_weights=b.path.endswith("second")) for b in run.bundles]
    changed = replace(run, bundles=tuple(real))
    assert [figures._random_weights(changed, name) for name in NAMES] == [False, False, True, True, False]


def test_a_wrong_graph_is_wrong_beside_its_own_model(run: Run) -> None:
    changed = replace(run, openings=_coarse(run, "second"))
    words = {name: figures.wrong(changed, name) for name in NAMES}
    assert "to second onnx/fp32" in (words.pop("second onnx/int8") or "")
    assert words.pop("second onnx/fp32")  # it too was moved by hand
    assert set(words.values()) == {None}


def test_the_corpus_too_is_scored_against_ones_own(run: Run, compared: Path) -> None:
    found = run.corpus
    assert found is not None and not found.failures
    assert found.bases == {name: f"{name.split()[0]} onnx/fp32" for name in NAMES[:4]} | {NAMES[4]: NAMES[4]}
    rows = {(r.system, r.dim, r.vector_precision): r for r in found.rows}
    for name in NAMES:
        whole = max(r.dim for r in found.rows if r.system == name)
        shift = rows[name, whole, "float32"].shift_most
        assert shift is not None and (shift == 0 if found.bases[name] == name else 0 < shift < 0.2)
        assert {dim for system, dim, _ in rows if system == name} == {whole, 32}
        assert (f"{name}, dim {whole}" in found.changed) == (found.bases[name] != name)
    assert all(
        "Against the most exact of the same model (first onnx/fp32" in part for part in shown(compared)
    )


def test_older_results_of_several_models(run: Run) -> None:
    """They hold cosines to another model's vectors, which are not shown and make nothing wrong."""
    openings = replace(run, openings=_coarse(run, "second")).openings
    older = replace(run, plan=replace(run.plan, bases=None), openings=openings)
    assert [figures.base(older, name) for name in NAMES] == [NAMES[0]] * 2 + [None] * 3
    assert figures.accuracy_cell(older, "second onnx/int8") == "no base"
    assert all(figures.wrong(older, name) is None for name in NAMES)
    assert "not the same model" not in text.markdown(Document((older,)))


def test_texts_are_read_by_each_models_own_tokenizer(bundles: list[Path], tmp_path: Path) -> None:
    read = [systems.read_bundles([bundle])[0] for bundle in bundles]
    twice = [replace(b, prefix=f"{b.path.name}{again} ") for b in read for again in ("", "2")]
    texts = systems.accuracy_texts(systems.of_bundles(twice, None, tmp_path), twice, ())
    assert set(texts) == {"first onnx/fp32", "second onnx/fp32", "tuned onnx/int8"}
    for bundle, base in zip(bundles, texts, strict=True):
        opened = open_tokenizer(bundle, load_manifest(bundle).tokenizer, verify=False)
        assert set(texts[base]) == {tuple(map(int, opened.encode(t.text, 256))) for t in packaged()}
    assert set(texts["first onnx/fp32"]) != set(texts["tuned onnx/int8"]), "their tokenizers differ"


def test_one_model_is_measured_as_ever(bundles: list[Path], tmp_path: Path) -> None:
    """Two bundles of one space are one model."""
    read = systems.read_bundles([bundles[0]])
    twice = [replace(read[0], prefix="a "), replace(read[0], prefix="b ")]
    candidates = systems.of_bundles(twice, None, tmp_path)
    assert set(systems.accuracy_bases(candidates, twice).values()) == {"a onnx/fp32"}
    alone = systems.of_bundles(systems.read_bundles([bundles[2]]), None, tmp_path)
    assert systems.accuracy_bases(alone, systems.read_bundles([bundles[2]])) == {"onnx/int8": "onnx/int8"}


def _beside_pytorch(bundles: list[Path], checkpoint: Path, folder: Path) -> Run:
    """A run with a reference and a peer, which does not run."""
    (folder / "peer.py").write_text("raise SystemExit('it does not run')")
    asked = [*map(str, bundles), "--reference", str(checkpoint), "--output", str(folder), "--graphs"]
    peer = f"--peer=peer={sys.executable}={folder / 'peer.py'}"
    assert compare.main([*asked, "onnx/int8,onnx/fp32", peer, *QUICK[:-1], "4"]) == 0
    (run,) = store.load(folder / "compare.json").measured
    (converted,) = (e.converted for e in run.systems if isinstance(e, PeerEntry))
    weights = load_checkpoint(checkpoint).source.weights_sha256
    assert f"converted-{weights[:12]}" in converted, "kept by the checkpoint that it converts"
    return run


OF_NONE = "torch fp32 is of none of the bundles' models: no graph's accuracy is measured against it."


def test_a_reference_is_the_base_of_its_own_model(
    bundles: list[Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run = _beside_pytorch(bundles[:2], checkpoints["second"], tmp_path)
    assert run.plan.bases is not None and run.plan.bases["first onnx/int8"] == "first onnx/fp32"
    own = ("second onnx/int8", "second onnx/fp32", "peer", "torch fp32")
    assert {run.plan.bases[name] for name in own} == {"torch fp32"}
    assert (figures.cosine(run, "second onnx/fp32") or 0) > 0.99999 and OF_NONE not in shown(tmp_path)[0]


def test_a_reference_of_another_model(
    bundles: list[Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """No graph is called wrong for a checkpoint that it was not made from."""
    run = _beside_pytorch(bundles[:1], checkpoints["tuned"], tmp_path)
    assert run.plan.bases == {"onnx/fp32": "onnx/fp32", "onnx/int8": "onnx/fp32"}
    assert all(OF_NONE in said for said in shown(tmp_path))
    assert figures.accuracy_cell(run, "torch fp32") == figures.accuracy_cell(run, "peer") == "no base"
    assert not any(figures.wrong(run, name) for name in run.plan.systems)
    assert [line.partition(" ")[0] for line in advice.recommendation(run)[1:]] == ["Nobody"] * 2


def test_the_same_weights_with_other_vectors_are_another_model(
    bundles: list[Path], editable: Path, tmp_path: Path
) -> None:
    """A checkpoint whose Dense stages have another activation, say, is not what the bundle was made from."""
    read = systems.read_bundles(bundles[:1])
    assert systems.read_original(str(editable), read).bundle is read[0]
    config = editable / "2_Dense" / "config.json"
    changed = json.loads(config.read_text()) | {"activation_function": "torch.nn.modules.activation.Tanh"}
    config.write_text(json.dumps(changed))
    other = systems.read_original(str(editable), read)
    assert other.bundle is None and other.model != read[0].manifest.space_id


def test_vectors_that_are_kept_for_a_resumed_run(tmp_path: Path, run: Run) -> None:
    kept = store.Store(tmp_path, run, resume=False)
    for name in (NAMES[0], NAMES[2]):
        kept.base[name] = np.full(3, len(name), np.float32)
    kept.keep_base()
    again = store.Store(tmp_path, run, resume=True).base
    assert {name: again[name].tolist() for name in again} == {n: [len(n)] * 3 for n in (NAMES[0], NAMES[2])}


def test_bundles_whose_vocabularies_differ(
    bundles: list[Path], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Times are taken with ids that every model has, PyTorch's included; texts are each tokenizer's own."""
    trimmed, folder = tmp_path / "trimmed", tmp_path / "out"
    options = ExportOptions(("fp32", "int8"), alphabet="ascii")
    export_bundle(load_checkpoint(checkpoints["first"]), trimmed, options, "left out by this test")
    own, whole = (load_manifest(f).architecture.vocab_size for f in (trimmed, bundles[0]))
    assert own < whole
    asked = [str(bundles[0]), str(trimmed), "--reference", str(checkpoints["first"]), "--graphs", "onnx/int8"]
    assert compare.main([*asked, "--output", str(folder), *QUICK[:-1], "64,256"]) == 0
    (run,) = store.load(folder / "compare.json").measured
    assert [c.status for c in run.cases] == ["measured"] * 6
    assert {json.loads(c.command[-1])["vocab_size"] for c in run.cases} == {own}
    read = systems.read_bundles([bundles[0]])
    original = systems.read_original(str(checkpoints["first"]), read)
    assert systems.shared_vocab_size(read, replace(original, vocab_size=7)) == 7
    assert systems.shared_vocab_size(read, original) == systems.shared_vocab_size(read, None) == whole
