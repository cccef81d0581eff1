"""Fine-tunes as users save them: with tokens of their own, or with other stages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

Change = Callable[[Any], Any]


def tuned(source: Path, out: Path, add: Change) -> Path:
    """A fine-tune with tokens of its own, saved by sentence-transformers; their rows as if trained."""
    torch.manual_seed(0)
    model = SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    add(model.tokenizer)
    encoder: Any = model[0].auto_model
    before = encoder.get_input_embeddings().weight.shape[0]
    encoder.resize_token_embeddings(max(before, len(model.tokenizer)))
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        table[before:] = torch.randn_like(table[before:]) * table[:before].std()
    model.save_pretrained(str(out))
    return out


def special(*contents: str) -> Change:
    """Add special tokens."""
    return lambda t: t.add_special_tokens({"additional_special_tokens": list(contents)})
