"""Markdown tables of run records: one row for each record, one cell for each column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vqnmt.evaluation.records import Metric, Record

TABLE_WIDTH = 99
"""Characters; a terminal of 100 columns does not wrap a table of this width."""
MISSING = "-"
"""The cell of a value that a record does not have."""


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


def _size(parameters: int) -> str:
    """Write a number of parameters with one decimal: 7.3M, and 12.3K below 0.1M."""
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e5 else f"{parameters / 1e3:.1f}K"
