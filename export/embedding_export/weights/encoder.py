"""What the writers of every format make a graph from; knows neither format."""

from collections.abc import Callable
from dataclasses import dataclass

from embedding_export.architectures.interface.figures import Figures
from embedding_export.weights.calibration import Calibration, calibrate
from embedding_export.weights.folding import Weights


@dataclass(frozen=True)
class Encoder:
    """What every format is built from; `sample` is texts' token ids for int8 and int4 to see activations.

    No text is longer than `max_seq_length` tokens.

    `calibrated` gives what was seen of them, where several graphs share it.
    """

    config: Figures
    weights: Weights
    normalize: bool
    embedding_dim: int
    max_seq_length: int
    sample: tuple[tuple[int, ...], ...] = ()
    include_prompt: bool = True
    calibrated: Callable[[], Calibration] | None = None

    def calibration(self) -> Calibration:
        """What the encoder's activations are like on the sample: a minute of work for 308 M parameters."""
        if self.calibrated is not None:
            return self.calibrated()
        return calibrate(self.config, self.weights, self.sample)
