"""Chooses the smallest composition of 4 and 8 bits that holds a wanted cosine, by writing graphs and running
them.

Knows no bundle. What each part loses in 4 bits is measured one by one on the texts that were calibrated on,
beside all others in 8 bits; losses of independent errors add up. Parts then get 8 bits in the order of loss
saved per byte, and where along that curve to stop is decided on texts that were not calibrated on.
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
    """The least mean cosine, and the most bytes of graph and weights (None: any)."""

    cosine: float
    max_bytes: int | None = None


@dataclass(frozen=True)
class Chosen:
    """How the graph is stored, which precision it counts as, and what the manifest says of it."""

    precision: Precision
    row: PrecisionRow
    composition: Composition


@dataclass(frozen=True)
class Trial:
    """A graph that was written and run: its bytes, and its vectors' cosines to the float32 model's."""

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
    found: dict[frozenset[str], Trial] = field(default_factory=dict)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What may have 4 bits or 8."""
        return (TABLE_PART, *matrix_parts(tensor_specs(self.encoder.config)))

    @cached_property
    def _seen(self) -> tuple[Sequence[Sequence[int]], Floats]:
        texts = [t for t in self.encoder.sample if t][::EVERY]
        return texts, exact_vectors(self.encoder, texts)

    @cached_property
    def _unseen(self) -> tuple[Sequence[Sequence[int]], Floats]:
        return self.held_out, exact_vectors(self.encoder, self.held_out)

    def calibrated(self, four_bits: Collection[str]) -> Trial:
        """On texts that matrices were rounded by."""
        return self._run(four_bits, *self._seen)

    def unseen(self, four_bits: Collection[str]) -> Trial:
        """On texts that they were not; each composition is tried once."""
        key = frozenset(four_bits)
        if key not in self.found:
            self.found[key] = self._run(four_bits, *self._unseen)
            self.report.step(f"{_words(self.found[key])} with 4 bits in {_named(four_bits, self.parts)}")
        return self.found[key]

    def _run(self, four_bits: Collection[str], texts: Sequence[Sequence[int]], exact: Floats) -> Trial:
        row = composed_row([p for p in self.parts if p in four_bits])[1]
        self.folder.mkdir()
        try:
            path = self.folder / row.onnx_file
            data = write_onnx(self.encoder, path, lambda _: None, row)
            return Trial(path.stat().st_size + data.stat().st_size, _cosines(_vectors(path, texts), exact))
        finally:
            shutil.rmtree(self.folder)


def choose(trials: Trials, wanted: Wanted) -> Chosen:
    """The smallest composition along the curve that holds the wanted cosine on texts not calibrated on.

    Raises:
        ExportError: there is none, or none so small; says what there is.
    """
    if not trials.held_out:
        raise ExportError(
            "The checkpoint reads so few tokens that no text to judge a composition by is left. Choose a "
            "--precision instead."
        )
    order, curve = _weighed(trials)
    fours = [frozenset(order[n:]) for n in range(len(order) + 1)]  # parts with 4 bits, smallest graph first

    def holds(n: int) -> bool:
        return trials.unseen(fours[n]).mean >= wanted.cosine

    found = _first(holds, [point.estimated_cosine >= wanted.cosine for point in curve])
    _require(trials, wanted, fours, found)
    assert found is not None
    trial, four = trials.unseen(fours[found]), fours[found]
    precision, row = composed_row([part for part in trials.parts if part in four])
    composition = Composition(
        target_cosine=wanted.cosine,
        bits={part: 4 if part in four else 8 for part in trials.parts},
        texts=len(trials.held_out),
        cosine_mean=trial.mean,
        cosine_min=float(trial.cosines.min()),
        curve=tuple(_measured(p, trials.found.get(four)) for p, four in zip(curve, fours, strict=True)),
    )
    return Chosen(precision, row, composition)


def _weighed(trials: Trials) -> tuple[list[str], list[CurvePoint]]:
    """The parts in the order in which they get 8 bits, and the estimates along that way."""
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
    """The first point that holds, sought from the first that is estimated to, both ways; None: none does."""
    last = len(estimated) - 1
    at = estimated.index(True) if True in estimated else last
    while not holds(at):
        if at == last:
            return None
        at += 1
    while at > 0 and holds(at - 1):
        at -= 1
    return at


def _require(trials: Trials, wanted: Wanted, fours: Sequence[frozenset[str]], found: int | None) -> None:
    if found is None:
        best = trials.unseen(fours[-1])
        raise ExportError(
            f"No composition of 4 and 8 bits holds a mean cosine of {wanted.cosine}: the most exact has "
            f"{_words(best)}. Ask for at most {_floored(best.mean)}, or export --precision fp16 or fp32."
        )
    most, smallest = wanted.max_bytes, trials.unseen(fours[found])
    if most is None or smallest.bytes <= most:
        return
    for four in reversed(fours[:found]):
        if trials.unseen(four).bytes <= most:
            best = trials.found[four]
            have = f"Within {_mb(most)} the best is {_words(best)}"
            advice = f"--target-cosine {_floored(best.mean)}, or --max-size {_mb(smallest.bytes, up=True)}"
            break
    else:
        least = trials.unseen(fours[0])
        have = f"The smallest of all has {_words(least)}"
        advice = f"--max-size {_mb(least.bytes, up=True)} or more"
    raise ExportError(
        f"A mean cosine of {wanted.cosine} takes {_mb(smallest.bytes, up=True)}, and --max-size is "
        f"{_mb(most)}. {have}. Give {advice}."
    )


def _measured(point: CurvePoint, trial: Trial | None) -> CurvePoint:
    if trial is None:
        return point
    return CurvePoint(point.part, trial.bytes, point.estimated_cosine, trial.mean)


def _vectors(path: Path, texts: Sequence[Sequence[int]]) -> Floats:
    """What the graph at `path` gives for each text alone, [texts, dim]; its files are let go of."""
    session, found = OnnxSession(path, available_cpus()), []
    for ids in texts:
        tokens = np.array([ids], np.int64)
        found.append(session.run(tokens, np.ones_like(tokens), ("sentence_embedding",))[0][0])
    return np.stack(found)


def _cosines(a: Floats, b: Floats) -> Floats:
    """Row by row, [texts]."""
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
    """Rounded to 0.1 MB, or up to it, so that it can be asked for."""
    tenths = -(-size // 100_000) if up else round(size / 100_000)
    return f"{tenths / 10:.1f}MB"


def _floored(cosine: float) -> float:
    """With four decimals, so that it can be asked for."""
    return int(cosine * 10_000) / 10_000
