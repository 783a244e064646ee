"""Markdown tables of run records: one row for each record, one cell for each column."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vqnmt.evaluation.records import Metric, Record

TABLE_WIDTH = 99
"""Characters; a terminal of 100 columns does not wrap a table of this width."""
MISSING = "-"
"""The cell of a value that a record does not have."""


CODES = ("oracle", "predicted", "random", "constant")
"""Kinds of codes that a student is given, see `vqnmt.pipeline.controls`: of the true target; the
predictor's own, greedy; drawn uniformly; all equal to the code that the true targets have most
often."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    """Its heading."""
    value: str | Callable[[Record], Metric | None]
    """Key of the metric, or a function of the record; None leaves the cell `MISSING`."""
    form: str = "{}"
    """Format of the value."""
    unit: float | None = None
    """The value is divided by this number before it is formatted."""

    def cell(self, record: Record) -> str:
        """Return the text of this column's cell in the row of `record`."""
        value = self.value(record) if callable(self.value) else record.metrics.get(self.value)
        if value is None:
            return MISSING
        return self.form.format(value if self.unit is None else float(value) / self.unit)


SYSTEM = Column("system", lambda record: record.system)
PARAMETERS = Column("param.", lambda record: _size(record.parameters))
MEDIAN = Column("median ms", "latency_ms.median", "{:.1f}")
P90 = Column("p90 ms", "latency_ms.p90", "{:.1f}")
SPEEDUP = Column("speed-up", "speedup_over_ar_beam4", "{:.2f}×")
MINUTES = Column("min.", lambda record: record.wall_seconds / 60, "{:.1f}")


def quality_columns(records: Sequence[Record]) -> dict[str, str]:
    """Map the headings of scores to the keys of their metrics, which a test set's name follows.

    Placeholders and numbers, see `vqnmt.evaluation.scores.span_accuracies`, and labels have columns
    where one of the records has them.
    """
    columns = {"BLEU": "bleu", "chrF++": "chrf"}
    further = {
        "spans %": "placeholder_accuracy",
        "numbers %": "number_accuracy",
        "exact %": "exact_match",
    }
    keys = {key.split(".")[0] for record in records for key in record.metrics}
    return columns | {title: key for title, key in further.items() if key in keys}


def record_table(records: Sequence[Record], columns: Sequence[Column], text_columns: int) -> str:
    """Lay out `records` as a Markdown table, one row each; see `markdown_table`."""
    rows = [[column.cell(record) for column in columns] for record in records]
    return markdown_table([column.title for column in columns], rows, text_columns)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Lay out a Markdown table that also reads well on a terminal.

    The first `text_columns` columns are aligned to the left, the others, numbers, to the right.
    """
    # A rule needs two characters: a dash and a colon.
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * n if i < text_columns else "-" * (n - 1) + ":" for i, n in enumerate(widths)]
    lines = []
    for row in [header, rule, *rows]:
        cells = [
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seeds_note(records: Sequence[Record]) -> str:
    """Say how many seeds the figures of a table are of: what stands in its head."""
    seeds = sorted({record.seed for record in records})
    if len(seeds) == 1:
        return "One seed"
    return (
        f"Seeds {', '.join(map(str, seeds))}: a row with ± is the mean and standard deviation of "
        "its seeds, each other row is one seed"
    )


def mean_cell(records: Sequence[Record], key: str, form: str = "{:.2f}") -> str:
    """Return the mean of a metric over `records`, the seeds of one system, with its spread.

    The spread is the standard deviation, left out with one value.
    """
    values = [float(record.metrics[key]) for record in records if key in record.metrics]
    if not values:
        return MISSING
    unsigned = form.replace("+", "")
    spread = f" ± {unsigned.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.fmean(values)) + spread


def controls_table(records: Sequence[Record]) -> str:
    """Lay out what the codes of each system carry, see `vqnmt.pipeline.controls`.

    Four rows for each system that has been measured with given codes: of the true targets
    (oracle), predicted, random and constant ones. All figures are of the validation set, the bits
    a sentence; seeds of a system give their mean with the standard deviation. "saved" is what the
    decoder needs less with the true codes than with predicted ones.

    Returns:
        The table; empty where no system has been measured so.
    """
    systems: dict[str, list[Record]] = {}
    for record in records:
        if "code_bits.valid" in record.metrics:
            systems.setdefault(record.system, []).append(_with_saved_bits(record))
    rows = []
    for name, seeds in systems.items():
        for kind in CODES:
            keys = [f"{key}_{kind}.valid" for key in ("bleu", "chrf", "target_bits")]
            row = [name if kind == CODES[0] else "", kind]
            row += [mean_cell(seeds, key) for key in keys[:2]]
            row.append(mean_cell(seeds, keys[2], "{:.1f}"))
            own = ("saved_bits.valid", "code_bits.valid") if kind == CODES[0] else ()
            row += [mean_cell(seeds, key, "{:.1f}") for key in own] or ["", ""]
            rows.append(row)
    header = ["system", "given codes", "BLEU", "chrF++"]
    header += ["bits of the target", "saved", "bits of codes"]
    return markdown_table(header, rows, text_columns=2) if rows else ""


def _with_saved_bits(record: Record) -> Record:
    """Return the record with `saved_bits.valid`, the bits that the true codes save the decoder."""
    kept = [float(record.metrics[f"target_bits_{kind}.valid"]) for kind in ("predicted", "oracle")]
    metrics = {**record.metrics, "saved_bits.valid": kept[0] - kept[1]}
    return dataclasses.replace(record, metrics=metrics)


def _size(parameters: int) -> str:
    """Write a number of parameters with one decimal: 7.3M, and 12.3K below 0.1M."""
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e5 else f"{parameters / 1e3:.1f}K"
