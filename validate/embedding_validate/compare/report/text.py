"""`compare.md`: presents `compare.json` as text, without computing figures."""

from collections.abc import Callable, Mapping, Sequence

from embedding_validate.compare.document import figures
from embedding_validate.compare.document.agreement import agreements
from embedding_validate.compare.document.browser import BrowserRun
from embedding_validate.compare.document.case import MEASURED, Case
from embedding_validate.compare.document.document import AccountEntry, AnyRun, Document, Run
from embedding_validate.compare.document.tool_run import ToolRun
from embedding_validate.compare.report import advice as compare_advice
from embedding_validate.compare.report import browser as browser_text
from embedding_validate.compare.report import corpus as corpus_text
from embedding_validate.compare.report import predicted
from embedding_validate.compare.report.grid import NONE, grid, number

MARKDOWN = "compare.md"
NOISY = "*"


def markdown(document: Document) -> str:
    """The whole document as Markdown: recommendation, tables, rows that failed, and how it was measured."""
    parts = ["# Comparison"]
    for run in document.runs:
        parts += [f"## {run.label}", *_any(run)]
    if lines := agreements(document):
        parts += ["## Runs on one machine", *(f"- {line}" for line in lines)]
    return "\n\n".join(_joined(parts)) + "\n"


def _any(run: AnyRun) -> list[str]:
    if isinstance(run, Run):
        return _run(run)
    return browser_text.markdown(run) if isinstance(run, BrowserRun) else [run.note, _tool_table(run)]


def ours_failed(run: Run) -> bool:
    """Whether a graph of a bundle ended badly or is wrong."""
    return any(figures.failures(run, name) or figures.wrong(run, name) for name in figures.graphs(run))


def _run(run: Run) -> list[str]:
    parts = [] if run.complete else ["**Interrupted: some cases are missing.**"]
    parts += [f"- {line}" for line in compare_advice.recommendation(run)]
    parts += [*_times(run), _systems(run)]
    if parted := figures.parts(run):
        parts.append(_parts(parted))
    if run.tokenizers:
        parts.append(_tokenizers(run))
    if run.accounts:
        parts.append(_accounts(run.accounts))
    parts += predicted.markdown(run)
    if run.corpus:
        parts += corpus_text.markdown(run.corpus)
    return [*parts, *_failed(run), *_notes(run), _machine(run), f"Command: `{run.command}`"]


def _joined(parts: Sequence[str]) -> list[str]:
    """List items of one list go on lines of their own, not into paragraphs."""
    joined: list[str] = []
    for part in parts:
        if part.startswith("- ") and joined and joined[-1].startswith("- "):
            joined[-1] += f"\n{part}"
        else:
            joined.append(part)
    return joined


def _times(run: Run) -> list[str]:
    """Tables of median milliseconds with the 5th and 95th percentile, the speed relative to the reference
    case, and tokens per second, for each number of threads."""
    tables = []
    for threads in run.plan.threads:
        words = f"{threads} thread{'s' if threads > 1 else ''}"
        tables.append(_grid(run, threads, f"ms (5th–95th percentile), {words}", _spread))
        tables.append(_grid(run, threads, f"× {run.plan.reference}, {words}", _ratio))
        tables.append(_grid(run, threads, f"tokens per second, {words}", _speed))
    return tables


def _grid(run: Run, threads: int, title: str, cell: Callable[[Case], str]) -> str:
    shapes = run.plan.shapes
    rows = []
    for name in figures.systems(run):
        cases = [figures.case(run, name, threads, shape) for shape in shapes]
        rows.append([_name(run, name), *(cell(c) if c else NONE for c in cases)])
    return grid([title, *shapes], rows)


def _milliseconds(case: Case) -> str:
    if case.status != MEASURED:
        return case.status
    return f"{number(case.median_ms)}{NOISY if case.noise else ''}"


def _spread(case: Case) -> str:
    if case.status != MEASURED:
        return case.status
    return f"{_milliseconds(case)} ({number(case.p5_ms)}–{number(case.p95_ms)})"


def _speed(case: Case) -> str:
    return number(case.tokens_per_s)


def _ratio(case: Case) -> str:
    return NONE if case.ratio is None else f"{number(case.ratio)}{NOISY if case.noise else ''}"


def _systems(run: Run) -> str:
    """Size, loading, memory and accuracy, one line per system."""
    head = [
        "",
        "MB",
        "first load s",
        "cold s",
        "warm s",
        "first ms",
        "own MB",
        "mapped MB",
        "cosine",
        "parity",
    ]
    return grid(head, [_system(run, name) for name in figures.systems(run)])


