"""The queue before the engine: full batches of like lengths, turns for everybody, nothing left behind."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_runtime.encoding.overflow import Pieces
from embedding_runtime.encoding.stream import TOKEN_BUDGET
from embedding_runtime.errors import EngineError
from embedding_runtime.serve.batching import Batcher, Job, Queue

LENGTHS = st.lists(st.lists(st.integers(1, 2048), min_size=1, max_size=40), max_size=12)


def job(*lengths: int, done: Any = None) -> Job:
    pieces = [Pieces([np.full(length, length, dtype=np.int32)], long=False) for length in lengths]
    return Job(pieces, done or (lambda: None))


@given(LENGTHS, st.integers(1, 33), st.data())
@settings(max_examples=60, deadline=None)
def test_every_sequence_is_taken_once_in_batches_that_fit(
    requests: list[list[int]], batch_size: int, data: Any
) -> None:
    queue, jobs = Queue(batch_size), [job(*lengths) for lengths in requests]
    for each in jobs:
        queue.add(each)
    gone = data.draw(st.sets(st.sampled_from(range(len(jobs))))) if jobs else set()
    for number in gone:
        queue.remove(jobs[number])
    taken: list[tuple[int, int]] = []
    while batch := queue.take():
        lengths = [entry.length for entry in batch]
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths) <= TOKEN_BUDGET
        assert len(set(lengths)) == 1
        taken += [(jobs.index(entry.job), entry.place) for entry in batch]
    assert sorted(taken) == [
        (n, i) for n, each in enumerate(jobs) if n not in gone for i in range(len(each.sequences))
    ]
    assert not len(queue)


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    queue, large, small = Queue(4), job(*[500] * 100), job(5)
    queue.add(large)
    queue.add(small)
    assert {entry.job for entry in queue.take()} == {large}
    assert {entry.job for entry in queue.take()} == {small}
    assert {entry.job for entry in queue.take()} == {large}


def test_a_turn_is_one_among_equal_lengths_too() -> None:
    queue, large, small = Queue(2), job(*[10] * 9), job(10)
    queue.add(large)
    queue.add(small)
    assert [entry.job for entry in queue.take()] == [large, large]
    assert small in {entry.job for entry in queue.take()}


def test_equal_lengths_of_several_requests_share_a_batch() -> None:
    queue = Queue(3)
    for lengths in ((10, 100), (100, 10), (100, 10), (10, 9)):
        queue.add(job(*lengths))
    found = [[entry.length for entry in queue.take()] for _ in range(4)]
    assert sorted(found) == [[9], [10], [10, 10, 10], [100, 100, 100]]


@contextmanager
def batcher(run: Any) -> Iterator[Batcher]:
    found = Batcher(run, 32, lambda *_: None)
    try:
        yield found
    finally:
        found.close()


def lengths_as_vectors(sequences: list[Any], _: list[int]) -> Any:
    if any(len(s) == 13 for s in sequences):
        raise EngineError("13")
    return np.array([[len(s)] for s in sequences], dtype=np.float32)


def finished(running: Batcher, *jobs: tuple[int, ...]) -> list[Job]:
    """Jobs that were submitted at once and are done."""
    events = [threading.Event() for _ in jobs]
    found = [job(*lengths, done=event.set) for lengths, event in zip(jobs, events, strict=True)]
    for each in found:
        running.submit(each)
    assert all(event.wait(10) for event in events)
    return found


def test_a_sequence_that_the_engine_fails_on_harms_its_own_request_alone() -> None:
    with batcher(lengths_as_vectors) as running:
        good, bad, other = finished(running, (12, 14), (13, 12), (12,))
    assert isinstance(bad.error, EngineError)
    for each, expected in ((good, [[12], [14]]), (other, [[12]])):
        assert each.error is None and each.vectors is not None
        np.testing.assert_array_equal(each.vectors, expected)


def test_an_unforeseen_fault_does_not_end_the_thread() -> None:
    def run(sequences: list[Any], unpooled: list[int]) -> Any:
        if len(sequences[0]) == 7:
            raise ZeroDivisionError
        return lengths_as_vectors(sequences, unpooled)

    with batcher(run) as running:
        (bad,) = finished(running, (7,))
        (good,) = finished(running, (8,))
        assert running.alive
    assert isinstance(bad.error, ZeroDivisionError)
    assert good.vectors is not None


def test_a_cancelled_request_is_never_done() -> None:
    entered, leave = threading.Event(), threading.Event()
    told: list[int] = []

    def run(sequences: list[Any], unpooled: list[int]) -> Any:
        entered.set()
        assert leave.wait(10)
        return lengths_as_vectors(sequences, unpooled)

    with batcher(run) as running:
        other, gone = (job(length, done=partial(told.append, length)) for length in (500, 100))
        running.submit(other)
        running.submit(gone)
        assert entered.wait(10)
        running.cancel(gone)
        assert not len(running)
        leave.set()
    assert told == [500]
