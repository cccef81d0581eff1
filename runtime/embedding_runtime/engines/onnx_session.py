"""One ONNX graph, ready to run on token ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.onnx_files.four_bits import with_eight_bits
from embedding_runtime.engines.onnx_files.seven_bits import with_seven_bits
from embedding_runtime.engines.registry import Ids, engine_module, first_line
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.cpu import cpu_kind
from embedding_runtime.vectors import Floats

_AWAKE_MICROSECONDS = "5000"
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


def engine() -> Any:
    """The onnxruntime module.

    Raises:
        EngineError: not installed, or it cannot be imported here.
    """
    return engine_module("onnx")


def session_options(threads: int, seven_bits: bool = False) -> Any:
    """The SessionOptions with which every graph of a bundle runs; one with activations of `seven_bits` needs
    no kernels that cannot saturate."""
    options = engine().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised too, and one line on standard error is enough
    # Lengths vary from call to call: plans made for one shape only hold memory.
    options.enable_mem_pattern = False
    # Workers wait for more work awake. Left to itself the engine keeps them so for some 45 ms after each
    # text, twice the time that a query takes; the pauses inside a text are far shorter than this.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _AWAKE_MICROSECONDS)
    if cpu_kind() == "x86" and not seven_bits:
        # Without VNNI the u8 x s8 kernels add pairs of products in 16 bits, which saturate.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def create_session(model: Path | bytes, options: Any, named: Path) -> Any:
    """An onnxruntime.InferenceSession on a file, or on the bytes of one that lies at `named`; what has 4 bits
    is multiplied in 8.

    Raises:
        EngineError: onnxruntime does not load it.  BundleError: it is not an ONNX file.
    """
    ort = engine()
    ort.disable_telemetry_events()
    model = with_data(with_eight_bits(model, named), options, named)
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as e:  # onnxruntime raises classes of its own without a common base
        raise EngineError(
            f"onnxruntime {ort.__version__} does not load {named} ({first_line(e)}). Export the bundle "
            "again, or install another version of onnxruntime."
        ) from e


def with_data(model: Path | bytes, options: Any, named: Path) -> Path | bytes:
    """The model; `options` get the folder of its external data. Links, as in hub caches, are followed.

    Raises:
        BundleError: bytes that are not an ONNX file.
    """
    # An engine refuses data whose real place is outside the folder it looks in.
    if isinstance(model, Path) and not (
        model.is_symlink() or any(file.is_symlink() for file in model.parent.iterdir())
    ):
        return model
    from embedding_runtime.engines.onnx_files.links import links_followed

    whole = model if isinstance(model, bytes) else model.read_bytes()
    linked, folder = links_followed(whole, named)
    options.add_session_config_entry(_DATA_FOLDER, str(folder))
    return linked


class OnnxSession:
    """Runs one graph on the CPU. `run` may be called from several threads at once."""

    def __init__(
        self,
        path: Path,
        threads: int,
        tables: Mapping[str, NDArray[Any]] | None = None,
        seven_bits: bool = False,
    ) -> None:
        """Open a graph; its external data is memory-mapped by ONNX Runtime.

        `tables` are inputs that stay the same from run to run; a graph that has them was optimised when it
        was written (see `onnx_prepacked`), and must be run without further optimisation. With `seven_bits`
        activations are rounded to 7 bits instead of 8 (see `onnx_files.seven_bits`).

        Raises:
            EngineError: onnxruntime is missing, or does not load the graph.
            BundleError: `seven_bits` of a graph that does not say what its activations are rounded by.
        """
        options = session_options(threads, seven_bits)
        if tables is not None:
            options.graph_optimization_level = engine().GraphOptimizationLevel.ORT_DISABLE_ALL
        self._tables = dict(tables or {})
        edited = seven_bits and tables is None  # a prepared graph was given them when it was written
        self._session = create_session(with_seven_bits(path) if edited else path, options, path)

    def run(self, ids: Ids, mask: Ids, outputs: tuple[str, ...]) -> list[Floats]:
        """Outputs by name for ids and mask, int64 of shape (B, S), right-padded.

        Raises:
            EngineError: the engine failed, for instance out of memory.
        """
        try:
            results: list[Floats] = self._session.run(
                list(outputs), {"input_ids": ids, "attention_mask": mask, **self._tables}
            )
        except Exception as e:
            raise EngineError(
                f"onnxruntime failed on a batch of {ids.shape[0]} x {ids.shape[1]} tokens "
                f"({first_line(e)}). Use a smaller batch_size if memory is short."
            ) from e
        return results

    def check_ids(self, ids: NDArray[np.int32]) -> None:
        """Accept all ids: the mask is passed separately."""
