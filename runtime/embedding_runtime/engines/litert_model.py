"""LiteRT's compiled signatures of one graph: opens them, runs one once, and releases them.

It takes token ids that fill a bucket; `litert_session` pads texts and decides who may run when.
"""

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.litert_log import quiet, quiet_exit
from embedding_runtime.engines.litert_mapping import View, Views, supported
from embedding_runtime.engines.registry import engine_module, first_line
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.device_cache import require_file_size
from embedding_runtime.vectors import Floats

# Packed weights without a file. With no name at all every signature would pack weights of its own.
IN_MEMORY = ":memory"
# Signatures stay open while their lengths add up to this: each has memory of its own for activations, 0.05 MB
# per token at full size. All usual buckets except 2,048 do.
KEPT_TOKENS = 2048


@dataclass(frozen=True)
class Signature:
    """One signature of a compiled model, and the buffers it reads and writes."""

    model: Any
    index: int
    tokens: Any
    vector: Any
    dim: int

    def run(self, tokens: NDArray[np.int32]) -> Floats:
        """The vector (D,) of tokens [1, S]; errors are the engine's own exceptions."""
        self.tokens.write(tokens)
        self.model.run_by_index(self.index, [self.tokens], [self.vector])
        vector: Floats = self.vector.read(self.dim, np.float32)
        return vector


class Whole:
    """All signatures of a file, compiled at once.

    Attributes:
        names: of the signatures, by the number of tokens that they take, ascending.
    """

    def __init__(self, path: Path, threads: int, weights: str) -> None:
        from ai_edge_litert.compiled_model import CompiledModel

        model = CompiledModel.from_file(str(path), options=_options(threads, weights))
        names = {_length(model, name): name for name in model.get_signature_list()}
        self.names = {length: names[length] for length in sorted(names)}
        shortest, name = next(iter(self.names.items()))
        self._path, self._model = path, model
        self._signatures = {shortest: _signature(model, name)}

    def signature(self, length: int) -> Signature:
        """The signature of `length` tokens; from its first use on it holds memory for its activations.

        Raises:
            EngineError: there is none.
        """
        if length not in self._signatures:
            with _opening(self._path):
                self._signatures[length] = _signature(self._model, self.names[length])
        return self._signatures[length]

    def drop(self) -> None:
        """Release the model."""
        with quiet():
            self._signatures, self._model = {}, None


class OneByOne:
    """Signatures of a file, each compiled on first use, over weights that are packed in a file.

    The ones used last stay open, see `KEPT_TOKENS`.

    Attributes:
        names: of the signatures, by the number of tokens that they take, ascending.
    """

    def __init__(self, path: Path, threads: int, weights: Path) -> None:
        self._path = path
        self._compiled: dict[int, tuple[Signature, View]] = {}
        self._environment: Any = None
        with ExitStack() as stack:
            self._views = stack.enter_context(closing(Views(path)))
            self.names = self._views.names
            # By its descriptor, so that each opening finds this very file.
            packed = Path(f"/proc/self/fd/{stack.enter_context(weights.open('rb')).fileno()}")
            self._options = _options(threads, str(packed if packed.exists() else weights))
            self.signature(next(iter(self.names)))
            self._files = stack.pop_all()

    def signature(self, length: int) -> Signature:
        """The signature of `length` tokens.

        Raises:
            EngineError: LiteRT does not load it.
        """
        if length not in self._compiled:
            self._make_room(length)
            with _opening(self._path):
                self._compiled[length] = self._compile(length)
        self._compiled[length] = self._compiled.pop(length)  # the last one asked for is the last one here
        return self._compiled[length][0]

    def drop(self) -> None:
        """Release all models, and then the mappings that hold them."""
        for length in tuple(self._compiled):
            self._close(length)
        with quiet():
            self._environment = None
        self._files.close()

    def _make_room(self, length: int) -> None:
        for oldest in tuple(self._compiled):
            if sum(self._compiled) + length > KEPT_TOKENS:
                self._close(oldest)

    def _close(self, length: int) -> None:
        signature, view = self._compiled.pop(length)
        with quiet():
            del signature
        view.close()

    def _compile(self, length: int) -> tuple[Signature, View]:
        from ai_edge_litert.compiled_model import CompiledModel

        view = self._views.open(length)
        model = CompiledModel.from_buffer(view.data, environment=self._environment, options=self._options)
        self._environment = model.environment
        return _signature(model, self.names[length]), view


def open_model(path: Path, threads: int, weights: Path | None) -> Whole | OneByOne:
    """Open a graph; `weights` as in `LitertSession`.

    Raises:
        EngineError: ai-edge-litert is missing, does not load the graph, or would end the process.
    """
    if weights is None and path.is_file():
        _check_limit(path)
    with _opening(path):
        model = _one_by_one(path, threads, weights) or Whole(path, threads, str(weights or IN_MEMORY))
    quiet_exit()
    return model


def _one_by_one(path: Path, threads: int, weights: Path | None) -> OneByOne | None:
    """Open signatures one by one, if weights are packed and the file can be mapped."""
    if weights is None or not supported() or not weights.exists() or weights.stat().st_size == 0:
        return None
    with suppress(OSError):
        return OneByOne(path, threads, weights)
    return None


def _check_limit(path: Path) -> None:
    """Refuse to pack weights in a file of memory that may not grow so far."""
    try:
        require_file_size(path.stat().st_size)
    except OSError as e:
        raise EngineError(
            f"ai-edge-litert cannot pack the weights of {path} ({e.strerror or e}). Raise that limit, or use "
            "an ONNX graph."
        ) from e


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Silence the engine, and turn its exceptions into an EngineError."""
    engine = engine_module("litert")
    with quiet():
        try:
            yield
        except EngineError:
            raise
        except Exception as e:  # the engine's own errors have no common base
            if isinstance(e.__cause__, KeyboardInterrupt):  # as it imported more of itself
                raise KeyboardInterrupt from e
            # What was made of the engine before it failed goes here, not where the error is dropped.
            traceback.clear_frames(e.__traceback__)
            raise EngineError(
                f"ai-edge-litert {engine.__version__} does not load {path} ({first_line(e)}). Export the "
                "bundle again, or install another version of ai-edge-litert."
            ) from e


def _options(threads: int, weights: str) -> Any:
    from ai_edge_litert.compiled_model import CpuOptions, HardwareAccelerator, Options

    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weights)
    return Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)


def _signature(model: Any, name: str) -> Signature:
    index = model.get_signature_index(name)
    (tokens,), (vector,) = model.create_input_buffers(index), model.create_output_buffers(index)
    # The engine sets more of itself up at the first write, and tells that too.
    tokens.write(np.zeros((1, _length(model, name)), dtype=np.int32))
    (output,) = model.get_output_tensor_details(name).values()
    return Signature(model, index, tokens, vector, int(output["shape"][-1]))


def _length(model: Any, name: str) -> int:
    """The number of tokens that a signature takes, whatever its name (published files have their own)."""
    (details,) = model.get_input_tensor_details(name).values()
    return int(details["shape"][-1])
