"""`--audit`: graphs that other tools wrote, in the layouts they write, judged and diagnosed alike."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from embedding_validate.cli import main

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


def test_what_is_no_such_graph(tiny_checkpoint: Path, tmp_path: Path, texts: Path, capsys: Captured) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    node = helper.make_node("Identity", ["pixels"], ["features"])
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("pixels", "features")]
    graph = helper.make_graph([node], "image", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(tmp_path / "image.onnx"))
    for name, message in (
        ("none.onnx", "There is no file"),
        ("text.onnx", "no ONNX graph that can be run here"),
        ("image.onnx", "has the outputs ['features']"),
    ):
        arguments = ["--audit", str(tmp_path / name), "--reference", str(tiny_checkpoint)]
        assert main([*arguments, "--texts", str(texts)]) == 2
        assert message in capsys.readouterr().err


def test_usage(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    reference = ["--reference", str(tiny_checkpoint)]
    with pytest.raises(SystemExit):
        main([str(tiny_bundle), "--audit", "x.onnx", *reference])
    with pytest.raises(SystemExit):
        main(reference)
    assert main(["--audit", "x.onnx", *reference, "--golden"]) == 2
    assert "need a bundle" in capsys.readouterr().err
