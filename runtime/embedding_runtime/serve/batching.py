"""Runs the texts of all requests together: one thread keeps the engine working on full batches.

A batch is the text whose turn it is, together with waiting texts that have exactly as many tokens. Requests
take turns, so that none waits forever. The thread does not wait for more texts: the next batch is made of
what came in while the engine ran. Without padding, an engine sums over the same tokens as for the text alone;
if the text were padded to another length, ONNX Runtime's sum over tokens would change in the last bit.
"""

import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding.overflow import Pieces
from embedding_runtime.encoding.stream import TOKEN_BUDGET
from embedding_runtime.errors import EmbeddingError
from embedding_runtime.vectors import Floats

Run = Callable[[list[NDArray[np.int32]], list[int]], Floats]


@dataclass(eq=False)
class Job:
    """One request's sequences: when `done` is called there are `vectors` (sequences, D), or an `error`.

    `done` is called once, from the engine's thread; never after `Batcher.cancel`.
    """

    pieces: list[Pieces]
    done: Callable[[], object]
    vectors: Floats | None = None
    error: BaseException | None = None
    sequences: list[NDArray[np.int32]] = field(init=False)
    unpooled: list[int] = field(init=False)
    waiting: dict[int, "Waiting"] = field(default_factory=dict)
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.sequences = [ids for piece in self.pieces for ids in piece.ids]
        self.unpooled = [piece.unpooled for piece in self.pieces for _ in piece.ids]
        self.left = len(self.sequences)


class Waiting(NamedTuple):
    """One sequence that waits: sorted by length, then by when it came; `serial` is unique."""

    length: int
    serial: int
    job: Job
    place: int


class Queue:
    """The waiting sequences by length, and the order of turns. For one thread at a time."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._sorted: list[Waiting] = []
        self._turns: deque[Job] = deque()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, job: Job) -> None:
        """Queue all sequences of a job."""
        for index, sequence in enumerate(job.sequences):
            self._serial += 1
            entry = Waiting(len(sequence), self._serial, job, index)
            job.waiting[index] = entry
            insort(self._sorted, entry)
        self._turns.append(job)

    def remove(self, job: Job) -> None:
        """Remove the waiting sequences of a job."""
        for entry in job.waiting.values():
            del self._sorted[bisect_left(self._sorted, entry)]
        job.waiting.clear()
        if job in self._turns:
            self._turns.remove(job)

    def take(self) -> list[Waiting]:
        """Take 1 to `batch_size` sequences of one length, within `TOKEN_BUDGET` tokens if several."""
        if not self._turns:
            return []
        job = self._turns.popleft()
        start = bisect_left(self._sorted, next(iter(job.waiting.values())))
        first, last = self._alike(start)
        batch = self._sorted[first:last]
        del self._sorted[first:last]
        for entry in batch:
            del entry.job.waiting[entry.place]
            if not entry.job.waiting and entry.job is not job:
                self._turns.remove(entry.job)
        if job.waiting:
            self._turns.append(job)
        return batch

    def _alike(self, start: int) -> tuple[int, int]:
        """The positions of entries of the same length as an entry, as many as fit into a batch with it."""
        length = self._sorted[start].length
        first, last = (bisect_left(self._sorted, (least,)) for least in (length, length + 1))
        count = max(1, min(self._batch_size, TOKEN_BUDGET // length))
        first = max(first, min(start, last - count))
        return first, min(last, first + count)


class Batcher:
    """The thread that runs the engine, and the queue before it; may be used from any thread."""

    def __init__(self, run: Run, batch_size: int, notice: Callable[[int, int], None]) -> None:
        """Start the thread; `notice` gets the numbers of texts and tokens of each batch that was run."""
        self._run, self._notice = run, notice
        self._queue = Queue(batch_size)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        """The number of waiting sequences."""
        return len(self._queue)

    def submit(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._queue.add(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Run no more of a job; the results of a running batch are discarded."""
        with self._changed:
            job.error = job.error or InterruptedError()
            self._queue.remove(job)

    def close(self) -> None:
        """Run the waiting sequences, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not len(self._queue) and not self._closed:
                    self._changed.wait()
                batch = self._queue.take()
            if not batch:
                return
            self._run_batch(batch)

    def _run_batch(self, batch: list[Waiting]) -> None:
        try:
            sequences = [entry.job.sequences[entry.place] for entry in batch]
            vectors = self._run(sequences, [entry.job.unpooled[entry.place] for entry in batch])
        except Exception as e:
            if len(batch) > 1 and isinstance(e, EmbeddingError):
                for entry in batch:  # one of them is to blame, the others are not
                    self._run_batch([entry])
                return
            self._settle(batch, None, e)
        else:
            self._notice(len(batch), sum(entry.length for entry in batch))
            self._settle(batch, vectors, None)

    def _settle(self, batch: list[Waiting], vectors: Floats | None, error: Exception | None) -> None:
        ready: list[Job] = []
        with self._changed:
            for place, entry in enumerate(batch):
                job = entry.job
                if job.error is not None:
                    continue
                if vectors is None:
                    job.error = error
                    self._queue.remove(job)
                    ready.append(job)
                    continue
                if job.vectors is None:
                    job.vectors = np.empty((len(job.sequences), vectors.shape[1]), dtype=np.float32)
                job.vectors[entry.place] = vectors[place]
                job.left -= 1
                if not job.left:
                    ready.append(job)
        for job in ready:
            job.done()
