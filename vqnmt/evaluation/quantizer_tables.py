"""Tables of the records that compare quantizers."""

from collections.abc import Sequence

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import markdown_table


def collapse_table(records: Sequence[Record]) -> str:
    """Lay out as Markdown how many codes each codebook uses as its training goes on.

    Column @n has the codes used in the steps up to step n; perplexity and error are of the last
    steps. At most `TABLE_WIDTH` characters wide with the systems that the program names.
    """
    prefix = "used_codes.step_"
    steps = {int(key.removeprefix(prefix)) for r in records for key in r.metrics if prefix in key}
    header = ["codebook", "vectors", "K", *(f"@{step}" for step in sorted(steps))]
    header += ["perpl.", "error"]
    rows = [
        [
            *(record.system, record.corpus, _cell(record, "codebook_size")),
            *(_cell(record, f"{prefix}{step}") for step in sorted(steps)),
            *(_cell(record, "perplexity", "{:.1f}"), _cell(record, "relative_error", "{:.2f}")),
        ]
        for record in records
    ]
    return markdown_table(header, rows, text_columns=2)


def students_table(records: Sequence[Record]) -> str:
    """Lay out as Markdown what each student's bottleneck carries, all on the validation set.

    rec. and pred. are losses in nats, a token and a code; the last column is minutes of training.
    """
    columns = {
        "K": ("codebook_size", "{:,}"),
        "used": ("used_codes.valid", "{:,}"),
        "perpl.": ("perplexity.valid", "{:.1f}"),
        "rec.": ("reconstruction_loss.valid", "{:.2f}"),
        "oracle BLEU": ("bleu_oracle.valid", "{:.2f}"),
        "oracle chrF++": ("chrf_oracle.valid", "{:.2f}"),
        "pred.": ("predictor_loss.valid", "{:.2f}"),
        "BLEU": ("bleu.valid", "{:.2f}"),
    }
    rows = [
        [
            record.system,
            *(_cell(record, key, form) for key, form in columns.values()),
            f"{record.wall_seconds / 60:.1f}",
        ]
        for record in records
    ]
    return markdown_table(["quantizer", *columns, "min."], rows, text_columns=1)


def _cell(record: Record, key: str, form: str = "{:,}") -> str:
    return form.format(record.metrics[key]) if key in record.metrics else "-"
