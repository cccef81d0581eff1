"""The encoder as the writers of both formats take it: its weights, its stages, and the calibration sample."""

from collections.abc import Callable
from dataclasses import dataclass

from embedding_export.architectures.interface.figures import Figures
from embedding_export.weights.calibration import calibrate
from embedding_export.weights.folding import Weights
from embedding_export.weights.matrices import Matrices


@dataclass(frozen=True)
class Encoder:
    """What every format is built from; `sample` is texts' token ids for int8 and int4 to see activations.

    No text is longer than `max_seq_length` tokens.

    `shared` gives what they are rounded by, where several graphs share it.
    """

    config: Figures
    weights: Weights
    normalize: bool
    embedding_dim: int
    max_seq_length: int
    sample: tuple[tuple[int, ...], ...] = ()
    include_prompt: bool = True
    shared: Callable[[], Matrices] | None = None

    def matrices(self) -> Matrices:
        """What rounds its matrices, by its activations on the sample: a minute of work for 308 M parameters
        to see them, and another to round."""
        if self.shared is not None:
            return self.shared()
        return Matrices(self.config, self.weights, calibrate(self.config, self.weights, self.sample))
