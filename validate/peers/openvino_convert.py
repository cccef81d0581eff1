"""Converts a checkpoint for `openvino_worker`: PyTorch traced, weights compressed by NNCF where asked.

python openvino_convert.py CHECKPOINT openvino-int8|openvino-fp32 FILE.xml
"""

import sys
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch


class Whole(torch.nn.Module):
    """sentence-transformers' stages as one module with masks of any length, which tracing can follow."""

    def __init__(self, checkpoint: str) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__()
        model: Any = SentenceTransformer(checkpoint, device="cpu", model_kwargs={"dtype": torch.float32})
        self.encoder = model[0].auto_model.eval()
        self.dense = torch.nn.ModuleList(m.linear for m in model if hasattr(m, "linear"))
        self.window = model[0].auto_model.config.sliding_window - 1

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D) of ids and mask (B, S)."""
        at = torch.arange(input_ids.shape[1])
        near = (at[:, None] - at[None, :]).abs() <= self.window
        real = (attention_mask[:, None, None, :] > 0).expand(-1, 1, input_ids.shape[1], -1)
        masks = {"full_attention": _additive(real), "sliding_attention": _additive(real & near)}
        states = self.encoder(input_ids=input_ids, attention_mask=masks, use_cache=False).last_hidden_state
        weights = attention_mask[:, :, None].to(states.dtype)
        vector = (states * weights).sum(1) / weights.sum(1)
        for linear in self.dense:
            vector = linear(vector)
        return torch.nn.functional.normalize(vector, dim=-1)


def _additive(allowed: torch.Tensor) -> torch.Tensor:
    return torch.where(allowed, torch.tensor(0.0), torch.tensor(-3e4))


def convert(checkpoint: str, kind: str, path: Path) -> None:
    """Write FILE.xml and its weights beside it."""
    ids = torch.randint(5, 100, (2, 7))
    with torch.inference_mode():
        model = openvino.convert_model(
            Whole(checkpoint), example_input={"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        )
    if kind == "openvino-int8":
        model = nncf.compress_weights(model)
    openvino.save_model(model, path, compress_to_fp16=False)


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
