"""How long a graph's work should take by a device's profile: a prediction, to be labelled as one.

Operators run one after the other. Each takes its multiply-accumulates at the rate of its rows, or what its
elements take, but no less than an operator of a few tokens; or the moving of what a core's cache does not
hold, weights and tensors, where that is longer (the roofline of Williams, Waterman and Patterson,
https://doi.org/10.1145/1498765.1498785).
"""

import itertools
import math
from collections.abc import Mapping

from embedding_validate.compare.cost.work import PRODUCTS, Step, Work
from embedding_validate.compare.document.prediction import DeviceProfile


def predicted_ms(work: Work, device: DeviceProfile) -> float:
    """Milliseconds of a run."""
    streamed = work.weight_bytes > device.cache_bytes
    return 1e3 * sum(_seconds(step, device, streamed) for step in work.steps)


def _seconds(step: Step, device: DeviceProfile, streamed: bool) -> float:
    moved = step.moved_bytes if step.moved_bytes > device.cache_bytes else 0
    reading = (step.weight_bytes * streamed + moved) / device.bytes_per_s
    return max(_computing(step, device), reading)


def _computing(step: Step, device: DeviceProfile) -> float:
    if step.kind in PRODUCTS:
        # Four-bit weights are multiplied as eight-bit ones.
        return step.macs / rate(device.macs_per_s.get(step.kind, device.macs_per_s["int8"]), step.rows)
    elements = step.elements * device.element_s.get(step.kind, device.element_s["arithmetic"])
    return max(device.operator_s, elements)


def rate(rates: Mapping[str, float], rows: int) -> float:
    """The rate at a number of rows: between two that were timed along a line in the logarithms of both, below
    the first in proportion to the rows, above the last as the last."""
    points = sorted((int(n), r) for n, r in rates.items())
    if rows <= points[0][0]:
        return points[0][1] * rows / points[0][0]
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if rows <= high:
            at = math.log(rows / low) / math.log(high / low)
            return math.exp(math.log(slow) + at * math.log(fast / slow))
    return points[-1][1]
