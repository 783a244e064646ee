"""The tables of the translation systems, with the figures of Roy et al. 2018 beside ours.

The paper's BLEU is of WMT14 English to German, tokenised, its latency of one GTX 1080: only the
ratios to an autoregressive model of the same work are to be compared.
"""

import math
import statistics
from collections.abc import Sequence

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import markdown_table

# Roy et al. 2018: BLEU and speed-up over AR beam 4. The speed-ups of the
# NAT, from Gu et al. 2018, are over another baseline.
PAPER: dict[str, tuple[float, float | None]] = {
    "ar_beam4": (28.1, 1.0),
    "ar_greedy": (27.0, 1.25),
    "nat_kd": (17.7, 15.6),
    "nat_kd_npd10": (18.7, 7.68),
    "nat_kd_npd100": (19.2, 2.36),
    "lt_semhash": (19.8, 3.15),
    "semhash_kd_nc3": (24.1, None),
    "gumbel_kd_nc3": (23.2, None),
    "vq_nc3": (21.4, 4.08),
    "vq_em_nc3": (22.4, 4.08),
    "vq_kd_nc3": (26.4, 4.08),
    "vq_em_kd_nc3": (26.7, 4.08),
    "vq_em_kd_nc4": (25.4, 5.71),
}
# The order of the rows; others follow.
ORDER = [
    *("ar_beam4", "ar_greedy", "ar_deep_shallow", "nat_kd", "nat_kd_npd10", "nat_kd_npd100"),
    *("lt_semhash", "semhash_kd_nc3", "gumbel_kd_nc3", "vq_nc3", "vq_em_nc3", "vq_kd_nc3"),
    *("vq_em_kd_nc3", "vq_em_kd_nc4", "best", "best_rescored"),
]


def of_systems(records: Sequence[Record]) -> list[Record]:
    """Keep the records of a comparison of systems: each is named by its experiment.

    Of a system that was recorded with several sets of overrides, the last one stands.
    """
    found = {
        record.key: record
        for record in records
        if any(change.startswith("experiment=") for change in record.overrides)
    }
    last = {record.system: record.overrides for record in records if record.key in found}
    return [record for record in found.values() if record.overrides == last[record.system]]


def translation_tables(records: Sequence[Record]) -> str:
    """Lay out the records of a comparison as Markdown: quality, speed, and significance.

    Several seeds of a system make one row, the mean with the standard deviation.
    """
    systems = by_system(records)
    parts = [_quality(systems), _speed(systems)]
    if significance := _significance(systems):
        parts.append(significance)
    return "\n\n".join(parts)


