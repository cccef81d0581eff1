"""OpenVINO as a peer of the comparison; `openvino_convert` makes the files that it runs.

Runs in an environment of its own (openvino.txt) and serves `openvino-int8` (8-bit weights; the CPU plugin may
quantize activations at run time) and `openvino-fp32` (weights as they are). Settings are OpenVINO's defaults
for latency: like for its users, it may use bfloat16 where the CPU has it.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedding_validate.compare.measure.protocol import Ids, Run, serve

CONVERT = Path(__file__).with_name("openvino_convert.py")


def open_as(kind: str) -> Callable[[dict[str, Any]], Callable[[], Run]]:
    """How to open one of the kinds; converted once, by a process of its own, into the user's cache."""

    def prepare(spec: dict[str, Any]) -> Callable[[], Run]:
        import openvino  # so that loading is timed without it

        def load() -> Run:
            path = Path(os.environ["XDG_CACHE_HOME"]) / f"{kind}.xml"
            if not path.exists():
                subprocess.run([sys.executable, CONVERT, spec["checkpoint"], kind, path], check=True)
            compiled = openvino.Core().compile_model(
                path, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": spec["threads"]}
            )
            request = compiled.create_infer_request()

            def run(ids: Ids) -> np.ndarray[Any, np.dtype[np.float32]]:
                outputs = request.infer([ids, np.ones_like(ids)])
                return np.array(outputs[compiled.output(0)])

            return run

        return load

    return prepare


if __name__ == "__main__":
    sys.exit(serve({kind: open_as(kind) for kind in ("openvino-int8", "openvino-fp32")}))
