"""The table of precisions: data, not code."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from embedding_export.architectures.interface.tensors import Part, Specs
from embedding_runtime.bundle import Format, Precision

Storage = Literal["float32", "float16", "int8", "int4", "q4_0"]


@dataclass(frozen=True)
class PrecisionRow:
    """How one precision stores and computes, and its tolerance.

    `golden_tolerance` is the largest absolute difference to a golden vector that a sound engine may show,
    per kind of CPU ("any" where one figure serves all): the order of summation differs between CPUs, and
    where activations are quantized a different last digit can round to another step, no more.
    `table` is how the table of embeddings is stored where that is not `storage`. Matrices of the parts
    `four_bits`, by the names that `matrix_parts` gives, have 4 bits.
    `engine_min_version` is the first ONNX Runtime that runs the graph. `bit_stable` is as in `bundle.Graph`,
    measured on x86 with VNNI and on emulated Cortex-A72, Cortex-A76 and Neoverse-V1 (`make test-arm`).
    """

    onnx_file: str
    storage: Storage
    fold_dense: bool
    opset: int
    engine_min_version: str
    bytes_per_parameter: float
    recipe: dict[str, str]
    golden_tolerance: dict[str, float]
    bit_stable: bool | None = True
    table: Storage | None = None
    four_bits: tuple[str, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether texts that were seen decide how anything is rounded."""
        return self.storage not in ("float32", "float16")


# Parts that may each have 4 bits or 8.
TABLE_PART = "table"
THIRDS = ("early", "middle", "late")
MATRIX_PARTS = ("attention", "gates", "downs")
ATTENTION = (
    "scores from uint8 queries and int8 keys, static scales, pairs of channels shared by powers of two; "
    "the rest float32"
)
MATRICES = "int8, symmetric, one float32 scale per output, errors made good on calibration texts"
FOUR_BITS = (
    "4 bits, blocks of 32, uint4 zero points, scales whole multiples of one per output, so that products of "
    "8 bits take them, errors made good"
)
BALANCING = (
    "channels moved from norms to the matrices behind them by powers of two, for the least error there"
)
TURNING = "inputs of down projections as it runs, values by their own matrix: Hadamard blocks of 16"
_INT8_RECIPE = {
    "weights": MATRICES,
    "table": "int8, symmetric, one float32 scale per row",
    "activations": "uint8, zero point 128, one scale per token, found as it runs",
    "attention": ATTENTION,
    "balancing": BALANCING,
    "turning": TURNING,
    "dense": "folded, float32",
}
_TABLE_SCALES = (
    "uint4 zero points, scales in uint8 parts of a float32 one per row, errors made good by what the "
    "matrices make of channels"
)
# Golden vectors of a tiny model, emulated CPUs against x86 with VNNI: int8 differs by 2.6e-3 (x86 without
# VNNI) and 3e-8 (ARM); Q4_0 by 5e-3 on those that round activations in blocks (all but ARM without dot
# products), and by 2.7e-2 on that one, which computes in float32.
# Gelu's tanh form came with opset 20, which ONNX Runtime reads since 1.17; QuantizeLinear in blocks with
# opset 21. Quantized graphs were tried with 1.19.2, 1.20.1, 1.22.1 and 1.32.0.
PRECISIONS: dict[Precision, PrecisionRow] = {
    "fp32": PrecisionRow(
        onnx_file="model.onnx",
        storage="float32",
        fold_dense=True,
        opset=20,
        engine_min_version="1.17.0",
        bytes_per_parameter=4.0,
        recipe={"weights": "float32", "table": "float32", "activations": "float32", "dense": "folded"},
        golden_tolerance={"any": 1e-4},
    ),
    "fp16": PrecisionRow(
        onnx_file="model_fp16.onnx",
        storage="float16",
        fold_dense=True,
        opset=20,
        engine_min_version="1.17.0",
        bytes_per_parameter=2.0,
        recipe={"weights": "float16", "table": "float16", "activations": "float32", "dense": "folded"},
        golden_tolerance={"any": 1e-4},
    ),
    "int8": PrecisionRow(
        onnx_file="model_int8.onnx",
        storage="int8",
        fold_dense=True,
        opset=21,
        engine_min_version="1.19.2",
        bytes_per_parameter=1.02,
        recipe=_INT8_RECIPE,
        golden_tolerance={"any": 1e-2},
    ),
    "int8_q4": PrecisionRow(
        onnx_file="model_int8_q4.onnx",
        storage="int8",
        fold_dense=True,
        opset=21,
        engine_min_version="1.19.2",
        bytes_per_parameter=0.72,
        recipe={
            **_INT8_RECIPE,
            "table": f"4 bits, blocks of 32, {_TABLE_SCALES}",
        },
        golden_tolerance={"any": 1e-2},
        table="int4",
    ),
    "int4": PrecisionRow(
        onnx_file="model_q4.onnx",
        storage="int8",
        fold_dense=True,
        opset=21,
        engine_min_version="1.19.2",
        bytes_per_parameter=0.63,
        recipe={
            **_INT8_RECIPE,
            "weights": f"the last third of the layers: {MATRICES}; the others: {FOUR_BITS} likewise",
            "table": f"4 bits, blocks of 32, {_TABLE_SCALES}",
        },
        golden_tolerance={"any": 1e-2},
        table="int4",
        # In the last third of the layers 4 bits lose several times as much as in the others.
        four_bits=tuple(f"{third} {part}" for part in MATRIX_PARTS for third in THIRDS[:2]),
    ),
}

