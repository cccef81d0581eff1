"""Runs a .tflite file whose signatures take ids [1, S] and give one vector, with the plain Interpreter.

The published EmbeddingGemma files keep this contract, and so do a bundle's own, with one signature per
length. The runtime opens graphs in another way (`litert_session`), so this is an independent check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Precision
from embedding_runtime.engines.litert_log import quiet
from embedding_runtime.engines.registry import engine_module
from embedding_runtime.errors import BundleError, InputError

Floats = NDArray[np.float32]
# Constants with fewer elements say nothing of a file's precision.
_WEIGHT_ELEMENTS = 1024


@dataclass(frozen=True)
class LitertFile:
    """An opened file: `runners` by length, and the names of their `inputs` and `outputs`."""

    runners: dict[int, Callable[[NDArray[np.int32]], Floats]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that it takes, ascending."""
        return tuple(sorted(self.runners))

    def vector(self, ids: Sequence[int], length: int | None = None) -> Floats:
        """The vector (dim,) of ids, right-padded with 0 to `length`, or to the smallest that holds them."""
        size = length or next(s for s in self.lengths if len(ids) <= s)
        tokens = np.zeros((1, size), np.int32)
        tokens[0, : len(ids)] = ids
        with quiet():
            return self.runners[size](tokens)


def open_file(path: Path, threads: int | None = None) -> LitertFile:
    """Open the file.

    Raises:
        EngineError: ai-edge-litert is not installed.  BundleError: it does not load the file.
        InputError: no signature takes one input int32 [1, S] and gives one output float32 [1, dim].
    """
    engine_module("litert")
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        try:
            opened: Any = Interpreter(model_path=str(path), num_threads=threads)
            opened.allocate_tensors()
            signatures = opened.get_signature_list()
        except Exception as e:  # the engine raises classes without a common base
            raise BundleError(f"{path} is not a LiteRT file that can be run here ({str(e)[:200]}).") from e
        file = _primary(opened) if not signatures else _by_signature(opened, signatures)
    if not file.runners:
        raise InputError(
            f"{path} has the inputs {list(file.inputs)} and outputs {list(file.outputs)}; this audit takes "
            "one input int32 [1, tokens] and one output float32 [1, dim]."
        )
    return file


def _by_signature(opened: Any, signatures: dict[str, dict[str, list[str]]]) -> LitertFile:
    runners: dict[int, Callable[[NDArray[np.int32]], Floats]] = {}
    names: tuple[list[str], list[str]] = ([], [])
    for key in signatures:
        runner = opened.get_signature_runner(key)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        names[0].extend(inputs)
        names[1].extend(outputs)
        if size := _length(list(inputs.values()), list(outputs.values())):
            runners[size] = _called(runner, next(iter(inputs)), next(iter(outputs)))
    return LitertFile(runners, tuple(dict.fromkeys(names[0])), tuple(dict.fromkeys(names[1])))


def _primary(opened: Any) -> LitertFile:
    """The primary graph of a file without signatures."""
    inputs, outputs = opened.get_input_details(), opened.get_output_details()

    def run(tokens: NDArray[np.int32]) -> Floats:
        opened.set_tensor(inputs[0]["index"], tokens)
        opened.invoke()
        return np.asarray(opened.get_tensor(outputs[0]["index"])[0], np.float32)

    size = _length(inputs, outputs)
    return LitertFile(
        {size: run} if size else {}, tuple(i["name"] for i in inputs), tuple(o["name"] for o in outputs)
    )


def _length(inputs: Sequence[Any], outputs: Sequence[Any]) -> int | None:
    """The length S of a signature [1, S], None if inputs and outputs do not keep the contract."""
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    ids, vector = inputs[0], outputs[0]
    ids_fit = len(ids["shape"]) == 2 and ids["shape"][0] == 1 and ids["dtype"] == np.int32
    vector_fits = len(vector["shape"]) == 2 and vector["shape"][0] == 1 and vector["dtype"] == np.float32
    return int(ids["shape"][1]) if ids_fit and vector_fits else None


def _called(runner: Any, input_name: str, output_name: str) -> Callable[[NDArray[np.int32]], Floats]:
    def run(tokens: NDArray[np.int32]) -> Floats:
        return np.array(runner(**{input_name: tokens})[output_name][0], np.float32)

    return run


def precision_of(*files: bytes) -> Precision:
    """The precision of the weights of a graph in one or more files: the narrowest types among the larger
    constants.

    If only one constant has 4 bits and the others have 8, that one is the table.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds: list[int] = []
    for model in map(schema.Model.GetRootAs, files):
        graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
        tensors = [g.Tensors(i) for g in graphs for i in range(g.TensorsLength())]
        weights = {
            t.Buffer(): t.Type()
            for t in tensors
            if not model.Buffers(t.Buffer()).DataIsNone() and np.prod(t.ShapeAsNumpy()) >= _WEIGHT_ELEMENTS
        }
        kinds += weights.values()
    if schema.TensorType.INT4 in kinds:
        if schema.TensorType.INT8 not in kinds:
            return "int4"
        return "int8_q4" if kinds.count(schema.TensorType.INT4) == 1 else "mixed"
    if schema.TensorType.INT8 in kinds:
        return "int8"
    return "fp16" if schema.TensorType.FLOAT16 in kinds else "fp32"
