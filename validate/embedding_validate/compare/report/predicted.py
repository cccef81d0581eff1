"""Predictions as text and as parts of the page, each beside its measurement. Never without that word."""

from dataclasses import dataclass

from embedding_validate.compare.document import figures
from embedding_validate.compare.document.document import Run
from embedding_validate.compare.document.prediction import Prediction
from embedding_validate.compare.report.grid import NONE, grid, number


@dataclass(frozen=True)
class Row:
    """A prediction, and what was measured, in ms; `error` is how far the prediction lies above it."""

    predicted: Prediction
    measured_ms: float | None
    disturbed: bool

    @property
    def error(self) -> float | None:
        """As a share of the measurement."""
        return self.predicted.predicted_ms / self.measured_ms - 1 if self.measured_ms else None


def rows(run: Run) -> list[Row]:
    """Every prediction of a run."""
    table = []
    for each in run.predictions or ():
        case = figures.case(run, each.system, each.threads, str(each.tokens))
        table.append(Row(each, case.median_ms if case else None, bool(case and case.noise)))
    return table


def sentence(run: Run) -> str:
    """How far the predictions lie from what was measured, and what they rest on."""
    errors = [abs(row.error) for row in rows(run) if row.error is not None]
    apart = "None of them was measured."
    if errors:
        mean = sum(errors) / len(errors)
        apart = f"{len(errors)} were measured too: {max(errors):.0%} off at most, {mean:.0%} on average."
    seconds = sum(d.benchmark_s for d in run.devices or ())
    return (
        "Predicted, not measured: multiply-accumulates and bytes are counted in each graph's file, and "
        f"priced by a micro-benchmark of {seconds:.1f} s. {apart}"
    )


def markdown(run: Run) -> list[str]:
    """The table; nothing where nothing was predicted."""
    if not run.predictions:
        return []
    head = [
        "predicted",
        "threads",
        "tokens",
        "10⁶ MACs",
        "MB of weights",
        "MB moved",
        "predicted ms",
        "measured ms",
        "error",
    ]
    return [sentence(run), grid(head, [_cells(row) for row in rows(run)])]


def _cells(row: Row) -> list[str]:
    each = row.predicted
    return [
        each.system,
        str(each.threads),
        str(each.tokens),
        number(sum(each.macs.values()) / 1e6),
        number(each.weight_bytes / 1e6),
        number(each.moved_bytes / 1e6),
        number(each.predicted_ms),
        f"{number(row.measured_ms)}{'*' if row.disturbed else ''}",
        NONE if row.error is None else f"{row.error:+.0%}",
    ]


def context(run: Run) -> dict[str, object] | None:
    """What the page shows; None where nothing was predicted."""
    table = [_cells(row) for row in rows(run)]
    return {"sentence": sentence(run), "rows": table} if table else None
