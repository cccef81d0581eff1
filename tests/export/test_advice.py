"""What error messages tell users to do, done: each ends in a checkpoint or bundle with the right vectors."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assumed
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


def with_adapter(model: SentenceTransformer) -> None:
    """LoRA matrices as training leaves them: those that begin as zeros are zeros no more."""
    peft: Any = pytest.importorskip("peft")
    kind = peft.TaskType.FEATURE_EXTRACTION
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(task_type=kind, r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)


def test_an_adapter_is_merged_as_advised(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = reference(tiny_checkpoint)
    plain = model.encode(TEXT)
    with_adapter(model)
    wanted = model.encode(TEXT)
    model.save_pretrained(str(tmp_path / "tuned"))
    message = refusal(tmp_path / "tuned")
    advice = re.search(r"installed: (.*) and export", message)
    assert advice and str(tiny_checkpoint) in message
    imports = (
        "from peft import PeftModel; from transformers import AutoModel; "
        "from sentence_transformers import SentenceTransformer; "
    )
    code = imports + advice[1].replace("NEW_FOLDER", repr(str(tmp_path / "merged")))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found = exported(tmp_path / "merged", tmp_path / "bundle")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


def test_an_adapter_without_a_base_is_refused(tiny_checkpoint: Path, tmp_path: Path, editable: Path) -> None:
    (editable / "adapter_config.json").write_text("{}")
    assert "AutoModel.from_pretrained('BASE'" in refusal(editable)


def test_an_adapter_is_merged_before_saving(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The advice where adapter's tensors lie among the model's own."""
    peft: Any = pytest.importorskip("peft")
    model: Any = reference(tiny_checkpoint)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model[0].model = peft.get_peft_model(model[0].model, config)
    wanted = model.encode(TEXT)
    model[0].model = model[0].model.merge_and_unload()
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


def test_a_missing_tokenizer_json_is_written_as_advised(editable: Path) -> None:
    """The advice names the call; here it is made on a folder that has a tokenizer.json all the same."""
    (editable / "tokenizer.json").rename(editable / "kept.json")
    (editable / "tokenizer.model").write_bytes(b"\n")
    message = refusal(editable)
    (editable / "kept.json").rename(editable / "tokenizer.json")
    (editable / "tokenizer.model").unlink()
    call = re.search(r"installed: (.*)$", message)
    assert call
    code = f"from transformers import AutoTokenizer; CHECKPOINT = {str(editable)!r}; {call[1]}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert load_checkpoint(editable)
