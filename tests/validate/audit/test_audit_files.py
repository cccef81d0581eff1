"""`--audit`: graphs that other tools wrote, in the layouts they write, judged and diagnosed alike.

Files that other tools really wrote are in `test_audits_of_others`.
"""

import json
from pathlib import Path

import onnx
import pytest
import standin
import torch
from conftest import assumed
from onnx import TensorProto, helper

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.weights.precisions import LITERT
from embedding_runtime.bundle import load_manifest
from embedding_validate.cli import main
from embedding_validate.runners.litert_file import precision_of

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    path = tmp_path / "texts.txt"
    path.write_text(
        "wind\nHow deep is the well? And how far is it to the sea from here?\n東京 🙂\n", encoding="utf-8"
    )
    return path


def _foreign(bundle: Path, folder: Path, outputs: list[str]) -> Path:
    """The bundle's graph as another tool might have written it: one file, and only some outputs."""
    model = onnx.load(str(next((bundle / "onnx").glob("*.onnx"))))
    kept = [o for o in model.graph.output if o.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    folder.mkdir(exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def test_a_sound_file_passes(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, texts: Path, capsys: Captured
) -> None:
    file = _foreign(tiny_bundle, tmp_path / "other", ["sentence_embedding"])
    arguments = ["--audit", str(file), "--reference", str(tiny_checkpoint), "--texts", str(texts)]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["bundle"]["file"] == "model.onnx" and data["graphs"]["onnx/fp32"]["status"] == "passed"
    assert [p.name for p in file.parent.iterdir()] == ["model.onnx"], "an audit writes nothing"


def test_token_states_alone_lack_the_dense_stages(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, texts: Path, capsys: Captured
) -> None:
    """As exports of the transformer alone look, and what users then pool themselves."""
    file = _foreign(tiny_bundle, tmp_path / "other", ["last_hidden_state"])
    assert main(["--audit", str(file), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 1
    err = capsys.readouterr().err
    assert "diagnosis: all Dense stages missing (cosine to the reference" in err
    assert "it was pooled here over the mask" in err


@pytest.fixture(scope="module")
def tflite(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One length of 64 tokens, laid out as the published files are."""
    pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
    folder = tmp_path_factory.mktemp("tflite") / "bundle"
    options = ExportOptions(precisions=("int8",), formats=("litert",), litert_single=64)
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return next((folder / "litert").glob("*.tflite"))


def test_what_a_tflite_file_is_stored_as(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
    options = ExportOptions(precisions=tuple(LITERT), formats=("litert",), litert_single=16)
    export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "bundle", options, assumed)
    graphs = load_manifest(tmp_path / "bundle").graphs
    assert len(graphs) == 5
    for graph in graphs:
        assert precision_of((tmp_path / "bundle" / graph.file).read_bytes()) == graph.precision


def test_a_tflite_file_of_one_length(
    tflite: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write("How deep is the well? " * 20)
    arguments = ["--audit", str(tflite), "--reference", str(tiny_checkpoint), "--texts", str(texts)]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    graph = json.loads(captured.out)["graphs"]["litert/int8"]
    assert (graph["status"], graph["texts"]) == ("passed", 9)
    assert "9 of 12 texts were compared: the others have more than the 64 tokens" in captured.err


def test_a_tflite_file_of_another_checkpoint(
    tflite: Path, tmp_path: Path, texts: Path, capsys: Captured
) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=5))
    assert main(["--audit", str(tflite), "--reference", str(tmp_path / "other"), "--texts", str(texts)]) == 1
    assert "litert/int8: FAILED" in capsys.readouterr().err


def test_what_is_no_such_graph(tiny_checkpoint: Path, tmp_path: Path, texts: Path, capsys: Captured) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
    for suffix in ("onnx", "tflite", "bin"):
        (tmp_path / f"text.{suffix}").write_text("no graph")
    node = helper.make_node("Identity", ["pixels"], ["features"])
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("pixels", "features")]
    graph = helper.make_graph([node], "image", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(tmp_path / "image.onnx"))
    for name, message in (
        ("none.onnx", "There is no file"),
        ("text.onnx", "not an ONNX graph that can be run here"),
        ("text.tflite", "not a LiteRT file that can be run here"),
        ("text.bin", "of no kind that --audit takes: an .onnx, .tflite, .task or .litertlm file"),
        ("image.onnx", "has the outputs ['features']"),
    ):
        arguments = ["--audit", str(tmp_path / name), "--reference", str(tiny_checkpoint)]
        assert main([*arguments, "--texts", str(texts)]) == 2
        assert message in capsys.readouterr().err


def test_a_file_is_refused_before_the_reference_is_run(tmp_path: Path, capsys: Captured) -> None:
    """With the real model that takes minutes."""
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.tflite").mkdir()
    for name, message in (
        ("none.onnx", "There is no file"),
        ("folder.tflite", "There is no file"),
        ("empty.onnx", "empty.onnx is empty"),
        ("model.safetensors", "There is no file"),
    ):
        assert main(["--audit", str(tmp_path / name), "--reference", "no/such-checkpoint"]) == 2
        assert message in capsys.readouterr().err


def test_usage(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    reference = ["--reference", str(tiny_checkpoint)]
    with pytest.raises(SystemExit):
        main([str(tiny_bundle), "--audit", "x.onnx", *reference])
    with pytest.raises(SystemExit):
        main(reference)
    assert main(["--audit", "x.onnx", *reference, "--golden"]) == 2
    assert "need a bundle" in capsys.readouterr().err