def by_system(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group records by system, in the order of the table; the seed that was timed comes first."""
    return {
        name: sorted(
            (record for record in records if record.system == name),
            key=lambda record: ("latency_ms.median" not in record.metrics, record.seed),
        )
        for name in sorted({record.system for record in records}, key=_rank)
    }


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _quality(systems: dict[str, list[Record]]) -> str:
    sets = list(
        dict.fromkeys(
            key.removeprefix("bleu.")
            for records in systems.values()
            for key in records[0].metrics
            if key.startswith("bleu.") and key != "bleu.valid"
        )
    ) or ["valid"]
    header = ["system"]
    header += [f"{kind} {name}" for name in sets for kind in ("BLEU", "chrF++")]
    header += ["of beam 4", "speed-up", "paper BLEU", "of beam 4", "speed-up"]
    base = systems.get("ar_beam4")
    rows = []
    for name, records in systems.items():
        row = [name]
        row += [_mean(records, f"{kind}.{key}") for key in sets for kind in ("bleu", "chrf")]
        row.append(_ratio(records, base, f"bleu.{sets[0]}"))
        row.append(_value(records[0], "speedup_over_ar_beam4", "{:.2f}×"))
        bleu, speedup = PAPER.get(name, (None, None))
        row.append("-" if bleu is None else f"{bleu:.1f}")
        row.append("-" if bleu is None else f"{bleu / PAPER['ar_beam4'][0]:.2f}")
        row.append("-" if speedup is None else f"{speedup:.2f}×")
        rows.append(row)
    return markdown_table(header, rows, text_columns=1)


def _speed(systems: dict[str, list[Record]]) -> str:
    batches = sorted(
        {
            int(key.rpartition("_")[2])
            for records in systems.values()
            for key in records[0].metrics
            if key.startswith("sentences_per_second.batch_")
        }
    )
    header = ["system", "n_c", "n_s", "K", "param.", "median ms", "p90 ms"]
    header += [f"sent/s at {size}" for size in batches]
    header += ["valid BLEU", "oracle", "training min."]
    rows = []
    for name, (first, *_) in systems.items():
        row = [name, *(_value(first, key) for key in ("compression", "samples", "codebook_size"))]
        row.append(f"{first.parameters / 1e6:.1f}M")
        row += [_value(first, f"latency_ms.{key}", "{:.1f}") for key in ("median", "p90")]
        row += [_value(first, f"sentences_per_second.batch_{n}", "{:.0f}") for n in batches]
        row += [_value(first, key, "{:.2f}") for key in ("bleu.valid", "bleu_oracle.valid")]
        row.append(f"{first.wall_seconds / 60:.1f}")
        rows.append(row)
    return markdown_table(header, rows, text_columns=1)


def _significance(systems: dict[str, list[Record]]) -> str:
    rows = []
    for name, (first, *_) in systems.items():
        for key, value in first.metrics.items():
            if not key.startswith("bleu_minus_"):
                continue
            pair = key.removeprefix("bleu_minus_")  # ar_beam4.test
            baseline, test_set = pair.split(".", 1)
            rows.append(
                [
                    *(name, baseline, test_set, f"{float(value):+.2f}"),
                    _value(first, f"p_value_against_{pair}", "{:.3f}"),
                    _value(first, f"bleu_interval.{test_set}", "±{:.2f}"),
                ]
            )
    if not rows:
        return ""
    header = ["system", "against", "test set", "BLEU difference", "p", "95% interval of BLEU"]
    return markdown_table(header, rows, text_columns=3)


def ablation_table(records: Sequence[Record]) -> str:
    """Lay out the records of an ablation as Markdown: all is measured on the validation set."""
    columns = {
        "n_c": ("compression", "{}"),
        "K": ("codebook_size", "{}"),
        "used": ("used_codes", "{:.0f}"),
        "perpl.": ("codebook_perplexity", "{:.1f}"),
        "oracle BLEU": ("bleu_oracle.valid", "{:.2f}"),
        "BLEU": ("bleu.valid", "{:.2f}"),
        "chrF++": ("chrf.valid", "{:.2f}"),
        "median ms": ("latency_ms.median", "{:.1f}"),
        "speed-up": ("speedup_over_ar_beam4", "{:.2f}×"),
    }
    rows = [
        [record.system, *(_value(record, key, form) for key, form in columns.values())]
        for record in records
    ]
    return markdown_table(["system", *columns], rows, text_columns=1)


def _value(record: Record, key: str, form: str = "{}") -> str:
    return form.format(record.metrics[key]) if key in record.metrics else "-"


def _mean(records: Sequence[Record], key: str) -> str:
    values = [float(record.metrics[key]) for record in records if key in record.metrics]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _ratio(records: Sequence[Record], base: Sequence[Record] | None, key: str) -> str:
    """Divide the mean score of a system by that of AR beam 4."""
    ours, theirs = (
        [float(record.metrics[key]) for record in some or () if key in record.metrics]
        for some in (records, base)
    )
    if not ours or not theirs or math.isclose(sum(theirs), 0):
        return "-"
    return f"{statistics.fmean(ours) / statistics.fmean(theirs):.2f}"
