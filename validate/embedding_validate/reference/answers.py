"""The reference's answers to a set of probes: token ids and vectors, computed once, used for every graph.

This module needs only numpy.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Graph, Manifest, Source
from embedding_validate.probes.probes import ProbeSet


@dataclass(frozen=True)
class Answer:
    """Token ids after truncation (`<bos>` and `<eos>` included) and the vector, float32 of shape (dim,).

    `states` are the last hidden states after the final norm, float32 (tokens, hidden size); only some probes
    have them.
    """

    ids: tuple[int, ...]
    vector: NDArray[np.float32]
    states: NDArray[np.float32] | None = None


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
        """These answers in the ids of a bundle with a trimmed vocabulary; unchanged for other bundles.

        Probes with a token that was trimmed away are dropped: their vectors are meant to differ. If every
        token of a text stays, the text is tokenized alike, because byte-pair merges only join parts of the
        final tokens.
        """
        if manifest.tokenizer.kept_ids is None:
            return self
        kept_ids = np.load(bundle / manifest.tokenizer.kept_ids)
        new = {int(old): i for i, old in enumerate(kept_ids)}
        by_probe = {
            name: replace(answer, ids=tuple(new[i] for i in answer.ids))
            for name, answer in self.by_probe.items()
            if new.keys() >= set(answer.ids)
        }
        return replace(self, by_probe=by_probe)._only(by_probe.keys())

    def for_graph(self, graph: Graph, pad_id: int) -> "Answers":
        """These answers without the probes that a graph does not support.

        A graph with buckets reads no more tokens than its largest one holds, and refuses the padding id.
        """
        if not graph.buckets:
            return self
        most = max(graph.buckets)
        longest = {p.id: p.chunked_at or len(self.by_probe[p.id].ids) for p in self.probes.probes}
        return self._only({n for n, t in longest.items() if t <= most and pad_id not in self.by_probe[n].ids})

    def without_prompts(self) -> "Answers":
        """These answers without the probes that have a prompt before their text."""
        plain = (p for p in self.probes.probes if p.verb == "encode" and p.prompt_name is None)
        return self._only({p.id for p in plain if self.default_prompt_name is None})

    def without_control_tokens(self) -> "Answers":
        """These answers without the probes whose text has control tokens that are to be read as such."""
        return self._only({p.id for p in self.probes.probes if not p.allow_special})

    def _only(self, names: Set[str]) -> "Answers":
        probes = replace(
            self.probes,
            probes=tuple(p for p in self.probes.probes if p.id in names),
            batches=tuple(b for b in self.probes.batches if names >= set(b)),
            dims=tuple(i for i in self.probes.dims if i in names),
        )
        return replace(self, probes=probes, by_probe={n: a for n, a in self.by_probe.items() if n in names})
