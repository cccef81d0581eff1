"""Chooses the smallest composition of 4 and 8 bits that keeps a target cosine, by writing and running graphs.

The loss of each part in 4 bits is measured one by one on the calibration texts, with all other parts in 8
bits; losses of independent errors add up. Parts then get 8 bits in the order of loss saved per byte. Where to
stop along that curve is decided on texts that calibration does not use.
"""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.registry import tensor_specs
from embedding_export.composing.vectors import exact_vectors
from embedding_export.errors import ExportError
from embedding_export.onnx.writer import write_onnx
from embedding_export.reporting import Reporter
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.precisions import TABLE_PART, PrecisionRow, composed_row, matrix_parts
from embedding_runtime.bundle import Precision
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.machine.threads import available_cpus
from embedding_runtime.manifest.composition import Composition, CurvePoint

Floats = NDArray[np.float32]

# Of the texts that were calibrated on, each so-many-th weighs the parts: enough to order them, in a third of
# the time.
EVERY = 3


@dataclass(frozen=True)
class Wanted:
    """The target: the lowest mean cosine, and the most bytes of graph and weights (None: any)."""

    cosine: float
    max_bytes: int | None = None


@dataclass(frozen=True)
class Chosen:
    """A chosen composition: how the graph is stored, which precision it counts as, and its entry in the
    manifest."""

    precision: Precision
    row: PrecisionRow
    composition: Composition


@dataclass(frozen=True)
class Trial:
    """A graph that was written and run: its bytes, and the cosines of its vectors to the float32 model's."""

    bytes: int
    cosines: Floats

    @property
    def mean(self) -> float:
        """The mean cosine."""
        return float(self.cosines.mean(dtype=np.float64))


