"""Takes lengths out of a bundle's LiteRT file, and gives them the inputs that a vendor's client fills.

The operators and the weights stay as they are, so a package gives the vectors of the file that is compared
with the reference. `task` and `litertlm` pack what is written here.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from embedding_export.litert.file import FLOAT32, INT32, LitertFile, Packed, write_model


@dataclass(frozen=True)
class Source:
    """A bundle's LiteRT file, opened: `subgraphs` by their number of tokens, ascending."""

    model: Any
    subgraphs: dict[int, Any]


def read_source(path: Path) -> Source:
    """Map the file; its weights are read only when they are written."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    by_length = {int(graph.tensors[graph.inputs[0]].shape[1]): graph for graph in model.subgraphs}
    return Source(model, dict(sorted(by_length.items())))


def write_length(source: Source, out: Path, length: int) -> None:
    """Write a file of one length, without signatures: ids int32 [1, S] to a vector float32 [1, dim]."""
    _write(source, out, [source.subgraphs[length]], [])


def write_text_encoder(source: Source, out: Path, lengths: Sequence[int]) -> None:
    """Write a file with a signature `encoder_S` for each length, whose input is what `write_token_embedder`
    gives for each token: float32 [1, S, 1]."""
    graphs = [source.subgraphs[length] for length in lengths]
    codes = {code.builtinCode: i for i, code in enumerate(source.model.operatorCodes)}
    for graph in graphs:
        _take_numbers(graph, codes)
    _write(source, out, graphs, [_definition(i, graph) for i, graph in enumerate(graphs)])


def write_token_embedder(out: Path, scratch: BinaryIO) -> None:
    """Write a file that turns an id, int32 [1, 1], into the same number, float32 [1, 1, 1].

    A client looks each token up by itself, and fills the places behind a text with what token 0 gives. Ids
    below 2**24 are exact in float32.
    """
    file = LitertFile(scratch, lambda written: None)
    signature = file.signature("token_embedder")
    token = signature.input("token", (1, 1), INT32)
    number = signature.op("CAST", [token], (1, 1))
    shape = (1, 1, 1)
    signature.output(
        "embeddings", signature.op("RESHAPE", [number, signature.ints(*shape)], shape, newShape=shape)
    )
    file.write(out, "Token ids as numbers, written by embedding-edge")


def _take_numbers(graph: Any, codes: dict[int, int]) -> None:
    """Put in front of a graph: numbers, float32 [1, S, 1], to its ids, int32 [1, S]."""
    (tokens,) = graph.inputs
    length = int(graph.tensors[tokens].shape[1])
    first = len(graph.tensors)
    shapes = {"embeddings": FLOAT32, "ids": INT32}
    graph.tensors += [
        schema.TensorT(name=name, shape=[1, length, 1], type=kind, hasRank=True)
        for name, kind in shapes.items()
    ]
    cast = schema.OperatorT(
        opcodeIndex=codes[schema.BuiltinOperator.CAST],
        inputs=[first],
        outputs=[first + 1],
        builtinOptionsType=schema.BuiltinOptions.CastOptions,
        builtinOptions=schema.CastOptionsT(),
    )
    reshape = schema.OperatorT(
        opcodeIndex=codes[schema.BuiltinOperator.RESHAPE],
        inputs=[first + 1],
        outputs=[tokens],
        builtinOptionsType=schema.BuiltinOptions.ReshapeOptions,
        builtinOptions=schema.ReshapeOptionsT(newShape=[1, length]),
    )
    graph.operators = [cast, reshape, *graph.operators]
    graph.inputs = [first]


def _definition(index: int, graph: Any) -> Any:
    inputs = [schema.TensorMapT(name="embeddings", tensorIndex=graph.inputs[0])]
    outputs = [schema.TensorMapT(name="sentence_embedding", tensorIndex=graph.outputs[0])]
    length = graph.tensors[graph.inputs[0]].shape[1]
    return schema.SignatureDefT(
        signatureKey=f"encoder_{length}", subgraphIndex=index, inputs=inputs, outputs=outputs
    )


def _write(source: Source, out: Path, graphs: Sequence[Any], definitions: Sequence[Any]) -> None:
    """Write the graphs and the weights that they use."""
    old = source.model
    shared: dict[int, Packed] = {}
    for tensor in (tensor for graph in graphs for tensor in graph.tensors):
        settings = tensor.quantization
        if settings is not None and settings.details is None:
            tensor.quantization = shared.setdefault(tensor.buffer, Packed(settings))
    used = {tensor.buffer for graph in graphs for tensor in graph.tensors}
    data = [buffer.data if i in used else None for i, buffer in enumerate(old.buffers)]
    model = schema.ModelT(version=old.version, description=old.description)
    model.operatorCodes, model.subgraphs, model.signatureDefs = old.operatorCodes, graphs, definitions
    empty = np.zeros(0, np.uint8)
    vectors = [empty if values is None else values for values in data]
    write_model(out, model, [(len(values), partial(_copy, values)) for values in vectors])


def _copy(values: NDArray[np.uint8], file: BinaryIO) -> None:
    file.write(values.data)
