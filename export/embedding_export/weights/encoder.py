"""What the writers of every format make a graph from; knows neither format."""

from dataclasses import dataclass

from embedding_export.architectures.encoder_config import EncoderConfig
from embedding_export.weights.folding import Weights


@dataclass(frozen=True)
class Encoder:
    """What every format is built from; `sample` is texts' token ids for int8 and int4 to see activations."""

    config: EncoderConfig
    weights: Weights
    normalize: bool
    embedding_dim: int
    sample: tuple[tuple[int, ...], ...] = ()
