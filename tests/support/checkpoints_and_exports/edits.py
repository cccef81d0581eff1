"""Changes that tests make to the files of a checkpoint, and the reference that reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

ABSENT = object()
Fields = dict[str, Any]


def change(file: Path, fields: Fields) -> None:
    """Set fields of a JSON object; ABSENT removes one."""
    values = (json.loads(file.read_text()) if file.exists() else {}) | fields
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not ABSENT}))


def change_tensors(file: Path, apply: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite a safetensors file; `apply` changes the dict of its tensors, by names without `model.`."""
    tensors = {name.removeprefix("model."): tensor.clone() for name, tensor in load_file(file).items()}
    apply(tensors)
    file.unlink()
    save_file(tensors, file)


def swap(one: Path, two: Path) -> None:
    """Exchange the contents of two files."""
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def reference(folder: Path, overrides: Fields | None = None) -> SentenceTransformer:
    """sentence-transformers on a folder, in float32, its config changed by `overrides` after reading."""
    return SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, config_kwargs=dict(overrides or {})
    )
