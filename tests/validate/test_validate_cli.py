"""`validate-embedding`: exit statuses, what goes to stdout and stderr, and what is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import Source
from embedding_runtime.errors import BundleError
from embedding_validate.cli import main
from embedding_validate.diagnosis import diagnosis
from embedding_validate.parity import parity
from embedding_validate.probes.probes import Probe, ProbeSet
from embedding_validate.reference import file as reference_file
from embedding_validate.reference.answers import Answer, Answers

FP32_ONLY = ExportOptions(precisions=("fp32",))
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    export_bundle(
        load_checkpoint(tiny_checkpoint),
        folder,
        FP32_ONLY,
        "checked by the test itself",
    )
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three short texts, so that a run takes no longer than it must."""
    path = tmp_path / "texts.txt"
    path.write_text("wind\nHow deep is the well?\n東京 🙂\n", encoding="utf-8")
    return path


def test_a_sound_bundle_passes_every_probe(bundle: Path, tiny_checkpoint: Path, capsys: Captured) -> None:
    assert main([str(bundle), "--reference", str(tiny_checkpoint)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "onnx/fp32: PASSED" in captured.err and "required" in captured.err
    data = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    graph = data["graphs"]["onnx/fp32"]
    assert (data["schema_version"], data["probes"], graph["status"]) == (1, "full", "passed")
    assert {c["tokens"] for c in graph["cases"]} >= {7, 8, 9, 10, 511, 512, 513, 1023, 1024, 1025, 2047, 2048}
    assert {"system", "cpu", "cpus"} <= data["machine"].keys()
    assert data["versions"]["sentence-transformers"] == "6.2.0"


def test_json_is_one_document_on_stdout(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    assert json.loads(captured.out)["probes"] == "texts"
    assert "PASSED" in captured.err


def _change(bundle: Path, **fields: Any) -> None:
    """Rewrite fields of the manifest."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def test_a_miss_is_exit_1_named_and_written(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    prompts = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["prompts"]
    _change(bundle, prompts={**prompts, "query": ""})
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 1
    err = capsys.readouterr().err
    assert "onnx/fp32: FAILED" in err and "'line-1/query', alone" in err
    assert "diagnosis: prompt missing" in err
    data = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    graph = data["graphs"]["onnx/fp32"]
    assert graph["status"] == "failed" and graph["findings"][0]["name"] == "prompt missing"


def test_a_failing_run_reads_the_manifest_once(
    bundle: Path, tiny_checkpoint: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdict and diagnosis use the manifest that the command has read, even if the file changes later."""

    def again(_: Path) -> None:
        raise AssertionError("the manifest is read again")

    prompts = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["prompts"]
    _change(bundle, prompts={**prompts, "query": ""})
    monkeypatch.setattr(parity, "load_manifest", again)
    monkeypatch.setattr(diagnosis, "load_manifest", again)
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 1


@pytest.mark.parametrize("text", ['{"graphs"', '{"schema_version": 0, "graphs": {}}'])
def test_an_unreadable_verdict_is_replaced(
    text: str, bundle: Path, tiny_checkpoint: Path, texts: Path
) -> None:
    """The runtime refuses such a bundle and says: run validate-embedding again. It must help."""
    (bundle / "parity.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match="Run validate-embedding again"):
        Embedder.load(bundle)
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 0
    with Embedder.load(bundle) as embedder:
        assert embedder.graph.key == "onnx/fp32"


def test_an_unwritable_bundle_still_shows_the_verdict(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    (bundle / "parity.json").mkdir()
    (bundle / "parity.json" / "in the way").touch()
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 1
    err = capsys.readouterr().err
    assert "error: " in err and "parity.json" in err


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def _answers_of_another(path: Path) -> None:
    """A sound reference file, of a checkpoint that no bundle here comes from."""
    answers = Answers(
        probes=ProbeSet("texts", (Probe("a", "Latin", "wind"),), (), ()),
        by_probe={"a": Answer((2, 5, 1), np.ones(64, np.float32))},
        source=Source("another", None, "0" * 64, "float32", None, ()),
        prompts={},
        default_prompt_name=None,
        similarity_fn_name="cosine",
        max_seq_length=2048,
        versions={},
    )
    reference_file.save(answers, path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{none}", "--reference", "{checkpoint}"], "is not a folder"),
        (["{bundle}", "--reference", "{none}"], "No such folder"),
        (["{bundle}", "--reference", "{bundle}"], "error: "),
        (["{bundle}", "--reference", "{checkpoint}", "--texts", "{none}"], "cannot be read"),
        (["{bundle}", "--reference", "{checkpoint}", "--texts", "{latin1}"], "not valid UTF-8"),
        (["{bundle}", "--reference", "{other}"], "that the bundle was exported from"),
        (["{bundle}", "--reference", "{none}.npz"], "There is no"),
        (["{bundle}", "--reference", "{damaged}"], "is damaged or not a reference file"),
        (["{bundle}", "--reference", "{old}"], "schema_version 0; this version reads"),
        (["{bundle}", "--reference", "{foreign}"], "that the bundle was exported from"),
        (["{bundle}", "--reference", "{damaged}", "--examples"], "--examples needs the checkpoint itself"),
        (["{bundle}", "--reference", "{checkpoint}", "--golden"], "golden figures are those of google/"),
    ],
)
def test_bad_input_is_exit_2_and_writes_nothing(
    arguments: list[str], message: str, bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "latin1.txt").write_bytes("Brücke".encode("latin-1"))
    (tmp_path / "damaged.npz").write_bytes(b"PK no zip")
    _answers_of_another(tmp_path / "foreign.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_file, "SCHEMA_VERSION", 0)
        _answers_of_another(tmp_path / "old.npz")
    standin.write(tmp_path / "other", standin.Options(seed=1))
    before = _files(bundle)
    names = {
        "none": tmp_path / "none",
        "bundle": bundle,
        "checkpoint": tiny_checkpoint,
        "latin1": tmp_path / "latin1.txt",
        "damaged": tmp_path / "damaged.npz",
        "old": tmp_path / "old.npz",
        "foreign": tmp_path / "foreign.npz",
        "other": tmp_path / "other",
    }
    assert main([a.format(**names) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err
    assert _files(bundle) == before


def test_usage_is_exit_2(bundle: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit:
        main([str(bundle)])
    assert exit.value.code == 2
    assert "--reference" in capsys.readouterr().err


def test_a_damaged_bundle_is_exit_2(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    graph = next((bundle / "onnx").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-50])
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (bundle / "parity.json").exists()


def test_examples_as_text_and_as_json(bundle: Path, tiny_checkpoint: Path, capsys: Captured) -> None:
    arguments = [str(bundle), "--reference", str(tiny_checkpoint), "--examples"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Ticket classification" in out and "plums, storing plums" in out and "Largest difference" in out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["left_out"] == [] and len(shown["words"]) == 3
    assert all(abs(r["reference"] - r["bundle"]) < 1e-5 for r in shown["rows"])
    assert not (bundle / "parity.json").exists(), "examples check nothing and write nothing"


# Runs the command where nothing but numpy and onnxruntime can be imported, as on a board.
_BARE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        heavy = "torch transformers sentence_transformers onnx safetensors huggingface_hub tokenizers tqdm"
        if name.split(".")[0] in heavy.split():
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)

sys.meta_path.insert(0, Blocked())
from embedding_validate.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_board_validates_from_a_reference_file(
    bundle: Path, tiny_checkpoint: Path, texts: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "reference.npz"
    wanted = ["--texts", str(texts), "--save", str(file), "--json"]
    assert main([str(bundle), "--reference", str(tiny_checkpoint), *wanted]) == 0
    before = json.loads(capsys.readouterr().out)
    run = subprocess.run(
        [sys.executable, "-c", _BARE, str(bundle), "--reference", str(file), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    after = json.loads(run.stdout)
    assert after["graphs"]["onnx/fp32"]["cases"] == before["graphs"]["onnx/fp32"]["cases"]
    _change(bundle, max_seq_length=100)
    assert main([str(bundle), "--reference", str(file)]) == 1
    assert "max_seq_length is 100 instead of 2048" in capsys.readouterr().err


def test_where_the_extra_is_missing_it_is_named(bundle: Path, tiny_checkpoint: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _BARE, str(bundle), "--reference", str(tiny_checkpoint)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "embedding-edge[validate]" in run.stderr and "Traceback" not in run.stderr
