"""Converts a checkpoint to LiteRT in the obvious way: traces the Hugging Face module at one length.

    python litert_naive.py CHECKPOINT TOKENS FILE.tflite

It converts without an error or a warning, but its vectors are wrong; `validate-embedding --audit` finds that.
Input int32 [1, TOKENS] right-padded with 0, output float32 [1, dim]. Needs the package's `validate` extra,
and `pip install litert-torch==0.10.0`, which has wheels for x86-64 Linux and Apple silicon.
"""

import sys
from typing import Any

import litert_torch
import torch


class Naive(torch.nn.Module):
    """sentence-transformers' stages around transformers' own encoder, which makes its own masks."""

    def __init__(self, checkpoint: str) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__()
        model: Any = SentenceTransformer(checkpoint, device="cpu", model_kwargs={"dtype": torch.float32})
        self.encoder = model[0].auto_model.eval()
        self.encoder.set_attn_implementation("eager")
        self.dense = torch.nn.ModuleList(m.linear for m in model if hasattr(m, "linear"))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Vectors (1, dim) of ids (1, S)."""
        mask = (tokens != 0).to(torch.int64)
        states = self.encoder(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        vector = (states * weights).sum(1) / weights.sum(1)
        for linear in self.dense:
            vector = linear(vector)
        return torch.nn.functional.normalize(vector, dim=-1)


def main() -> None:
    """The command."""
    checkpoint, tokens, file = sys.argv[1:]
    sample = torch.zeros(1, int(tokens), dtype=torch.int32)
    litert_torch.convert(Naive(checkpoint).eval(), (sample,)).export(file)


if __name__ == "__main__":
    main()
