"""sentence-transformers' own ONNX backend as a peer of the comparison; optimum exports the files it runs.

Runs in an environment of its own (optimum.txt) and serves `st-onnx-fp32` and `st-onnx-int8`, which
`export_dynamic_quantized_onnx_model` quantizes, as sentence-transformers documents it. Pooling and Dense stay
in PyTorch there. The exported files are kept in the user's cache.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedding_validate.compare.measure.protocol import Ids, Run, serve

QUANTIZATION = "avx512_vnni"
FILES = {"st-onnx-fp32": "model.onnx", "st-onnx-int8": f"model_qint8_{QUANTIZATION}.onnx"}


def open_as(kind: str) -> Callable[[dict[str, Any]], Callable[[], Run]]:
    """How to open one of the kinds; converted once, by a process of its own."""

    def prepare(spec: dict[str, Any]) -> Callable[[], Run]:
        import onnxruntime
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(spec["threads"])

        def load() -> Run:
            folder = Path(os.environ["XDG_CACHE_HOME"]) / kind
            if not (folder / "onnx" / FILES[kind]).exists():
                command = [sys.executable, __file__, "--convert", spec["checkpoint"], kind, str(folder)]
                subprocess.run(command, check=True)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = spec["threads"]
            settings = {
                "file_name": f"onnx/{FILES[kind]}",
                "provider": "CPUExecutionProvider",
                "session_options": options,
            }
            model: Any = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=settings)

            def run(ids: Ids) -> np.ndarray[Any, np.dtype[np.float32]]:
                tensor = torch.from_numpy(ids)
                with torch.inference_mode():
                    outputs = model({"input_ids": tensor, "attention_mask": torch.ones_like(tensor)})
                return np.array(outputs["sentence_embedding"].numpy())

            return run

        return load

    return prepare


def convert(checkpoint: str, kind: str, folder: Path) -> None:
    """Write the folder that one of the kinds opens, without the other's graph."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    model: Any = SentenceTransformer(checkpoint, backend="onnx", device="cpu")
    model.save_pretrained(str(folder))
    if kind == "st-onnx-int8":
        export_dynamic_quantized_onnx_model(model, QUANTIZATION, str(folder))
        for path in (folder / "onnx").glob("model.onnx*"):
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        convert(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        sys.exit(serve({kind: open_as(kind) for kind in FILES}))