# For checkpoints whose quantization-aware training was for GGML's Q4_0: exactly the grid they were trained
# for. The Dense stages stay apart, because their product would lie on no such grid.
Q4_0 = replace(
    PRECISIONS["int4"],
    storage="q4_0",
    fold_dense=False,
    opset=20,
    table=None,
    four_bits=(),
    golden_tolerance={"any": 6e-2, "arm-dotprod": 2e-2, "x86": 2e-2, "x86-vnni": 2e-2},
    bit_stable=False,
    recipe={
        "weights": "Q4_0: 4 bits, blocks of 32, zero point 8, scale = signed largest / -8 in float16",
        "table": "Q4_0",
        "activations": "float32, or int8 in blocks inside MatMulNBits (accuracy level 4)",
        "attention": ATTENTION,
        "dense": "as in the checkpoint",
    },
)

# What layers take of their own has 8 bits wherever anything is quantized: no norm comes before its gate. The
# projection to the vectors is stored as a Dense stage is.
_PER_LAYER: dict[Storage, tuple[str, str]] = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "int8": (
        "inputs, gates and projections int8, as 8-bit matrices are; what gates take, with no norm before it, "
        "times stored powers of two for the least error; what projections take turned as it runs",
        "float32",
    ),
    "q4_0": ("Q4_0", "Q4_0"),
}


def recipe_for(recipe: dict[str, str], storage: Storage, specs: Specs) -> dict[str, str]:
    """A row's recipe, with what becomes of parts that not every architecture has; `storage` is how the row
    stores what is neither table nor 4-bit."""
    if all(spec.part != "per-layer" for spec in specs.values()):
        return recipe
    per_layer, projection = _PER_LAYER[storage]
    return {**recipe, "per-layer": per_layer, "projection": projection}


