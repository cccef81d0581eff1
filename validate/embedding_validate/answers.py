"""What the reference answers to a set of probes: token ids and vectors, computed once, used for every graph.

Knows neither how they were computed nor what they are compared with; needs numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Manifest, Source
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

    def for_bundle(self, bundle: Path, manifest: Manifest) -> "Answers":
        """These answers in the ids of a bundle whose vocabulary was trimmed; else as they are.

        Probes with a token that was trimmed away drop out: their vectors are meant to differ. A text whose
        every token stays is tokenized alike, since byte-pair merges only ever join what ends up in a token.
        """
        if manifest.tokenizer.kept_ids is None:
            return self
        kept = np.load(bundle / manifest.tokenizer.kept_ids)
        new = {int(old): i for i, old in enumerate(kept)}
        by_probe = {
            name: replace(answer, ids=tuple(new[i] for i in answer.ids))
            for name, answer in self.by_probe.items()
            if new.keys() >= set(answer.ids)
        }
        probes = replace(
            self.probes,
            probes=tuple(p for p in self.probes.probes if p.id in by_probe),
            batches=tuple(b for b in self.probes.batches if by_probe.keys() >= set(b)),
            dims=tuple(i for i in self.probes.dims if i in by_probe),
        )
        return replace(self, probes=probes, by_probe=by_probe)
