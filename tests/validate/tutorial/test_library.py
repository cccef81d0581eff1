"""The demonstration's library: sound data, and a search that answers as the vectors given to it say."""

import numpy as np
from numpy.typing import NDArray

from embedding_validate.probes import texts
from embedding_validate.probes.probes import Probe
from embedding_validate.tutorial import passages as library

PROMPTS = {"document": "title: none | text: "}


def test_every_question_has_its_passage() -> None:
    shelf = texts.library()
    titles = [title for title, _ in shelf.passages]
    assert len(set(titles)) == len(titles) >= 36
    assert {title for _, title in shelf.questions} <= set(titles)


def test_the_nearest_passage_is_found() -> None:
    shelf = texts.library()
    places = {title: i for i, (title, _) in enumerate(shelf.passages)}
    answers = dict(shelf.questions)

    def right(probe: Probe, dim: int | None) -> NDArray[np.float32]:
        title = probe.title if probe.title is not None else answers[probe.text]
        vector: NDArray[np.float32] = np.eye(len(places), dtype=np.float32)[places[title]]
        return vector

    def wrong(probe: Probe, dim: int | None) -> NDArray[np.float32]:
        return right(probe, dim) if probe.title is not None else np.roll(right(probe, dim), 1)

    found = library.search(right, wrong, PROMPTS)
    assert all(f.reference == f.expected != f.bundle for f in found)
    assert library.search(right, wrong, {"document": "passage: "}) == ()
