"""What the trained model's weights have and random ones lack, measured on google/embeddinggemma-300m.

Knows nothing of names of tensors: figures per layer, from the sizes alone. On `<bos>` and `<eos>` one or two
channels of the residual stream grow far beyond the rest: a neuron per layer sees the marker in those tokens'
rows of the table and writes a peak. No peak feeds another, and the norms that read the stream weigh peaks
down, as trained ones do. The first layer writes as much beside peaks as the trained one's last ones do, each
later one less than is there: trained layers damp a rounding error, random ones that add more enlarge it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Row norms of the table: a lognormal distribution between two bounds, and what `<bos>` and `<eos>` have.
ROW_NORM, ROW_SPREAD, ROW_BOUNDS = 1.84, 0.15, (1.0, 3.5)
END_NORMS = {1: 1.93, 2: 1.21}
# Channel 0 is the same in every row, and no layer writes to it; the marker is in rows of END_NORMS alone.
STEADY, MARKER = 0.36, 0.9
# Residual stream: root mean square of what a norm adds beside peaks, and peaks.
FIRST_UPDATE, UPDATE = 80.0, 35.0
FIRST_PEAK, LATE_PEAK = 950.0, 20_000.0
LAST_GAINS = (2_535.0, 1_516.0)
LEAST_GAIN = -86.0
# Gains of norms that write: lognormal; one in fifty is negative and smaller.
GAIN_SPREAD, NEGATIVE, NEGATIVE_SIZE = 0.4, 0.02, -0.3
# Gains of norms that read, relative: of peaks. The final one makes a peak of this size of them.
PEAK_GAIN, FINAL_PEAK = 0.05, 2.0
# Largest weights, in rows of unit norm: what reads the marker in gate and up projections, what writes a peak.
# At full size their rows' maxima are 18, 24 and 34 standard deviations. A query row's: 14.
GATE, UP, DOWN, QUERY = 1.1, 1.7, 0.95, 0.6
# The last ones' rows are small beside, and the neuron leans far: large gains enlarge other tokens' errors.
WRITER_ROW, NEURON_LEAN = 0.02, -7.0
# What the marker measures where a gate reads it, and channel 0 (relative to the root of the hidden size).
MARKER_SEEN, STEADY_SEEN = 11.0, 0.3
# One in 192 of the channels that these tensors make is larger, by this times the root of their number.
OUTLIERS = {
    "input_layernorm": 0.45,
    "v_proj": 0.45,
    "pre_feedforward_layernorm": 0.25,
    "norm": 0.45,
    "2_Dense": 0.13,
}
OUTLIER_SHARE = 192


def table_rows(weight: Array, rows: slice, marker: int, rng: np.random.Generator) -> Array:
    """Rows of a table, `weight` [rows, hidden]: changed to norms that trained ones have, with channel 0 and
    the channel `marker` set."""
    norms = ROW_NORM * np.exp(ROW_SPREAD * rng.standard_normal(len(weight)))
    norms = norms.clip(*ROW_BOUNDS)
    marked = np.zeros(len(weight))
    for token, norm in END_NORMS.items():
        if rows.start <= token < rows.stop:
            norms[token - rows.start], marked[token - rows.start] = norm, MARKER
    weight[:, [0, marker]] = 0
    rest = np.sqrt(norms**2 - STEADY**2 - marked**2)
    weight *= (rest / np.linalg.norm(weight, axis=1))[:, None]
    weight[:, 0], weight[:, marker] = STEADY, marked
    return weight


@dataclass(frozen=True)
class Layer:
    """Figures of one layer.

    Attributes:
        peak_channel, peak_gain: where the MLP's norm writes the peak, and its gain there.
        reads: gains of the two norms that read, which make activations of ordinary tokens measure 1.
        steady_gain, marker_gain: gains of the MLP's first norm at channel 0 and at the marker.
    """

    peak_channel: int
    peak_gain: float
    reads: tuple[float, float]
    steady_gain: float
    marker_gain: float


@dataclass(frozen=True)
class Likeness:
    """Figures for a model of `hidden` channels, MLPs of `intermediate` ones and `layers` layers."""

    hidden: int
    intermediate: int
    layers: int

    @property
    def peaks(self) -> tuple[int, int]:
        """Channels with peaks, in the first eighth of the layers and after it."""
        return self._channel(39), self._channel(731)

    @property
    def marker(self) -> int:
        return self._channel(67)

    @property
    def steady_seen(self) -> float:
        return STEADY_SEEN * float(np.sqrt(self.hidden))

    @property
    def writer_row(self) -> float:
        """How large the rows that write peaks are beside their largest weight."""
        return WRITER_ROW * (self.hidden / 768) ** 2

    def schedule(self) -> list[Layer]:
        """Every layer's figures, by what the stream is expected to measure there."""
        result = []
        root = float(np.sqrt(self.hidden))
        written = float(1 / np.sqrt(1 / (self.intermediate * DOWN**2) + 1 / self.hidden))
        before, ordinary, peaks = ROW_NORM, 0.0, [0.0, 0.0]
        for i in range(self.layers):
            middle = float(np.hypot(before, self.update(i)))
            late = i >= max(1, self.layers // 8)
            gain = self._peak_gain(i, peaks[late], written)
            others = [float(np.hypot(part, ordinary / root)) for part in (before, middle)]
            ends = float(np.sqrt(middle**2 + (peaks[0] ** 2 + peaks[1] ** 2) / self.hidden + MARKER**2))
            result.append(
                Layer(
                    peak_channel=self.peaks[late],
                    peak_gain=gain,
                    reads=(others[0] / before, others[1] / middle),
                    steady_gain=self.steady_seen * others[1] / (STEADY * root),
                    marker_gain=MARKER_SEEN * ends / (MARKER * root),
                )
            )
            before, ordinary = (
                float(np.hypot(middle, self.update(i))),
                float(np.hypot(ordinary, self.writer_row * gain)),
            )
            peaks[late] += gain * written
        return result

    def update(self, layer: int) -> float:
        """Root mean square of what each of a layer's two norms adds."""
        return UPDATE if layer else FIRST_UPDATE

    def final_gain(self) -> float:
        """What makes the final norm's output of ordinary tokens measure about 1."""
        rest = np.sqrt(ROW_NORM**2 + 2 * sum(self.update(i) ** 2 for i in range(self.layers)))
        peaks = np.sqrt(
            sum((self.writer_row * layer.peak_gain) ** 2 for layer in self.schedule()) / self.hidden
        )
        return float(np.hypot(rest, peaks) / rest)

    def _peak_gain(self, layer: int, peak: float, written: float) -> float:
        """Peaks grow geometrically; the last two gains are the largest, longer where vectors are shorter."""
        rest = self.layers - layer
        if rest <= len(LAST_GAINS):
            return LAST_GAINS[-rest] * float(np.sqrt(768 / self.hidden))
        share = layer / max(1, self.layers - 1 - len(LAST_GAINS))
        return float((FIRST_PEAK * (LATE_PEAK / FIRST_PEAK) ** share - peak) / written)

    def _channel(self, of_real: int) -> int:
        return round(of_real * self.hidden / 768)
