"""fastembed as a peer of the comparison: a bundle's folder as one of its custom models.

Runs in an environment of its own (fastembed.txt). The bundle is laid out as fastembed expects; its graph's
output `sentence_embedding` is taken as it is, and fastembed normalises it. Serves `fastembed-fp32` and
`fastembed-int8`, for the bundle's graphs of these precisions.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedding_validate.compare.measure.protocol import Ids, Run, serve

FILES = {"fastembed-fp32": "onnx/model.onnx", "fastembed-int8": "onnx/model_int8.onnx"}


def open_as(kind: str) -> Callable[[dict[str, Any]], Callable[[], Run]]:
    """How to open one of the kinds."""

    def prepare(spec: dict[str, Any]) -> Callable[[], Run]:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType
        from fastembed.common.onnx_model import OnnxOutputContext

        if not (Path(spec["bundle"]) / FILES[kind]).exists():
            raise SystemExit(f"the bundle has no {FILES[kind]}")
        TextEmbedding.add_custom_model(
            model=kind,
            pooling=PoolingType.DISABLED,
            normalization=True,
            sources=ModelSource(hf=kind),
            dim=spec["dim"],
            model_file=FILES[kind],
            output_name="sentence_embedding",
        )

        def load() -> Run:
            model: Any = TextEmbedding(
                kind, threads=spec["threads"], specific_model_path=spec["bundle"]
            ).model

            def run(ids: Ids) -> np.ndarray[Any, np.dtype[np.float32]]:
                mask = np.ones_like(ids)
                output = model._run_model({"input_ids": ids, "attention_mask": mask}, model.ONNX_OUTPUT_NAMES)
                return np.array(list(model._post_process_onnx_output(OnnxOutputContext(output, mask, ids))))

            return run

        return load

    return prepare


if __name__ == "__main__":
    sys.exit(serve({kind: open_as(kind) for kind in FILES}))
