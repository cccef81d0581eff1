"""`compare-embedding --predict`: each graph's work at each length, priced by this device's rates."""

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from embedding_runtime.bundle import BundleGraph
from embedding_runtime.errors import InputError
from embedding_validate.compare.cost import device
from embedding_validate.compare.cost.predict import predicted_ms
from embedding_validate.compare.cost.work import Kind, Work
from embedding_validate.compare.document.prediction import DeviceProfile, Prediction

# Of measuring, between two times that rates are taken.
_EVERY_SECONDS = 30
_NEEDED = {"onnx": ("onnx", "export"), "litert": ("ai_edge_litert", "litert")}


def check(graphs: Mapping[str, BundleGraph]) -> None:
    """Refuse early what cannot be counted here.

    Raises:
        InputError: a package that reads a graph's file is not installed.
    """
    for name, graph in graphs.items():
        package, extra = _NEEDED[graph.graph.format]
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--predict needs {package} for {name}: pip install 'embedding-edge[{extra}]'.")


class Rates:
    """The rates of each engine that the graphs need, on each number of threads, taken several times while the
    comparison runs: machines are faster at times, and predictions are to meet what is measured meanwhile.
    """

    def __init__(self, graphs: Mapping[str, BundleGraph], threads: Sequence[int]) -> None:
        engines = dict.fromkeys(graph.graph.format for graph in graphs.values())
        self._wanted = [(engine, count) for engine in engines for count in threads]
        # Weights stored in 16 bits are float32 in memory.
        wide = any(graph.graph.precision in ("fp32", "fp16") for graph in graphs.values())
        self._streamed: tuple[Kind, ...] = ("int8", "fp32") if wide else ("int8",)
        self._taken: list[list[DeviceProfile]] = []
        self._due = -math.inf

    def take(self) -> None:
        """Take them now; some seconds each."""
        self._taken.append([device.profile(engine, count, self._streamed) for engine, count in self._wanted])
        self._due = time.monotonic() + _EVERY_SECONDS

    def take_if_due(self) -> None:
        """Take them if the last time is a while ago."""
        if self._wanted and time.monotonic() >= self._due:
            self.take()

    def typical(self) -> tuple[DeviceProfile, ...]:
        """The medians of all that was taken."""
        return tuple(device.typical(profiles) for profiles in zip(*self._taken, strict=True))


def predict(
    graphs: Mapping[str, BundleGraph], lengths: Sequence[int], devices: Sequence[DeviceProfile]
) -> Iterator[Prediction]:
    """What each graph should take, one text at a time, at the lengths that it reads."""
    for name, graph in graphs.items():
        work_of_length = _work_of(graph)
        for tokens in (n for n in lengths if n <= graph.max_length):
            work = work_of_length(tokens)
            for rates in (d for d in devices if d.engine == graph.graph.format):
                yield Prediction(
                    system=name,
                    threads=rates.threads,
                    tokens=tokens,
                    macs=work.macs,
                    weight_bytes=work.weight_bytes,
                    moved_bytes=work.moved_bytes,
                    predicted_ms=round(predicted_ms(work, rates), 4),
                )


def _work_of(graph: BundleGraph) -> Callable[[int], Work]:
    """Counted by what reads the graph's file, which is imported only then."""
    if graph.graph.format == "onnx":
        from embedding_validate.compare.cost.onnx_work import work_of
    else:
        from embedding_validate.compare.cost.litert_work import work_of
    return work_of(graph.path)
