"""How long a graph's work should take by a device's profile: a prediction, to be labelled as one.

Operators run one after the other. A product takes its multiply-accumulates at the rate of its rows, or the
reading of its weights from memory where they do not stay in a cache, whichever is longer (the roofline of
Williams, Waterman and Patterson, https://doi.org/10.1145/1498765.1498785); the others what their elements
take.
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
    if step.kind not in PRODUCTS:
        return device.operator_s + step.elements * device.element_s.get(
            step.kind, device.element_s["arithmetic"]
        )
    # Four-bit weights are multiplied as eight-bit ones.
    rates = device.macs_per_s.get(step.kind, device.macs_per_s["int8"])
    computing = step.macs / rate(rates, step.rows)
    reading = step.weight_bytes / device.bytes_per_s if streamed else 0.0
    return device.operator_s + max(computing, reading)


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
