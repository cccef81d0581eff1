"""Writes the files that travel with the graphs: what other clients read, and the checkpoint's licence.

It copies files and states what was modified; it does not touch tensors.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedding_export.bundle import licence
from embedding_export.checkpoint.checkpoint import Checkpoint

NOTICE = "NOTICE"
# The checkpoint's card speaks of the checkpoint, so it is not the bundle's README.md.
MODEL_CARD = "MODEL_CARD.md"
_LICENCE = re.compile(r"licen[sc]e|copying", re.IGNORECASE)
# What transformers.js calls our graphs, the one to take where its user names none first. It has no name for
# int8_q4: there its user gives `model_file_name: "model_int8_q4"` and `dtype: "fp32"`, which adds nothing.
_CLIENT_DTYPES = {
    "model_int8.onnx": "int8",
    "model.onnx": "fp32",
    "model_fp16.onnx": "fp16",
    "model_q4.onnx": "q4",
}


def write_client_files(checkpoint: Checkpoint, bundle: Path, onnx_files: dict[str, Path]) -> None:
    """Copy config and tokenizer files; `onnx_files` maps a graph's path in the bundle to its external data.

    config.json gains `transformers.js_config` with two entries: `use_external_data_format` tells
    transformers.js that a graph's weights lie in `<graph>_data`; `dtype` is the graph that it takes by
    default, if it knows one. Repaired values are written as repaired. `vocab_size` is written beside the text
    model's figures.
    """
    for source in checkpoint.client_files:
        changed = checkpoint.tokenizer.client_json(source)
        if source.name == "config.json" or changed == "":
            continue
        if changed is None:
            replace_file(bundle / source.name, source)
        else:
            write_text(bundle / source.name, changed)
    config: dict[str, Any] = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    config |= checkpoint.client_config
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    text["vocab_size"] = checkpoint.config.vocab_size
    if names := sorted(Path(f).name for f in onnx_files):
        dtypes = [dtype for name, dtype in _CLIENT_DTYPES.items() if name in names]
        config["transformers.js_config"] = {
            **({"dtype": dtypes[0]} if dtypes else {}),
            "use_external_data_format": dict.fromkeys(names, 1),
        }
    write_text(bundle / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def write_notices(checkpoint: Checkpoint, bundle: Path, graphs: Iterable[str]) -> None:
    """Copy the checkpoint's licence files and model card, and state the modification, as licences require."""
    own = ""
    for file in checkpoint.license_files:
        if file.name == NOTICE:
            own = file.read_text(encoding="utf-8").rstrip() + "\n\n"
        else:
            replace_file(bundle / file.name, file)
    card, source = licence.read_card(checkpoint.path), checkpoint.source
    if card:
        replace_file(bundle / MODEL_CARD, card.path)
    has_text = any(_LICENCE.match(f.name) for f in checkpoint.license_files)
    if card and card.licence == "apache-2.0" and not has_text and (text := licence.apache_text()):
        write_text(bundle / "LICENSE", text)
    stated = licence.notice(source.name, source.revision, source.weights_sha256, card, graphs)
    write_text(bundle / NOTICE, own + stated)


def replace_file(path: Path, source: Path) -> None:
    """Copy `source` to `path` as a new file (never through a hard link to another bundle's file)."""
    path.unlink(missing_ok=True)
    shutil.copyfile(source, path)


def write_text(path: Path, text: str) -> None:
    """Write `path` as a new file (never through a hard link to another bundle's file)."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
