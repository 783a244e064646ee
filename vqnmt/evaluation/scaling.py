"""The tables of training speed by number of processes, and of corpus preparation."""

from collections.abc import Sequence

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import markdown_table


def scaling_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_scaling.py` as Markdown.

    The columns: target tokens a second of all processes, that over the tokens a second of one
    process and over the number of processes, milliseconds of a step, megabytes of gradient and
    kilobytes of codebook that a process gives to each all-reduce, and the share of the step that
    the codebook's takes.
    """
    columns = {
        "tokens/s": ("tokens_per_second", 1.0, "{:,.0f}"),
        "efficiency": ("efficiency", 1.0, "{:.2f}"),
        "ms a step": ("step_ms", 1.0, "{:.0f}"),
        "gradient MB": ("gradient_bytes", 1e6, "{:.1f}"),
        "codebook kB": ("codebook_bytes", 1e3, "{:.0f}"),
        "its share": ("codebook_share", 0.01, "{:.2f}%"),
    }
    rows = [
        [record.system, *(f.format(float(record.metrics[k]) / u) for k, u, f in columns.values())]
        for record in records
    ]
    return markdown_table(["processes", *columns], rows, text_columns=1)


def preparation_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_corpus.py` as Markdown.

    The columns: pairs of the corpus, stage, seconds, pairs a second, and the most gigabytes of
    memory that were resident until its end.
    """
    rows = []
    for record in records:
        metrics = record.metrics
        stages = [key.partition(".")[2] for key in metrics if key.startswith("seconds.")]
        for stage in [*stages, ""]:
            end = f".{stage}" if stage else ""
            rows.append(
                [
                    f"{metrics['pairs']:,}",
                    stage or "all",
                    f"{float(metrics[f'seconds{end}']):,.1f}",
                    f"{float(metrics[f'pairs_per_second{end}']):,.0f}",
                    f"{float(metrics[f'peak_rss_gb{end}']):.2f}",
                ]
            )
    columns = ["pairs", "stage", "seconds", "pairs/s", "peak GB"]
    return markdown_table(columns, rows, text_columns=2)
