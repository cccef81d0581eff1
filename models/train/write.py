"""Writes a trained encoder as a checkpoint folder in EmbeddingGemma's layout, weights in bfloat16.

Knows nothing of training. The JSON files are those of the stand-ins, in the layout that
sentence-transformers 6.2 writes.
"""

import json
import shutil
from pathlib import Path

import standin_config
import torch
from safetensors.torch import save_file
from standin_weights import Shape

from train.encoder import Encoder


def write(encoder: Encoder, shape: Shape, tokenizer: Path, out: Path) -> None:
    """Write the checkpoint to `out`, replacing the files of an earlier one and leaving others alone."""
    for stage, _ in standin_config.STAGES:
        (out / stage).mkdir(parents=True, exist_ok=True)
    for name, document in standin_config.documents(shape, "transformers-5", "bfloat16").items():
        content = document | {"do_lower_case": True} if name == "sentence_bert_config.json" else document
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (out / name).write_text(text, encoding="utf-8")
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    tensors = {
        name: value.to(torch.bfloat16).contiguous() for name, value in encoder.encoder.state_dict().items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for folder, linear in (("2_Dense", encoder.wide), ("3_Dense", encoder.narrow)):
        weight = linear.weight.detach().to(torch.bfloat16).contiguous()
        save_file({"linear.weight": weight}, out / folder / "model.safetensors", metadata={"format": "pt"})
