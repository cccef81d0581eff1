"""Which engine runs which format, whether it is installed, and the interface of an opened graph.

Only this module names the engines' packages. It opens no graph.
"""

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import SEVEN_BITS, Format, Graph, Precision
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.cpp_locale import number_facets
from embedding_runtime.machine.cpu import cpu_flags, cpu_kind
from embedding_runtime.machine.platforms import lack, this_platform
from embedding_runtime.vectors import Floats

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Engine:
    """An engine's import name, the name errors and manifests call it by, and how to install it."""

    module: str
    name: str
    install: str


ENGINES: dict[Format, Engine] = {
    "onnx": Engine("onnxruntime", "onnxruntime", "pip install onnxruntime"),
    "litert": Engine("ai_edge_litert", "ai-edge-litert", "pip install 'embedding-edge[litert]'"),
}

# The oldest version that opens a precision on a kind of CPU, where that is newer than the graph itself asks
# for. Before it, the rewriting that keeps u8 x s8 products exact without VNNI ends the process: `ENGINES.md`.
_FLOORS: dict[tuple[Format, Precision, str], str] = {
    ("onnx", "int8", "x86"): "1.30.0",
    ("onnx", "int8_q4", "x86"): "1.30.0",
    ("onnx", "int4", "x86"): "1.30.0",
}

# Beside one another in a process, first come first served: libstdc++ has to be before those that carry their
# own. A caller who imports this package first need not know of it.
number_facets()


class Session(Protocol):
    """One graph, ready to run; may be used from several threads at once."""

    def run(self, ids: Ids, mask: Ids, outputs: tuple[str, ...]) -> list[Floats]:
        """Outputs by name for ids and mask, int64 of shape (B, S), right-padded.

        Raises:
            InputError: ids that this graph cannot take.  EngineError: the engine failed.
        """

    def check_ids(self, ids: NDArray[np.int32]) -> None:
        """Refuse a text's ids (S,) that this graph cannot take.

        Raises:
            InputError: the caller prefixes the message with its subject.
        """


def installed(format: Format) -> bool:
    """Whether the format's engine can be found; it is not imported."""
    return importlib.util.find_spec(ENGINES[format].module) is not None


def unfit(format: Format) -> str | None:
    """Why this CPU cannot run the format's engine; None if it can."""
    if format == "litert" and cpu_kind() == "arm" and cpu_flags():
        # Seen with 2.3.0 on an emulated Cortex-A72: opening a graph ends the process with SIGILL.
        return (
            f"{ENGINES[format].name} needs a CPU with dot-product instructions (Cortex-A76 or newer, as in "
            "the Raspberry Pi 5), and this one has none. Use an ONNX graph: export-embedding CHECKPOINT "
            "BUNDLE --add"
        )
    return None


def usable(format: Format) -> bool:
    """Whether the format's engine can be found and runs on this CPU; it is not imported."""
    return installed(format) and not unfit(format)


def engine_module(format: Format) -> Any:
    """The engine's module.

    Raises:
        EngineError: not installed, or it cannot be imported or run here.
    """
    engine = ENGINES[format]
    if reason := unfit(format) or _shut_out(engine):
        raise EngineError(reason)
    # onnxruntime looks for this when it is imported: it would store an id of the device to report.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(engine.module)
    except (ImportError, OSError) as e:  # OSError: a library of its own does not load
        if isinstance(e.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from e
        advice = lack(engine.name, this_platform()) or f"Install it with: {engine.install}"
        raise EngineError(f"{engine.name} cannot be imported ({e}). {advice}") from e


def check_engine_version(graph: Graph) -> str:
    """The engine's version; refused if it is older than the graph needs, on this CPU or on all.

    Raises:
        EngineError: missing or too old.
    """
    engine, version = ENGINES[graph.format], str(engine_module(graph.format).__version__)
    if _release(version) < _release(graph.engine_min_version):
        raise EngineError(
            f"The graph {graph.key} needs {engine.name} >= {graph.engine_min_version}; {version} is "
            f"installed. Upgrade with: pip install '{engine.name}>={graph.engine_min_version}'"
        )
    if not takes_seven_bits(graph):
        check_floor(graph.format, graph.precision)
    return version


def takes_seven_bits(graph: Graph) -> bool:
    """Whether this CPU rounds the graph's activations to 7 bits: x86 without VNNI is slower with 8. The
    manifest allows it where golden vectors hardly change."""
    return cpu_kind() == "x86" and SEVEN_BITS in graph.golden_tolerance


def check_floor(format: Format, precision: Precision) -> None:
    """Refuse a precision that this version cannot open on this kind of CPU, because it would end the process.

    Raises:
        EngineError: missing or too old.
    """
    if reason := below_floor(format, precision, str(engine_module(format).__version__), cpu_kind()):
        raise EngineError(reason)


def below_floor(format: Format, precision: Precision, version: str, kind: str) -> str | None:
    """Why a version of an engine cannot open a precision on a kind of CPU; None if it can."""
    floor, name = _FLOORS.get((format, precision, kind)), ENGINES[format].name
    if floor is None or _release(version) >= _release(floor):
        return None
    unknown = "" if cpu_flags() else ", or that does not say whether it has it"
    return (
        f"{format}/{precision} needs {name} >= {floor} on an x86 CPU without VNNI{unknown}; {version} is "
        f"installed, and would end the process here. Upgrade with: pip install '{name}>={floor}'. Where pip "
        "has none (Intel Macs), take another precision, such as fp32."
    )


def first_line(error: Exception) -> str:
    """The first line of an engine's own error, cut to 300 characters."""
    return str(error).strip().split("\n")[0][:300]


def _shut_out(engine: Engine) -> str | None:
    """Why importing an engine now would end the process; None if it would not."""
    if engine.module != "onnxruntime" or engine.module in sys.modules or number_facets():
        return None
    return (
        f"{engine.name} would end the process: a library with a C++ runtime of its own was imported first "
        "(usearch from 2.26.2 on has one). Import embedding_runtime before it, or onnxruntime itself: "
        "move that line above `import usearch`."
    )


def _release(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits[:9]))
    return tuple(parts)
