"""Packages for MediaPipe and LiteRT-LM: what is inside runs as the bundle's LiteRT file, bit for bit.

What the vendors' own clients make of them is in `tests/validate/audit/test_vendors_clients`.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assumed
from edits import change
from numpy.typing import NDArray

from embedding_export.bundle.packages import package
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.cli import main
from embedding_export.errors import ExportError
from embedding_export.litert.file import ALIGNMENT
from embedding_export.options import ExportOptions
from embedding_export.packages import task
from embedding_export.packages.signatures import read_source, write_text_encoder, write_token_embedder
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import BundleGraph, load_manifest
from embedding_runtime.opening.integrity import sha256

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
BUCKETS = (16, 64, 1024)
OPTIONS = ExportOptions(("int8", "mixed"), ("litert",), BUCKETS, packages=("task",))


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    checkpoint = Path(shutil.copytree(tiny_checkpoint, folder / "checkpoint"))
    (checkpoint / "tokenizer.model").write_bytes(b"not ours to read")
    export_bundle(load_checkpoint(checkpoint), folder / "bundle", OPTIONS, assumed)
    return folder / "bundle"


def run(path: Path, values: NDArray[Any], signature: str | None = None) -> NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    opened: Any = Interpreter(model_path=str(path))
    if signature:
        (vector,) = opened.get_signature_runner(signature)(embeddings=values).values()
    else:
        opened.allocate_tensors()
        opened.set_tensor(opened.get_input_details()[0]["index"], values)
        opened.invoke()
        vector = opened.get_tensor(opened.get_output_details()[0]["index"])
    return np.array(vector, np.float32)


def cases(graph: BundleGraph) -> list[tuple[int, NDArray[np.int32], NDArray[np.float32]]]:
    """Bucket, ids [1, S] and vector (dim,) of each case of a graph's conformance file."""
    path = graph.folder / graph.graph.file
    document = json.loads(path.with_name(f"{path.stem}_conformance.json").read_text(encoding="utf-8"))
    found = []
    for case in document["cases"]:
        ids = np.zeros((1, case["bucket"]), np.int32)
        ids[0, : len(case["ids"])] = case["ids"]
        found.append((case["bucket"], ids, np.array(case["vector"], np.float32)))
    return found


def graphs(bundle: Path) -> list[BundleGraph]:
    manifest = load_manifest(bundle)
    return [BundleGraph(bundle, manifest, graph) for graph in manifest.graphs]


def test_a_task_runs_as_the_graph_that_it_is_made_of(bundle: Path, tmp_path: Path) -> None:
    for graph in graphs(bundle):
        out = package(bundle / graph.graph.file, "task")
        with zipfile.ZipFile(out) as archive:
            assert archive.read(task.TOKENIZER) == b"not ours to read"
            for member in archive.infolist():
                assert member.compress_type == zipfile.ZIP_STORED
                begins = out.read_bytes().index(archive.read(member)[:64], member.header_offset)
                assert begins % ALIGNMENT == 0
            archive.extract(task.GRAPH, tmp_path)
        of_64 = [(ids, vector) for size, ids, vector in cases(graph) if size == 64]
        assert of_64
        for ids, vector in of_64:
            np.testing.assert_array_equal(run(tmp_path / task.GRAPH, ids)[0], vector)


def test_a_text_encoder_runs_as_the_graph_that_it_is_made_of(bundle: Path, tmp_path: Path) -> None:
    embedder, encoder = tmp_path / "embedder.tflite", tmp_path / "encoder.tflite"
    with (tmp_path / "scratch").open("w+b") as scratch:
        write_token_embedder(embedder, scratch)
    for token in (0, 1, 262_143):
        assert run(embedder, np.array([[token]], np.int32)).tolist() == [[[token]]]
    for graph in graphs(bundle):
        write_text_encoder(read_source(bundle / graph.graph.file), encoder, BUCKETS)
        found = cases(graph)
        assert {size for size, _, _ in found} == set(BUCKETS)
        for size, ids, vector in found:
            rows = ids.astype(np.float32)[:, :, None]
            np.testing.assert_array_equal(run(encoder, rows, f"encoder_{size}")[0], vector)


def test_packages_are_files_of_the_bundle(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    for name in ("litert/model_int8.task", "litert/model_mixed.task"):
        assert manifest.files[name].sha256 == sha256(bundle / name)


def test_a_graph_that_is_replaced_takes_its_packages_along(
    bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    options = ExportOptions(("int8",), ("litert",), (16,), existing="extend")
    export_bundle(load_checkpoint(tiny_checkpoint), copy, options, assumed)
    assert {path.name for path in (copy / "litert").glob("*.task")} == {"model_mixed.task"}


@pytest.mark.parametrize(
    ("buckets", "length"), [((32, 64, 512, 2048), 512), ((1024, 2048), 1024), ((256,), 256)]
)
def test_the_length_of_a_task(buckets: tuple[int, ...], length: int) -> None:
    assert task.task_length(buckets) == length


def test_what_the_clients_would_read_otherwise_is_refused(editable: Path, tmp_path: Path) -> None:
    def export(*packages: Any, formats: Any = ("litert",), alphabet: str | None = None) -> None:
        options = ExportOptions(("int8",), formats, (16,), packages=packages, alphabet=alphabet)
        export_bundle(load_checkpoint(editable), tmp_path / "bundle", options, assumed)

    with pytest.raises(ExportError, match="Add --format litert"):
        export("task", formats=("onnx",))
    with pytest.raises(ExportError, match=r"has no tokenizer\.model"):
        export("task")
    (editable / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(ExportError, match=r"is trimmed, and tokenizer\.model is not"):
        export("task", alphabet="latin")
    change(editable / "sentence_bert_config.json", {"do_lower_case": True})
    with pytest.raises(ExportError, match="reads texts in lower case"):
        export("task")
    assert not (tmp_path / "bundle").exists()


def test_the_command_takes_packages_as_formats(
    editable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (editable / "tokenizer.model").write_bytes(b"\n")
    command = [str(editable), str(tmp_path / "bundle"), "--format", "litert,task", "--buckets", "16,64"]
    assert main(command) == 0
    assert (tmp_path / "bundle" / "litert" / "model_int8.task").is_file()
    assert "wrote model_int8.task, for up to 64 tokens, of model_int8.tflite" in capsys.readouterr().err
