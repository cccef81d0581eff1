"""A user's own texts to round by: read, recorded, used, and refused before any work where they cannot be."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import standin

from embedding_export import cli
from embedding_export.bundle.golden import MOST_TOKENS, TEXTS, golden_ids
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.composing import held_out_texts
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.weights import calibration_texts
from embedding_export.weights.sample import BUILT_IN, LEAST_TEXTS, CalibrationTexts, read_calibration
from embedding_runtime.bundle import Format, load_manifest
from embedding_runtime.errors import InputError

OWN = tuple(f"Order {n * n} of {n} crates was {word}." for n in range(20) for word in ("late", "lost"))


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("outliers") / "tiny"
    standin.write(folder, standin.Options(outliers=True))
    return load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.txt", "\n\n".join(OWN) + "\n" + OWN[0]),
        ("own.jsonl", "".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(OWN))),
        ("own.json", json.dumps(OWN)),
        ("own.csv", "id,text\n" + "".join(f'{n},"{t}"\n' for n, t in enumerate(OWN))),
    ],
)
def test_files_as_users_have_them(name: str, content: str, tmp_path: Path) -> None:
    """Each text once, and one hash whatever the form: that of the file, where that is plain lines."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    found = read_calibration(path)
    assert (found.texts, found.file) == (OWN, name)
    assert found.sha256 == hashlib.sha256("".join(f"{t}\n" for t in OWN).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("own.txt", b"", "has 0 different texts; --calibration needs 32"),
        ("own.txt", b"a\nb\n" * LEAST_TEXTS, "has 2 different texts"),
        ("own.txt", b" \n" * 50, "has 0 different texts"),
        ("own.txt", b"fine\n\xff\xfe\xfa\n", "Line 2 of .* is not valid UTF-8"),
        ("own.txt", b"PK\x03\x04 zip", "is a zip archive"),
        ("own.txt", b"id,text\n1,a\n", "--calibration, its own name says so"),
        ("own.jsonl", b'{"text": 3}\n', "Line 1 of .* Expected an object"),
        ("own.jsonl", b'{"text": "\\ud800"}\n', "Line 1 of .* lone surrogate"),
        ("own.csv", b"id,body\n1,a\n", "has the fields"),
        ("own.parquet", b"no parquet", "is not a Parquet file"),
    ],
)
def test_a_bad_file_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_calibration(tmp_path / name)


def test_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before even the checkpoint is looked for: a folder, nothing, and precisions that round by no text."""
    own = tmp_path / "own.txt"
    own.write_text("\n".join(OWN), encoding="utf-8")
    for path, others, status, said in (
        (tmp_path, [], 2, "cannot be read"),
        (tmp_path / "none.txt", [], 2, "Check the path of --calibration"),
        (own, ["--precision", "fp32,fp16"], 1, "fp32, fp16 rounds nothing by texts"),
        (own, ["--format", "litert", "--precision", "fp32"], 1, "rounds nothing by texts"),
    ):
        arguments = [str(tmp_path / "no-checkpoint"), str(tmp_path / "b"), "--calibration", str(path)]
        assert cli.main([*arguments, *others]) == status
        assert said in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["own.txt"]


def test_the_same_file_gives_the_same_bytes_and_another_others(outliers: Checkpoint, tmp_path: Path) -> None:
    own = tmp_path / "folder" / "own.txt"
    own.parent.mkdir()
    own.write_text("\n".join(OWN) + "\n", encoding="utf-8")
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    graphs = []
    for n, texts in enumerate((BUILT_IN, read_calibration(own), read_calibration(own))):
        bundle = tmp_path / f"b{n}"
        formats: tuple[Format, ...] = ("onnx", "litert")
        options = ExportOptions(("fp32", "int4"), formats, buckets=(32,), calibration=texts)
        found = export_bundle(outliers, bundle, options, "not asked")
        graphs.append({g.key: g for g in found.graphs})
        assert str(own.parent) not in (bundle / "manifest.json").read_text(encoding="utf-8")
    count = len(calibration_texts.TEXTS)
    for key in ("onnx/int4", "litert/int4"):
        built_in, first, second = (found[key] for found in graphs)
        assert built_in.variant_id != first.variant_id == second.variant_id
        assert first.recipe["calibration"] == f"{len(OWN)} texts of own.txt, SHA-256 {digest}"
        assert built_in.recipe["calibration"] == f"{count} built-in texts, SHA-256 {BUILT_IN.sha256}"
    for key in ("onnx/fp32", "litert/fp32"):
        assert graphs[0][key].variant_id == graphs[1][key].variant_id
        assert "calibration" not in graphs[1][key].recipe


def test_the_command_reads_the_file(outliers: Checkpoint, tmp_path: Path) -> None:
    """And a bundle that was made by it passes its comparison."""
    own = tmp_path / "own.csv"
    own.write_text("id,text\n" + "".join(f'{n},"{t}"\n' for n, t in enumerate(OWN)), encoding="utf-8")
    assert cli.main([str(outliers.path), str(tmp_path / "b"), "--calibration", str(own)]) == 0
    (graph,) = load_manifest(tmp_path / "b").graphs
    assert graph.recipe["calibration"].startswith(f"{len(OWN)} texts of own.csv")
    assert graph.parity.status == "passed"


def test_parts_are_weighed_by_the_same_texts(outliers: Checkpoint, tmp_path: Path) -> None:
    curves = []
    for n, texts in enumerate((BUILT_IN, CalibrationTexts(OWN, "own.txt"))):
        options = ExportOptions(target_cosine=0.9, calibration=texts)
        graph = export_bundle(outliers, tmp_path / f"b{n}", options, "not asked").graphs[0]
        assert graph.composition
        curves.append([p.estimated_cosine for p in graph.composition.curve])
    assert curves[0] != curves[1]


def test_what_compositions_are_judged_by_is_not_calibrated_on(outliers: Checkpoint) -> None:
    both = CalibrationTexts((*held_out_texts.TEXTS, *OWN), "own.txt")
    found = golden_ids(outliers, both)
    assert found.sample == golden_ids(outliers, CalibrationTexts(OWN, "own.txt")).sample
    assert found.calibration.startswith(f"{len(OWN)} of {len(both.texts)} texts of own.txt")


def test_a_long_file_is_read_here_and_there(outliers: Checkpoint) -> None:
    """No more than is good for memory and time, from its beginning to its end, and each text to its end."""
    many = CalibrationTexts(tuple(f"Text {n}: {'red planet ' * (n % 60)}" for n in range(5000)), "many.txt")
    found = golden_ids(outliers, many)
    used = found.sample[len(TEXTS) :]
    total = sum(map(len, used))
    assert 0.95 * MOST_TOKENS < total <= MOST_TOKENS
    assert found.calibration.startswith(f"{len(used)} of 5000 texts of many.txt")
    tokenizer = outliers.tokenizer.library
    numbers = [int(tokenizer.decode(list(ids)).split("Text ")[1].split(":")[0]) for ids in used]
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    assert min(gaps) > 0 and max(gaps) < 3 * 5000 / len(used) and numbers[0] < 200 and numbers[-1] > 4800
    assert golden_ids(outliers, many) == found


def test_a_long_text_is_cut_as_the_model_cuts_it(outliers: Checkpoint) -> None:
    words = " ".join(f"word{n}" for n in range(4000))
    found = golden_ids(outliers, CalibrationTexts((words,), "one.txt"))
    (ids,) = found.sample[len(TEXTS) :]
    assert len(ids) == min(outliers.max_seq_length, 2048)
    assert (ids[0], ids[-1]) == (found.bos_id, found.eos_id)