def _system(run: Run, name: str) -> list[str]:
    opening = figures.opening(run, name, run.plan.threads[0])
    memory, parity = figures.memory(run, name), figures.verdict(run, name)
    size = figures.graph_bytes(run, name)
    return [
        _name(run, name),
        number(size / 1e6) if size else NONE,
        *((number(opening.first_s), number(opening.cold_s)) if opening else (NONE, NONE)),
        number(figures.warm_load(run, name)),
        number(figures.first_run(run, name)),
        *(number(m / 1024 if (m := memory.get(k)) else None) for k in ("anonymous_peak", "file_peak")),
        figures.accuracy_cell(run, name),
        parity.status if parity else NONE,
    ]


def _parts(parts: Mapping[str, Mapping[str, int]]) -> str:
    names = list(next(iter(parts.values())))
    rows = [[system, *(number(sizes[n] / 1e6) for n in names)] for system, sizes in parts.items()]
    return grid(["MB by part", *names], rows)


def _tokenizers(run: Run) -> str:
    """Milliseconds of tokenizing, to be added to the graph's."""
    shapes = run.plan.shapes
    by = {(c.system, c.shape): c for c in run.tokenizers}
    names = list(dict.fromkeys(c.system for c in run.tokenizers))
    rows = [[n, *(_milliseconds(by[n, s]) if (n, s) in by else NONE for s in shapes)] for n in names]
    return grid(["ms to add for tokenizing words seen before", *shapes], rows)


def _failed(run: Run) -> list[str]:
    lines = []
    for name in figures.systems(run):
        if reason := figures.wrong(run, name):
            lines.append(f"- **{name} is wrong**: {reason}")
        lines += [
            f"- {name}: {failure.status} ({failure.reason}): {failure.where} threads"
            for failure in figures.failures(run, name)
        ]
    return lines + [f"- left out: {o.system}, {o.reason}" for o in run.left_out or ()]


def _notes(run: Run) -> list[str]:
    noisy = [c for c in run.cases if c.noise]
    growth = [
        f"{name} {value:.2f}"
        for name in figures.systems(run)
        if (value := figures.exponent(run, name, max(run.plan.threads))) is not None
    ]
    notes = []
    if noisy:
        notes.append(
            f"{NOISY} {len(noisy)} of {len(run.cases)} cases were disturbed (the first: "
            f"{noisy[0].noise[0]}): measure again on a quiet machine."
        )
    if growth:
        notes.append(f"Growth of latency with length (1 linear, 2 quadratic): {', '.join(growth)}.")
    return notes


def _machine(run: Run) -> str:
    machine, plan = run.machine, run.plan
    features = ", ".join(name for name, there in machine.features.items() if there)
    packages = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    load, hottest = run.load_average, figures.hottest(run)
    heat = f", hottest sensor {hottest:g} °C" if hottest is not None else ""
    loads = f"load average {load.before[0]:g} before" + (
        f" and {load.after[0]:g} after" if load.after else ""
    )
    return (
        f"{machine.cpu} ({features or 'no features known'}), {machine.cpus} CPUs, {machine.system} "
        f"{machine.architecture}, governor {machine.governor or 'unknown'}{heat}, {loads}; "
        f"{packages}; {run.started}. Medians in ms, each case in a fresh process, in turn with "
        f"{plan.reference}{figures.patience(run)}; "
        f"cosine: the least to {figures.base_in_words(run)}; "
        f"own MB: anonymous memory of the whole process at up to {figures.MEMORY_TOKENS} tokens."
    )


def _tool_table(run: ToolRun) -> str:
    """A table of another tool's figures, in its own terms."""
    rows = [
        [
            c.system,
            NONE if c.threads is None else str(c.threads),
            str(c.tokens),
            number(c.quoted[0]),
            c.quoted[1],
            number(c.first_ms),
            number(c.load_s),
            number(c.memory_bytes / 1e6 if c.memory_bytes else None),
            c.reason or "",
        ]
        for c in run.cases
    ]
    return grid(["", "threads", "tokens", "ms", "", "first ms", "load s", "MB of memory", ""], rows)


def _name(run: Run, name: str) -> str:
    said = [figures.composed(run, name), "wrong" if figures.wrong(run, name) else ""]
    return " ".join([name, *(f"({words})" for words in said if words)])


def _accounts(accounts: Sequence[AccountEntry]) -> str:
    """Milliseconds: a run, its weights' products at the CPU's best rate and alone, and the run by place."""
    places = list(accounts[0].places)
    head = ["where the time goes, ms", "threads", "tokens", "run", "at peak", "of peak", "alone", *places]
    rows = [
        [
            a.system,
            str(a.threads),
            a.shape,
            number(a.total),
            number(a.at_peak),
            f"{a.of_peak:.0%}",
            number(a.alone),
            *(number(a.places[place]) for place in places),
        ]
        for a in accounts
    ]
    return grid(head, rows)
