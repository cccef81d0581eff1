"""What error messages tell users to do, done: each ends in a checkpoint or bundle with the right vectors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from advice import run_advised
from conftest import assumed
from fine_tunes import special, tuned
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder

TEXT = "Mars is the Red Planet"


def reference(folder: Path) -> SentenceTransformer:
    torch.set_num_threads(1)
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def exported(checkpoint: Path, bundle: Path) -> Any:
    export_bundle(load_checkpoint(checkpoint), bundle, ExportOptions(precisions=("fp32",)), assumed)
    with Embedder(bundle, threads=1) as embedder:
        return embedder.encode(TEXT)


def refusal(checkpoint: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint)
    return str(caught.value)


ADAPTERS: dict[str, Callable[[Any, Any], object]] = {
    "add_adapter": lambda model, config: model.add_adapter(config),
    "add_adapter of the encoder": lambda model, config: model[0].auto_model.add_adapter(config),
}


def shaken(model: SentenceTransformer) -> None:
    """LoRA matrices as training leaves them: those that begin as zeros are zeros no more."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)


@pytest.mark.parametrize("way", ADAPTERS)
@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "use_rslora": True}])
def test_an_adapter_is_merged_as_advised(
    way: str, settings: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    peft: Any = pytest.importorskip("peft")
    model = reference(tiny_checkpoint)
    plain = model.encode(TEXT)
    kind = peft.TaskType.FEATURE_EXTRACTION
    targets = ["q_proj", "v_proj", "up_proj"]
    ADAPTERS[way](model, peft.LoraConfig(task_type=kind, r=4, target_modules=targets, **settings))
    shaken(model)
    wanted = model.encode(TEXT)
    model.save_pretrained(str(tmp_path / "tuned it's"))
    message = refusal(tmp_path / "tuned it's")
    assert str(tiny_checkpoint) in message
    found = exported(run_advised(message, tmp_path), tmp_path / "bundle")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


@pytest.mark.parametrize("base", ["/home/trainer/base", "", None])
def test_an_adapter_whose_base_is_elsewhere(base: str | None, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Trained on another machine: its base is named first, and then the command works."""
    peft: Any = pytest.importorskip("peft")
    model = reference(tiny_checkpoint)
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"]))
    shaken(model)
    wanted = model.encode(TEXT)
    model.save_pretrained(str(tmp_path / "tuned"))
    file = tmp_path / "tuned" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": base}))
    message = refusal(tmp_path / "tuned")
    assert f"trained on {base or 'a model that it does not name'}, which is not here: put" in message
    assert "into adapter_config.json, as base_model_name_or_path" in message and "python" not in message
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(tiny_checkpoint)}))
    merged = run_advised(refusal(tmp_path / "tuned"), tmp_path)
    np.testing.assert_allclose(exported(merged, tmp_path / "bundle"), wanted, atol=1e-5)


def test_an_adapter_is_merged_before_saving(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where its tensors lie among the model's own: the reference itself would fill in random ones."""
    peft: Any = pytest.importorskip("peft")
    model: Any = reference(tiny_checkpoint)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model[0].auto_model, config)
    model[0].auto_model = adapted
    wanted = model.encode(TEXT)
    model.save_pretrained(str(tmp_path / "tuned"))
    advice = re.search(r"before saving, with (model\[0\].*\)), where adapted", refusal(tmp_path / "tuned"))
    assert advice
    exec(advice[1], {"model": model, "adapted": adapted})
    model.save_pretrained(str(tmp_path / "merged"))
    np.testing.assert_allclose(exported(tmp_path / "merged", tmp_path / "bundle"), wanted, atol=1e-5)


@pytest.fixture
def lowering(editable: Path, tmp_path: Path) -> Path:
    """A model with do_lower_case, loaded and saved as every fine-tune does."""
    file = editable / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": True}))
    reference(editable).save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_lost_lower_case_is_put_back_as_advised(lowering: Path, editable: Path, tmp_path: Path) -> None:
    wanted = reference(editable).encode(TEXT)
    assert np.abs(reference(lowering).encode(TEXT) - wanted).max() > 1e-3, "the reference has lost it"
    message = refusal(lowering)
    advice = re.search(r'put ("do_lower_case": true) into (sentence_bert_config\.json)', message)
    assert advice
    file = lowering / advice[2]
    file.write_text(json.dumps(json.loads(file.read_text()) | json.loads(f"{{{advice[1]}}}")))
    np.testing.assert_allclose(reference(lowering).encode(TEXT), wanted, atol=1e-5)
    np.testing.assert_allclose(exported(lowering, tmp_path / "bundle"), wanted, atol=1e-5)


def test_a_model_that_never_lowered_is_mended_as_advised(lowering: Path, tmp_path: Path) -> None:
    assert "take the Lowercase out of tokenizer.json" in refusal(lowering)
    file = lowering / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["normalizer"] = data["normalizer"]["normalizers"][-1]
    file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    wanted = reference(lowering).encode(TEXT)
    np.testing.assert_allclose(exported(lowering, tmp_path / "bundle"), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Lowercase"},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}]},
    ],
)
def test_lower_case_anywhere_in_the_tokenizer(normalizer: dict[str, Any], editable: Path) -> None:
    file = editable / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8")) | {"normalizer": normalizer}
    file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    assert "do_lower_case" in refusal(editable)


