"""`--audit` of packages: MediaPipe and LiteRT-LM themselves read the texts and run the graphs.

They are in the packages extra; `make test-packages` installs them and sentencepiece.
"""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import standin
import torch
from conftest import assumed
from sentencepiece_model import sentencepiece_model

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions, Package
from embedding_export.packages import task
from embedding_export.pipeline import export_bundle
from embedding_validate.cli import main

pytestmark = pytest.mark.packages
for client in ("ai_edge_litert", "mediapipe", "litert_lm", "litert_lm_builder", "sentencepiece"):
    pytest.importorskip(client, reason="needs the packages extra and sentencepiece (`make test-packages`)")

Captured = pytest.CaptureFixture[str]
TEXTS = (
    "wind\nHow deep is the well? And how far is it to the sea from here?\n東京 🙂 <bos>\n"
    + "How deep is the well? " * 4
    + "\n"
    + "How deep is the well? " * 20
)


@pytest.fixture(scope="module")
def packages(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's LiteRT files with packages of each; the checkpoint has a SentencePiece model."""
    folder = tmp_path_factory.mktemp("packages")
    checkpoint = Path(shutil.copytree(tiny_checkpoint, folder / "checkpoint"))
    (checkpoint / "tokenizer.model").write_bytes(sentencepiece_model(checkpoint / "tokenizer.json"))
    kinds: tuple[Package, ...] = ("task", "litertlm")
    options = ExportOptions(("fp32", "int8", "int8_q4", "mixed"), ("litert",), (16, 64), packages=kinds)
    export_bundle(load_checkpoint(checkpoint), folder / "bundle", options, assumed)
    return folder / "bundle" / "litert"


def audit(file: Path, reference: Path, *options: str) -> int:
    torch.set_num_threads(1)
    texts = file.parent.parent / "texts.txt"
    texts.write_text(TEXTS, encoding="utf-8")
    return main(["--audit", str(file), "--reference", str(reference), "--texts", str(texts), *options])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8_q4", "mixed"])
@pytest.mark.parametrize("kind", ["task", "litertlm"])
def test_the_vendors_client_gives_the_references_vectors(
    packages: Path, tiny_checkpoint: Path, kind: str, precision: str, capsys: Captured
) -> None:
    file, before = packages / f"model_{precision}.{kind}", sorted(packages.iterdir())
    assert audit(file, tiny_checkpoint, "--json") == 0
    assert sorted(packages.iterdir()) == before, "an audit writes nothing"
    said = capsys.readouterr()
    graph = json.loads(said.out)["graphs"][f"litert/{precision}"]
    assert graph["status"] == "passed" and graph["texts"] == 11
    assert "makes token ids of the texts by the package's own tokenizer" in said.err
    assert "11 of 15 texts were compared: the others have more than the 64 tokens" in said.err


def test_a_tokenizer_json_where_there_is_no_sentencepiece_model(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    options = ExportOptions(("int8",), ("litert",), (64,), packages=("litertlm",))
    export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "bundle", options, assumed)
    # A control token in a text is one to that tokenizer; the reference's texts have it as text.
    assert audit(tmp_path / "bundle" / "litert" / "model_int8.litertlm", tiny_checkpoint) == 1
    said = capsys.readouterr().err
    assert "'line-3/document', alone" in said and "'line-1" not in said and "'line-2" not in said


@pytest.mark.parametrize("kind", ["task", "litertlm"])
def test_another_checkpoints_package_fails(
    packages: Path, tmp_path: Path, kind: str, capsys: Captured
) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=5))
    assert audit(packages / f"model_int8.{kind}", tmp_path / "other") == 1
    assert "litert/int8: FAILED" in capsys.readouterr().err


def test_what_a_client_does_not_survive_is_told(
    packages: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with zipfile.ZipFile(packages / "model_int8.task") as archive:
        graph = archive.read(task.GRAPH)
    for name, members in {
        "no_tokenizer.task": {task.GRAPH: graph},
        "broken_tokenizer.task": {task.GRAPH: graph, task.TOKENIZER: b"\n"},
        "no_graph.task": {task.TOKENIZER: b"\n"},
    }.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    (folder / "text.task").write_text("no zip")
    (folder / "text.litertlm").write_text("no package")
    (folder / "cut.litertlm").write_bytes((packages / "model_int8.litertlm").read_bytes()[:20_000])
    for name, message in (
        ("none.task", "There is no file"),
        ("text.task", "MediaPipe's packages are zip files"),
        ("no_graph.task", "has no .tflite inside; it has sentencepiece.model"),
        ("no_tokenizer.task", "could not be opened by mediapipe"),
        ("broken_tokenizer.task", "its process ended with status -6"),
        ("text.litertlm", "is no .litertlm: Invalid magic number"),
        ("cut.litertlm", "none: it begins with b''"),
    ):
        assert audit(folder / name, tiny_checkpoint) in (1, 2), name
        assert message in capsys.readouterr().err, name