def matrix_parts(specs: Specs) -> dict[str, tuple[str, ...]]:
    """The matrices that may have 4 bits, by part: those of attention, gate and up projections (`gates`), and
    down projections, each of an early, a middle and a late third of the layers, as `late downs`."""
    layers = 1 + max(spec.layer for spec in specs.values() if spec.layer is not None)
    late = layers - round(layers / 3)
    starts = dict(zip(THIRDS, (0, late // 2, late), strict=True))
    by_part: dict[str, tuple[str, ...]] = {f"{third} {part}": () for part in MATRIX_PARTS for third in THIRDS}
    for name, spec in specs.items():
        if spec.role == "matrix" and spec.layer is not None and spec.part in ("attention", "feed-forward"):
            third = next(t for t in reversed(THIRDS) if spec.layer >= starts[t])
            down = "downs" if spec.turning == "turned_as_it_runs" else "gates"
            by_part[f"{third} {spec.part if spec.part == 'attention' else down}"] += (name,)
    return {part: names for part, names in by_part.items() if names}


def composed_row(four_bits: Collection[str]) -> tuple[Precision, PrecisionRow]:
    """The row of a graph where the table and the parts of `four_bits` have 4 bits and everything else 8, and
    the precision that it counts as."""
    matrices = tuple(p for p in four_bits if p != TABLE_PART)
    precision: Precision = "int4" if matrices else "int8_q4" if four_bits else "int8"
    if not matrices:
        return precision, PRECISIONS[precision]
    row, table = PRECISIONS[precision], PRECISIONS["int8_q4" if TABLE_PART in four_bits else "int8"]
    recipe = {
        **row.recipe,
        "weights": f"{', '.join(matrices)}: {FOUR_BITS} on calibration texts; other matrices: {MATRICES}",
        "table": table.recipe["table"],
    }
    return precision, replace(row, recipe=recipe, table=table.table, four_bits=matrices)


def late_downs(specs: Specs, share: float) -> frozenset[str]:
    """The names of the down projections of the last `share` of the layers."""
    feed_forward = ((name, spec) for name, spec in specs.items() if spec.part == "feed-forward")
    downs = [name for name, spec in feed_forward if spec.turning == "turned_as_it_runs"]
    return frozenset(downs[len(downs) - round(share * len(downs)) :])


def precision_row(precision: Precision, qat: str | None) -> PrecisionRow:
    """The row of a precision for a checkpoint trained for the number format `qat`, if any."""
    row = PRECISIONS[precision]
    if qat != "q4_0":
        return row
    if precision == "int4":
        return Q4_0
    if row.table == "int4":
        return replace(row, table="q4_0", recipe={**row.recipe, "table": Q4_0.recipe["table"]})
    return row


@dataclass(frozen=True)
class LitertFormat:
    """How a LiteRT file stores one tensor; `block` is how many 4-bit weights share a scale."""

    type: Literal["float32", "int8", "int4"]
    block: int = 0


@dataclass(frozen=True)
class LitertRow:
    """How one precision of the LiteRT format stores each kind of tensor; activations are float32 between
    operators, and int8 inside every product with int8 or int4 weights (XNNPACK, one scale per token).
    Down projections of `eight_bit_downs` of the layers, the last ones, have 8 bits."""

    attention: LitertFormat
    mlp: LitertFormat
    table: LitertFormat
    bytes_per_parameter: float
    recipe: dict[str, str]
    golden_tolerance: dict[str, float]
    bit_stable: bool | None = None
    eight_bit_downs: float = 0.0

    @property
    def calibrated(self) -> bool:
        """Whether texts that were seen decide how anything is rounded."""
        return self.attention.type != "float32"

    @property
    def per_layer(self) -> Literal["float32", "int8"]:
        """How what layers take of their own is stored."""
        return "float32" if self.attention.type == "float32" else "int8"

    def format(self, name: str, specs: Specs) -> LitertFormat:
        """The format of a matrix or the table by its name; what belongs to no part is float32."""
        if name in late_downs(specs, self.eight_bit_downs):
            return LitertFormat("int8")
        formats: dict[Part | None, LitertFormat] = {
            "attention": self.attention,
            "per-layer": LitertFormat(self.per_layer),
            "feed-forward": self.mlp,
            "table": self.table,
        }
        return formats.get(specs[name].part if name in specs else None, LitertFormat("float32"))


_F32, _I8 = LitertFormat("float32"), LitertFormat("int8")
_I4, _I4_WIDE = LitertFormat("int4", 32), LitertFormat("int4", 128)
_INT8_ACTIVATIONS = "float32; int8 inside products, one scale and zero point per token, found as it runs"
_LITERT_INT8_RECIPE = {
    "weights": MATRICES,
    "table": "int8, symmetric, one float32 scale per row",
    "activations": _INT8_ACTIVATIONS,
    "balancing": BALANCING,
    "turning": TURNING,
    "dense": "folded, float32",
}
_LITERT_TABLE_SCALES = "float16 scales of least squared error by what the matrices make of a channel"
_LITERT_INT4_TABLE = f"4 bits, symmetric, blocks of 32, {_LITERT_TABLE_SCALES}"

# The first ai-edge-litert whose CompiledModel takes options for the CPU.
LITERT_MIN_VERSION = "2.2.0"
# Why a format has no such graphs. Weight-only int8 has no name here at all, for the same reason as float16.
NOT_OFFERED: dict[tuple[Format, Precision], str] = {
    ("litert", "fp16"): (
        "LiteRT widens float16 weights, and int8 ones that are weight-only, to float32 when it opens the "
        "file: as slow and as large in memory as fp32. Take int8."
    ),
    ("onnx", "mixed"): "mixed is a recipe of LiteRT files. Take int8, or int4 for the smallest file.",
}
LITERT: dict[Precision, LitertRow] = {
    "fp32": LitertRow(
        attention=_F32,
        mlp=_F32,
        table=_F32,
        bytes_per_parameter=4.0,
        recipe={"weights": "float32", "table": "float32", "activations": "float32", "dense": "folded"},
        golden_tolerance={"any": 1e-4},
    ),
    "int8": LitertRow(
        attention=_I8,
        mlp=_I8,
        table=_I8,
        bytes_per_parameter=1.03,
        recipe=_LITERT_INT8_RECIPE,
        golden_tolerance={"any": 2e-2},
        bit_stable=True,
    ),
    "int8_q4": LitertRow(
        attention=_I8,
        mlp=_I8,
        table=_I4,
        bytes_per_parameter=0.74,
        recipe={**_LITERT_INT8_RECIPE, "table": _LITERT_INT4_TABLE},
        golden_tolerance={"any": 2e-2},
        bit_stable=True,
    ),
    "mixed": LitertRow(
        attention=_I8,
        mlp=_I4,
        table=_I4_WIDE,
        eight_bit_downs=1 / 5,
        bytes_per_parameter=0.62,
        recipe={
            "weights": f"attention and the last fifth of the down projections: {MATRICES}; other "
            "feed-forward: 4 bits, symmetric, blocks of 32, float16 scales, errors made good likewise",
            "table": f"4 bits, symmetric, blocks of 128, {_LITERT_TABLE_SCALES}",
            "activations": _INT8_ACTIVATIONS,
            "dense": "folded, float32",
        },
        golden_tolerance={"any": 2e-2},
    ),
    "int4": LitertRow(
        attention=_I4,
        mlp=_I4,
        table=_I4,
        bytes_per_parameter=0.58,
        recipe={
            "weights": "attention and feed-forward: 4 bits, symmetric, blocks of 32, float16 scales, errors "
            "made good on calibration texts",
            "table": _LITERT_INT4_TABLE,
            "activations": _INT8_ACTIVATIONS,
            "dense": "folded, float32",
        },
        golden_tolerance={"any": 2e-2},
    ),
}