def test_a_missing_tokenizer_json_is_written_as_advised(editable: Path, tmp_path: Path) -> None:
    """The advice names the command; here it is run on a folder that has a tokenizer.json all the same."""
    (editable / "tokenizer.json").rename(editable / "kept.json")
    (editable / "tokenizer.model").write_bytes(b"\n")
    message = refusal(editable)
    (editable / "kept.json").rename(editable / "tokenizer.json")
    (editable / "tokenizer.model").unlink()
    run_advised(message, tmp_path)
    assert load_checkpoint(editable)


def as_bin(folder: Path) -> None:
    """A folder's weights as versions before 3.0.1 kept them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BINS = {
    "encoder": ("",),
    "one Dense": ("3_Dense",),
    "both Dense": ("2_Dense", "3_Dense"),
    "all": ("", "2_Dense", "3_Dense"),
}


@pytest.mark.parametrize("which", BINS)
def test_weights_as_bin_are_converted_as_advised(which: str, editable: Path, tmp_path: Path) -> None:
    wanted = reference(editable).encode(TEXT)
    for part in BINS[which]:
        as_bin(editable / part)
    message = refusal(editable)
    assert "pytorch_model.bin; expected model.safetensors" in message
    found = exported(run_advised(message, tmp_path), tmp_path / "bundle")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_encoder_in_a_folder_of_its_own_is_moved_as_advised(editable: Path, tmp_path: Path) -> None:
    """As sentence-transformers saved models before version 3."""
    wanted = reference(editable).encode(TEXT)
    own = editable / "0_Transformer"
    own.mkdir()
    for file in [p for p in editable.iterdir() if p.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            file.rename(own / file.name)
    modules = json.loads((editable / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (editable / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(reference(editable).encode(TEXT), wanted, atol=1e-6)
    found = exported(run_advised(refusal(editable), tmp_path), tmp_path / "bundle")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("key", ["extra_special_tokens", "additional_special_tokens", "pad_token"])
def test_tokens_that_the_config_alone_names_are_written_as_advised(
    key: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """transformers adds them as it reads: in tokenizer.json they are nowhere, and would be plain text."""
    text = "[E1] Aspirin [/E1] reduces fever."
    tokens = ["[E1]"] if key == "pad_token" else ["[E1]", "[/E1]"]
    folder = tuned(tiny_checkpoint, tmp_path / "tuned", special(*tokens))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        data = json.loads(file.read_text(encoding="utf-8"))
        if name == "tokenizer.json":
            data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in tokens]
        else:
            data = {n: v for n, v in data.items() if not isinstance(v, list)}
            data |= {key: tokens[0] if key == "pad_token" else tokens}
        file.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    model = reference(folder)
    ids, wanted = model.tokenizer(text)["input_ids"], model.encode(text)
    message = refusal(folder)
    assert f"tokens that tokenizer.json lacks: {', '.join(tokens)}. " in message
    run_advised(message, tmp_path)
    export_bundle(load_checkpoint(folder), tmp_path / "bundle", ExportOptions(("fp32",)), assumed)
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        assert embedder.tokenize([text])["input_ids"][0].tolist() == ids
        np.testing.assert_allclose(embedder.encode(text), wanted, atol=1e-5)
