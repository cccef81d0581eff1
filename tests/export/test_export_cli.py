"""`export-embedding` as a user meets it: what it writes, what it refuses, and what it leaves behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
from edits import change

from embedding_export import cli
from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import AuditError
from embedding_export.pipeline import Gate
from embedding_runtime import Embedder
from embedding_runtime.bundle import Parity, load_manifest
from embedding_runtime.errors import ParityWarning

COMMAND = [sys.executable, "-c", "import sys; from embedding_export.cli import main; sys.exit(main())"]
REFUSING: Gate = lambda _: {"onnx/fp32": Parity("failed", "planted")}  # noqa: E731


@pytest.fixture(autouse=True)
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about files; parity has tests of its own."""
    monkeypatch.setattr(cli, "_gate", lambda _: "left out by this test")


@pytest.fixture
def export(tiny_checkpoint: Path) -> Callable[..., int]:
    return lambda *arguments: cli.main([str(tiny_checkpoint), *map(str, arguments), "--precision", "fp32"])


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_bundle_says_what_it_is(
    export: Callable[..., int], tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bundle"
    assert export(target, "--json", "--dims", "32,16") == 0
    printed = json.loads(capsys.readouterr().out)
    manifest = load_manifest(target)
    assert printed["space_id"] == manifest.space_id
    assert printed["graphs"][0]["parity"]["status"] == "not run"
    assert manifest.dims == (64, 32, 16)
    assert manifest.architecture.parameters == standin_parameters(tiny_checkpoint)
    assert manifest.aliases["sentence similarity"] == "PairClassification"
    assert set(manifest.files) == set(_files(target)) - {"manifest.json"}
    config = json.loads((target / "config.json").read_text())
    assert config["transformers.js_config"] == {
        "dtype": "fp32",
        "use_external_data_format": {"model.onnx": 1},
    }
    assert "converted to inference graphs (onnx/fp32)" in (target / "NOTICE").read_text()


def test_a_graph_that_transformers_js_has_no_name_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Alone it is no default that would not be found; beside others they stay the default."""
    target = tmp_path / "bundle"
    arguments = [str(tiny_checkpoint), str(target), "--precision"]
    assert cli.main([*arguments, "int8_q4"]) == 0
    own = {"model_int8_q4.onnx": 1}
    assert _client_config(target) == {"use_external_data_format": own}
    assert cli.main([*arguments, "fp32", "--add"]) == 0
    assert _client_config(target) == {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1, **own}}


def _client_config(bundle: Path) -> Any:
    return json.loads((bundle / "config.json").read_text())["transformers.js_config"]


def standin_parameters(folder: Path) -> int:
    return sum(int(np.prod(t.shape)) for t in load_checkpoint(folder).tensors.values())


def test_without_the_reference_the_runtime_warns_once(export: Callable[..., int], tmp_path: Path) -> None:
    assert export(tmp_path / "bundle") == 0
    with pytest.warns(ParityWarning, match="left out by this test"):
        Embedder.load(tmp_path / "bundle").close()


def test_client_files_can_be_left_out(export: Callable[..., int], tmp_path: Path) -> None:
    assert export(tmp_path / "bundle", "--no-client-files") == 0
    assert not (tmp_path / "bundle" / "config.json").exists()
    with pytest.warns(ParityWarning), Embedder.load(tmp_path / "bundle") as embedder:
        assert embedder.encode("apple").shape == (64,)


def test_two_exports_give_one_space(export: Callable[..., int], tmp_path: Path) -> None:
    assert export(tmp_path / "a") == export(tmp_path / "b") == 0
    a, b = (load_manifest(tmp_path / n) for n in "ab")
    assert (a.space_id, a.graphs[0].variant_id) == (b.space_id, b.graphs[0].variant_id)
    standin.write(tmp_path / "other", standin.Options(seed=1))
    assert cli.main([str(tmp_path / "other"), str(tmp_path / "c"), "--precision", "fp32"]) == 0
    assert load_manifest(tmp_path / "c").space_id != a.space_id


def test_add_replaces_the_same_graph_and_refuses_other_weights(
    export: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bundle"
    assert export(target) == 0
    assert export(target, "--add") == 0
    assert [g.key for g in load_manifest(target).graphs] == ["onnx/fp32"]
    before = _files(target)
    standin.write(tmp_path / "other", standin.Options(seed=1))
    assert cli.main([str(tmp_path / "other"), str(target), "--add", "--precision", "fp32"]) == 1
    assert "made from other weights" in capsys.readouterr().err
    assert _files(target) == before


@pytest.mark.parametrize(
    ("options", "changed", "said"),
    [
        (["--max-length", "64"], {}, "take texts of 2048 tokens, this export's 64. Give --max-length 2048"),
        (
            [],
            {"1_Pooling/config.json": {"include_prompt": False}},
            "differ from this export in include_prompt",
        ),
        (
            [],
            {"sentence_bert_config.json": {"do_lower_case": True}},
            "in do_lower_case: they would give other",
        ),
        (
            [],
            {"2_Dense/config.json": {"activation_function": "torch.nn.modules.activation.Tanh"}},
            "in stages",
        ),
    ],
)
def test_add_refuses_what_computes_something_else(
    export: Callable[..., int],
    editable: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    changed: dict[str, Any],
    said: str,
) -> None:
    """The same weights, and other vectors: graphs of one bundle are one model."""
    target = tmp_path / "bundle"
    assert export(target) == 0
    before = _files(target)
    for name, values in changed.items():
        change(editable / name, values)
    assert cli.main([str(editable), str(target), "--add", "--precision", "fp16", *options]) == 1
    assert said in capsys.readouterr().err
    assert _files(target) == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere", "bundle"], 2, "No such folder: nowhere"),
        (["CHECKPOINT", "taken"], 1, "exists already"),
        (["CHECKPOINT", "photos", "--overwrite"], 1, "is not a bundle"),
        (["CHECKPOINT", "bundle", "--add"], 1, "no bundle at"),
        (["CHECKPOINT", "taken", "--add"], 2, "taken/manifest.json has schema_version None"),
        (["CHECKPOINT", "bundle", "--dims", "65"], 1, "have 64 components"),
        (["CHECKPOINT", "file/bundle"], 1, "Cannot write beside"),
    ],
)
def test_bad_input_is_named_and_nothing_is_lost(
    arguments: list[str],
    status: int,
    said: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("taken", "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("x")
    (tmp_path / "taken" / "manifest.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    before = _files(tmp_path)
    named = [str(tiny_checkpoint) if a == "CHECKPOINT" else a for a in arguments]
    assert cli.main(named) == status
    assert said in capsys.readouterr().err
    assert _files(tmp_path) == before


@pytest.mark.parametrize("arguments", [["a"], ["a", "b", "--precision", "int3"], ["a", "b", "--dims", "x"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2


def test_a_failed_bundle_is_kept_when_asked(
    export: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "_gate", lambda _: REFUSING)
    assert export(tmp_path / "bundle", "--keep-failed", tmp_path / "failed") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["failed"]
    assert load_manifest(tmp_path / "failed").graphs[0].parity.status == "failed"
    before = _files(tmp_path)
    assert export(tmp_path / "bundle", "--keep-failed", tmp_path / "failed") == 1
    assert "failed exists already" in capsys.readouterr().err and _files(tmp_path) == before


def test_a_failed_overwrite_keeps_the_old_bundle(
    export: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(tmp_path / "bundle") == 0
    before = _files(tmp_path)
    monkeypatch.setattr(cli, "_gate", lambda _: REFUSING)
    assert export(tmp_path / "bundle", "--overwrite") == 1
    assert export(tmp_path / "bundle", "--add") == 1
    assert _files(tmp_path) == before


def test_a_failed_audit_is_exit_status_1(
    export: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise AuditError("planted")

    monkeypatch.setattr(graphs, "audit_graph", refuse)
    assert export(tmp_path / "bundle") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A real failing write: the system allows this process no file beyond 1 MB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [*COMMAND, str(tiny_checkpoint), str(tmp_path / "bundle")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_export_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, sent: int) -> None:
    running = subprocess.Popen(
        [*COMMAND, str(tiny_checkpoint), str(tmp_path / "bundle")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stderr
    for line in running.stderr:  # the temporary folder is there by now
        if line.startswith("comparing"):
            break
    time.sleep(0.2)
    running.send_signal(sent)
    rest = running.stderr.read()
    assert running.wait() == 130, rest
    assert "interrupted, nothing was written" in rest
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert cli.main([str(broken), str(tmp_path / "bundle")]) == 2
    assert not (tmp_path / "bundle").exists()
