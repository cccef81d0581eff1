"""Recommends which file to use, in plain words: a pure function of a run of `compare.json`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from embedding_validate.compare.document import figures
from embedding_validate.compare.document.document import BundleEntry, GraphEntry, Run, TorchEntry
from embedding_validate.compare.report.grid import number

# Within this much of the fastest, the smaller file is taken.
_AS_FAST = 1.1


@dataclass(frozen=True)
class Choice:
    """One of our graphs at one shape: bytes on the disk, milliseconds, kB of its own memory.

    `coarse` is 0 if vectors are the model's in all but detail, 1 if more is lost; `doubts` must be stated
    before it is recommended.
    """

    system: str
    size: int
    milliseconds: float
    memory: int | None
    coarse: int
    doubts: tuple[str, ...]


def recommendation(run: Run) -> list[str]:
    """Sentences, one for each class of length and each limit of size at which the answer changes.

    Only our graphs are recommended, and none that is wrong; 4-bit ones with their loss. A graph that has not
    been compared, or whose figures were all disturbed, is recommended only if there is no other, and that is
    stated first. Where there are several models, each has sentences of its own: no model is preferred.
    """
    sentences = models(run)
    named = len(figures.spaces(run)) > 1
    for bundles in figures.spaces(run).values():
        of = f"{_names(bundles)}, " if named else ""
        for shape, words in _shapes(run):
            sentences += _of_model(run, bundles, shape, (of, words))
    return sentences


def models(run: Run) -> list[str]:
    """Where there are several models, what may be compared between them."""
    bundles, sentences = list(figures.spaces(run).values()), []
    if len(bundles) > 1:
        sentences.append(
            f"{len(bundles)} models are compared here: {'; '.join(map(_names, bundles))}. Their sizes and "
            "times can be compared, their vectors cannot: accuracy is to each model's own most exact system, "
            "and each model has its own advice. Which of them finds more on your texts, --corpus says with "
            "pairs of query and document."
        )
    ours = {figures.base(run, name) for name in figures.graphs(run)}
    sentences += [
        f"{entry.name} is of none of the bundles' models: no graph's accuracy is measured against it."
        for entry in run.systems
        if isinstance(entry, TorchEntry) and figures.base(run, entry.name) not in ours - {None}
    ]
    return sentences


def _names(bundles: Sequence[BundleEntry]) -> str:
    """The checkpoint of one model's bundles, and their folders."""
    sources = " and ".join(dict.fromkeys(bundle.source for bundle in bundles))
    return f"{sources} ({', '.join(PurePath(bundle.path).name for bundle in bundles)})"


def _of_model(run: Run, bundles: Sequence[BundleEntry], shape: str, said: tuple[str, str]) -> Iterator[str]:
    """The sentences on the graphs of one model at one shape; `said` are the words for both."""
    threads = max(run.plan.threads)
    for limit, choice in _by_limit(_choices(run, bundles, threads, shape)):
        within = f"≤ {_megabytes(limit)}" if limit is not None else "any size"
        doubts = " and ".join(choice.doubts)
        yield (
            f"{f'{doubts[0].upper()}{doubts[1:]}. ' if doubts else ''}"
            f"For {said[0]}{within} and {said[1]} take {_called(run, choice)}: {_megabytes(choice.size)} "
            f"with its tokenizer, {number(choice.milliseconds)} ms on {threads} "
            f"thread{'s' if threads > 1 else ''}{_memory(choice)}{_loss(run, choice.system)}."
        )


def _shapes(run: Run) -> Iterator[tuple[str, str]]:
    """Single texts: the shape nearest to a query, to a passage, and the longest."""
    lengths = sorted(int(s) for s in run.plan.shapes if s.isdigit())
    nearest = {min(lengths, key=lambda n: abs(n - goal)): None for goal in (64, 512)} if lengths else {}
    for tokens in sorted({*nearest, *lengths[-1:]}):
        kind = "queries" if tokens <= 128 else "passages" if tokens <= 512 else "long texts"
        yield str(tokens), f"{kind} of up to {tokens} tokens"


def _choices(run: Run, bundles: Sequence[BundleEntry], threads: int, shape: str) -> list[Choice]:
    choices, paths = [], {bundle.path for bundle in bundles}
    for name in figures.systems(run):
        case, size = figures.case(run, name, threads, shape), figures.disk_bytes(run, name)
        entry = figures.about(run, name)
        own = isinstance(entry, GraphEntry) and entry.bundle in paths
        if own and figures.wrong(run, name) is None and size and case and case.median_ms is not None:
            memory = case.memory.get("anonymous_peak")
            coarse, doubts = figures.coarseness(run, name), tuple(figures.doubts(run, name))
            choices.append(Choice(name, size, case.median_ms, memory, coarse, doubts))
    return sorted(choices, key=lambda c: c.size)


def _by_limit(choices: list[Choice]) -> Iterator[tuple[int | None, Choice]]:
    """The choices from the smallest size limit up; a limit is the round number above the file's size."""
    by_limit: dict[int | None, Choice] = {}
    for i, choice in enumerate(choices):
        best = _best(choices[: i + 1])
        if best not in by_limit.values():
            by_limit[int(figures.rounded_up(choice.size)) if len(choices) > 1 else None] = best
    yield from by_limit.items()


def _best(choices: list[Choice]) -> Choice:
    """The fastest graph of the most accurate kind, or a smaller one that is about as fast; a doubtful one
    only if that kind has no other."""
    kind = [c for c in choices if c.coarse == min(c.coarse for c in choices)]
    kind = [c for c in kind if not c.doubts] or kind
    fastest = min(c.milliseconds for c in kind)
    return next(c for c in kind if c.milliseconds <= fastest * _AS_FAST)


def _called(run: Run, choice: Choice) -> str:
    """Its name; a composed graph is another one than the plain graph of its precision."""
    made = figures.composed(run, choice.system)
    return f"{choice.system} ({made})" if made else choice.system


def _memory(choice: Choice) -> str:
    return f", {choice.memory / 1024:.0f} MB of memory of its own" if choice.memory else ""


def _loss(run: Run, system: str) -> str:
    """A clause on accuracy, if there is something to say."""
    least = figures.cosine(run, system)
    if least is not None and figures.coarseness(run, system) and system != figures.base(run, system):
        return f"; mind its accuracy, cosine down to {least:.3f} here"
    return ""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
