#!/usr/bin/env bash
# Version:   ai-edge-quantizer 0.10.0, ai-edge-litert 2.3.0, flatbuffers 25.12.19, numpy 2.4.6
# Behaviour: the package's own recipes dynamic_wi8b32_afp32 and dynamic_wi8b64_afp32 (int8 weights in blocks)
#            quantize nothing: no operator supports int8 blocks, and one that a recipe does not fit is
#            passed over. The call succeeds, warns of nothing and writes a model of float32 weights.
#            The recipe of 2 bits in blocks leaves the embedding table alone, in the same way.
# Seen:      a model with an embedding table and a dense layer, 787,160 bytes of float32: int8 per channel
#            206,624, int4 blocks 111,580, int8 blocks 787,200 bytes ("1.00 (1.0x smaller)").
# Matters:   int8 in blocks is the cautious choice for an embedding model: most of its size is one table, and
#            scales per block keep outliers local. The float32 file then ships, four times too large, with
#            perfect accuracy figures. Look at the types of the tensors in the file, not at the recipe.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import contextlib
import io
import sys
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

ROWS, WIDTH, TOKENS = 512, 256, 4
TYPES = {number: name for name, number in vars(schema.TensorType).items() if name.isupper()}
FLOAT32 = schema.TensorType.FLOAT32


def embedding_model():
    """ids, int32 [4] -> rows of a table [512, 256] -> a dense layer [256, 256]; a LiteRT file."""
    generator = np.random.default_rng(0)
    table = generator.standard_normal((ROWS, WIDTH)).astype(np.float32)
    dense = generator.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    operators = schema.BuiltinOperator.EMBEDDING_LOOKUP, schema.BuiltinOperator.FULLY_CONNECTED
    graph = schema.SubGraphT(name="main", inputs=[0], outputs=[4])
    graph.tensors = [
        schema.TensorT(name=name, shape=list(shape), type=kind, buffer=buffer)
        for name, shape, kind, buffer in (
            ("ids", (TOKENS,), schema.TensorType.INT32, 0),
            ("table", table.shape, FLOAT32, 1),
            ("rows", (TOKENS, WIDTH), FLOAT32, 0),
            ("dense", dense.shape, FLOAT32, 2),
            ("embedding", (TOKENS, WIDTH), FLOAT32, 0),
        )
    ]
    graph.operators = [
        schema.OperatorT(opcodeIndex=0, inputs=[0, 1], outputs=[2]),
        schema.OperatorT(
            opcodeIndex=1, inputs=[2, 3, -1], outputs=[4],
            builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
            builtinOptions=schema.FullyConnectedOptionsT(),
        ),
    ]
    model = schema.ModelT(version=3, subgraphs=[graph])
    model.operatorCodes = [
        schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1) for code in operators
    ]
    model.buffers = [schema.BufferT(data=data) for data in (
        None, table.view(np.uint8).ravel(), dense.view(np.uint8).ravel(),
    )]
    model.signatureDefs = [schema.SignatureDefT(
        signatureKey="serving_default", subgraphIndex=0,
        inputs=[schema.TensorMapT(name="ids", tensorIndex=0)],
        outputs=[schema.TensorMapT(name="embedding", tensorIndex=4)],
    )]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


path = Path(sys.argv[1]) / "float.tflite"
path.write_bytes(embedding_model())
rows = Interpreter(str(path)).get_signature_runner()(ids=np.arange(TOKENS, dtype=np.int32))["embedding"]
print(f"float32: {path.stat().st_size} bytes, runs: {rows.shape}, finite: {bool(np.isfinite(rows).all())}")
changed = []
for name, expected in (
    ("dynamic_wi8c_afp32", ("INT8", "INT8")),
    ("dynamic_wi4b32_afp32", ("INT4", "INT4")),
    ("dynamic_wi8b32_afp32", ("FLOAT32", "FLOAT32")),
    ("dynamic_wi8b64_afp32", ("FLOAT32", "FLOAT32")),
    ("dynamic_wi2b32_afp32", ("FLOAT32", "INT2")),
):
    with contextlib.redirect_stdout(io.StringIO()) as said:  # the library's own report of sizes
        quantized = bytes(quantizer.Quantizer(str(path), getattr(recipe, name)()).quantize().quantized_model)
    tensors = schema.ModelT.InitFromPackedBuf(quantized, 0).subgraphs[0].tensors
    types = {tensor.name.decode(): TYPES[tensor.type] for tensor in tensors}
    found = types["table"], types["dense"]
    ratio = next((line for line in said.getvalue().splitlines() if "Ratio" in line), "no ratio reported")
    print(f"{name}: {len(quantized)} bytes, table {found[0]}, dense {found[1]}; {ratio}")
    if found != expected:
        changed.append(f"{name}: {found}, expected {expected}")
raise SystemExit("CHANGED: " + "; ".join(changed) if changed else 0)
PYTHON
