"""A graph that another tool wrote, ready to run: the value that both formats' openers give to the audit."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedding_runtime.bundle import Format, Graph, Parity, Precision
from embedding_runtime.errors import BundleError, EngineError, InputError
from embedding_runtime.opening.integrity import sha256
from embedding_validate.runners.calls import Runner

# What opens each kind of file: its module, its distribution, and the extra that brings it.
_OPENED_BY = {
    ".onnx": ("onnx", "onnx", "export"),
    ".tflite": ("ai_edge_litert", "ai-edge-litert", "litert"),
    ".task": ("mediapipe", "mediapipe", "packages"),
    ".litertlm": ("litert_lm", "litert-lm-api", "packages"),
}
_KINDS = "an .onnx, .tflite, .task or .litertlm file"


@dataclass(frozen=True)
class Foreign:
    """How to run the graph, its name, and notes for the reader on what was done to it.

    `batches` says whether the graph takes several texts at once, `reads_text` whether its client makes token
    ids of texts by itself.
    """

    run: Runner
    graph: Graph
    path: Path
    batches: bool
    notes: tuple[str, ...] = ()
    reads_text: bool = False


@dataclass(frozen=True)
class Layout:
    """The inputs and outputs of a graph; `buckets` are the fixed lengths it runs at, if it has any."""

    format: Format
    precision: Precision
    inputs: Sequence[str]
    outputs: Sequence[str]
    buckets: tuple[int, ...] = ()


def check_file(path: Path) -> None:
    """Refuse what `--audit` cannot open, before the reference is run for it.

    Raises:
        BundleError: there is no such file.  InputError: it is of no known kind.
        EngineError: what opens it is not installed.
    """
    if not path.is_file():
        raise BundleError(f"There is no file {path}. --audit takes {_KINDS}.")
    if path.suffix not in _OPENED_BY:
        raise InputError(f"{path.name} is of no kind that --audit takes: {_KINDS}.")
    if not path.stat().st_size:
        raise BundleError(f"{path} is empty. --audit takes {_KINDS}.")
    module, distribution, extra = _OPENED_BY[path.suffix]
    if importlib.util.find_spec(module) is None:
        raise EngineError(
            f"{path.name} is opened by {distribution}, which is not installed. Install it with: "
            f"pip install 'embedding-edge[{extra}]'"
        )


def describe_file(path: Path, layout: Layout) -> Graph:
    """A manifest entry for the file, from what the file itself tells; its hash is its `variant_id`."""
    return Graph(
        format=layout.format,
        precision=layout.precision,
        recipe={},
        file=path.name,
        external_data=(),
        inputs=tuple(layout.inputs),
        outputs=tuple(layout.outputs),
        buckets=layout.buckets,
        opset=None,
        engine={"onnx": "onnxruntime", "litert": "ai-edge-litert"}[layout.format],
        engine_min_version="0",
        variant_id=sha256(path),
        golden=(),
        golden_tolerance={},
        parity=Parity("not run"),
    )
