"""What the reference answers to a set of probes: token ids and vectors, computed once, used for every graph.

Knows neither how they were computed nor what they are compared with; needs numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Source
from embedding_validate.probes import ProbeSet


@dataclass(frozen=True)
class Answer:
    """Token ids after truncation (`<bos>` and `<eos>` included) and the vector, float32 of shape (dim,)."""

    ids: tuple[int, ...]
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """The answer to every probe by its id, and the facts about the reference that a bundle must share."""

    probes: ProbeSet
    by_probe: Mapping[str, Answer]
    source: Source
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str
    max_seq_length: int
    versions: dict[str, str]