@dataclass
class Trials:
    """Writes graphs of an encoder below `folder`, one at a time, and runs them on some texts' token ids."""

    encoder: Encoder
    held_out: Sequence[Sequence[int]]
    folder: Path
    report: Reporter
    results: dict[frozenset[str], Trial] = field(default_factory=dict)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts that may have 4 bits or 8."""
        return (TABLE_PART, *matrix_parts(tensor_specs(self.encoder.config)))

    @cached_property
    def _seen(self) -> tuple[Sequence[Sequence[int]], Floats]:
        texts = [t for t in self.encoder.sample if t][::EVERY]
        return texts, exact_vectors(self.encoder, texts)

    @cached_property
    def _unseen(self) -> tuple[Sequence[Sequence[int]], Floats]:
        return self.held_out, exact_vectors(self.encoder, self.held_out)

    def calibrated(self, four_bits: Collection[str]) -> Trial:
        """A trial on the calibration texts."""
        return self._run(four_bits, *self._seen)

    def unseen(self, four_bits: Collection[str]) -> Trial:
        """A trial on the held-out texts; each composition is tried once."""
        key = frozenset(four_bits)
        if key not in self.results:
            self.results[key] = self._run(four_bits, *self._unseen)
            self.report.step(f"{_words(self.results[key])} with 4 bits in {_named(four_bits, self.parts)}")
        return self.results[key]

    def _run(self, four_bits: Collection[str], texts: Sequence[Sequence[int]], exact: Floats) -> Trial:
        row = composed_row([p for p in self.parts if p in four_bits])[1]
        self.folder.mkdir()
        try:
            path = self.folder / row.onnx_file
            data = write_onnx(self.encoder, path, lambda _: None, row)
            return Trial(path.stat().st_size + data.stat().st_size, _cosines(_vectors(path, texts), exact))
        finally:
            shutil.rmtree(self.folder)


def choose(trials: Trials, target: Wanted) -> Chosen:
    """The smallest composition along the curve that keeps the target cosine on texts that calibration does
    not use.

    Raises:
        ExportError: there is none, or none that is small enough; the message says which there are.
    """
    if not trials.held_out:
        raise ExportError(
            "The checkpoint reads so few tokens that no text to judge a composition by is left. Choose a "
            "--precision instead."
        )
    order, curve = _weighed(trials)
    fours = [frozenset(order[n:]) for n in range(len(order) + 1)]  # parts with 4 bits, smallest graph first

    def holds(n: int) -> bool:
        return trials.unseen(fours[n]).mean >= target.cosine

    index = _first(holds, [point.estimated_cosine >= target.cosine for point in curve])
    _require(trials, target, fours, index)
    assert index is not None
    trial, four = trials.unseen(fours[index]), fours[index]
    precision, row = composed_row([part for part in trials.parts if part in four])
    composition = Composition(
        target_cosine=target.cosine,
        bits={part: 4 if part in four else 8 for part in trials.parts},
        texts=len(trials.held_out),
        cosine_mean=trial.mean,
        cosine_min=float(trial.cosines.min()),
        curve=tuple(_measured(p, trials.results.get(four)) for p, four in zip(curve, fours, strict=True)),
    )
    return Chosen(precision, row, composition)


def _weighed(trials: Trials) -> tuple[list[str], list[CurvePoint]]:
    """The parts in the order in which they get 8 bits, and the estimated cosines along that curve."""
    eight = trials.calibrated(())
    trials.report.step(f"weighing {len(trials.parts)} parts: {_words(eight)} with all in 8 bits")
    losses, sizes = {}, {}
    for part in trials.parts:
        four = trials.calibrated((part,))
        losses[part], sizes[part] = max(0.0, eight.mean - four.mean), eight.bytes - four.bytes
        trials.report.step(f"  {part} in 4 bits: {losses[part]:.1e} lost, {sizes[part] / 1e6:.1f} MB saved")
    order = sorted(trials.parts, key=lambda part: -losses[part] / max(1, sizes[part]))
    size, cosine = eight.bytes - sum(sizes.values()), eight.mean - sum(losses.values())
    curve = [CurvePoint(None, size, cosine)]
    for part in order:
        size, cosine = size + sizes[part], cosine + losses[part]
        curve.append(CurvePoint(part, size, cosine))
    return order, curve


def _first(holds: Callable[[int], bool], estimated: Sequence[bool]) -> int | None:
    """The first point that keeps the target. The search starts at the first point estimated to and goes both
    ways; None if no point does."""
    last = len(estimated) - 1
    at = estimated.index(True) if True in estimated else last
    while not holds(at):
        if at == last:
            return None
        at += 1
    while at > 0 and holds(at - 1):
        at -= 1
    return at


def _require(trials: Trials, target: Wanted, fours: Sequence[frozenset[str]], index: int | None) -> None:
    if index is None:
        best = trials.unseen(fours[-1])
        raise ExportError(
            f"No composition of 4 and 8 bits holds a mean cosine of {target.cosine}: the most exact has "
            f"{_words(best)}. Ask for at most {_floored(best.mean)}, or export --precision fp16 or fp32."
        )
    most, smallest = target.max_bytes, trials.unseen(fours[index])
    if most is None or smallest.bytes <= most:
        return
    for four in reversed(fours[:index]):
        if trials.unseen(four).bytes <= most:
            best = trials.results[four]
            have = f"Within {_mb(most)} the best is {_words(best)}"
            advice = f"--target-cosine {_floored(best.mean)}, or --max-size {_mb(smallest.bytes, up=True)}"
            break
    else:
        least = trials.unseen(fours[0])
        have = f"The smallest of all has {_words(least)}"
        advice = f"--max-size {_mb(least.bytes, up=True)} or more"
    raise ExportError(
        f"A mean cosine of {target.cosine} takes {_mb(smallest.bytes, up=True)}, and --max-size is "
        f"{_mb(most)}. {have}. Give {advice}."
    )


def _measured(point: CurvePoint, trial: Trial | None) -> CurvePoint:
    if trial is None:
        return point
    return CurvePoint(point.part, trial.bytes, point.estimated_cosine, trial.mean)


def _vectors(path: Path, texts: Sequence[Sequence[int]]) -> Floats:
    """The vectors of the graph at `path` for each text alone, [texts, dim]; its files are released."""
    session, vectors = OnnxSession(path, available_cpus()), []
    for ids in texts:
        tokens = np.array([ids], np.int64)
        vectors.append(session.run(tokens, np.ones_like(tokens), ("sentence_embedding",))[0][0])
    return np.stack(vectors)


def _cosines(a: Floats, b: Floats) -> Floats:
    """Cosines row by row, [texts]."""
    wide = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(wide[0], axis=1) * np.linalg.norm(wide[1], axis=1)
    return np.asarray((wide[0] * wide[1]).sum(axis=1) / norms, np.float64).astype(np.float32)


def _named(four_bits: Collection[str], parts: Sequence[str]) -> str:
    if len(four_bits) == len(parts):
        return "all parts"
    return ", ".join(p for p in parts if p in four_bits) or "none"


def _words(trial: Trial) -> str:
    return f"mean cosine {trial.mean:.5f} in {_mb(trial.bytes, up=True)}"


def _mb(size: int, up: bool = False) -> str:
    """Megabytes rounded to 0.1, or rounded up, so that the figure can be used as an option."""
    tenths = -(-size // 100_000) if up else round(size / 100_000)
    return f"{tenths / 10:.1f}MB"


def _floored(cosine: float) -> float:
    """Four decimals, rounded down, so that the figure can be used as an option."""
    return int(cosine * 10_000) / 10_000
