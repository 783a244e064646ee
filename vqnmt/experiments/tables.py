"""The tables of the experiments, each generated from its run records."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vqnmt.evaluation.records import Metric, Record
from vqnmt.evaluation.report import literal
from vqnmt.evaluation.tables import (
    MEDIAN,
    MINUTES,
    MISSING,
    P90,
    PARAMETERS,
    SPEEDUP,
    SYSTEM,
    Column,
    controls_table,
    markdown_table,
    mean_cell,
    quality_columns,
    record_table,
)

# Roy et al. 2018: BLEU on WMT14 English-German (tokenised) and speed-up over AR beam 4 on a GTX
# 1080. Only ratios to an autoregressive model of the same work can be compared with ours. The
# speed-ups of the NAT, from Gu et al. 2018, are over another baseline.
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
    *("ar_beam4", "ar_greedy", "ar_deep_shallow", "ar_deep_shallow_kd"),
    *("nat_kd", "nat_kd_npd10", "nat_kd_npd100", "ctc_nat_kd", "glat_ctc_kd"),
    *("lt_semhash", "semhash_kd_nc3", "gumbel_kd_nc3", "vq_nc3", "vq_em_nc3", "vq_kd_nc3"),
    *("vq_em_kd_nc3", "vq_em_kd_nc4", "best", "best_rescored"),
]

THROUGHPUT_BATCHES = (8, 32, 128)
"""Sizes of the batches in which the throughput of engines is measured."""
ENGINE_PARTS = ("encoder", "codes", "predictor", "decompressor", "decoder", "pieces")
"""The scopes of the exported graph, see `vqnmt.exporting.latent_graph`."""


# --- translation systems -----------------------------------------------------------------------


def system_records(records: Sequence[Record]) -> list[Record]:
    """Keep the records of a comparison of systems: each is named by its experiment.

    Of a system that was recorded with several sets of overrides, the last one is kept.
    """
    found = {
        record.key: record
        for record in records
        if any(change.startswith("experiment=") for change in record.overrides)
    }
    last = {record.system: record.overrides for record in records if record.key in found}
    return [record for record in found.values() if record.overrides == last[record.system]]


def translation_tables(records: Sequence[Record]) -> str:
    """Lay out the records of a comparison: quality, speed, what codes carry, significance.

    Several seeds of a system make one row, the mean with the standard deviation.
    """
    systems = _by_system(records)
    in_order = [record for seeds in systems.values() for record in seeds]
    parts = [_quality(systems), _speed(systems), controls_table(in_order), _significance(systems)]
    return "\n\n".join(part for part in parts if part)


def ablation_table(records: Sequence[Record]) -> str:
    """Lay out the records of an ablation; all figures are of the validation set."""
    columns = [
        SYSTEM,
        Column("n_c", "compression"),
        Column("K", "codebook_size"),
        Column("used", "used_codes", "{:.0f}"),
        Column("perpl.", "codebook_perplexity", "{:.1f}"),
        Column("oracle BLEU", "bleu_oracle.valid", "{:.2f}"),
        Column("BLEU", "bleu.valid", "{:.2f}"),
        Column("chrF++", "chrf.valid", "{:.2f}"),
        MEDIAN,
        SPEEDUP,
    ]
    return record_table(records, columns, text_columns=1)


def _by_system(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group records by system, in the order of the table; the seed that was timed comes first."""

    def rank(name: str) -> tuple[int, str]:
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)

    return {
        name: sorted(
            (record for record in records if record.system == name),
            key=lambda record: ("latency_ms.median" not in record.metrics, record.seed),
        )
        for name in sorted({record.system for record in records}, key=rank)
    }


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
    kinds = quality_columns([record for records in systems.values() for record in records])
    kinds.pop("exact %", None)  # of labels, which are no set of this table
    header += [f"{kind} {name}" for name in sets for kind in kinds]
    header += ["of beam 4", "speed-up", "paper BLEU", "of beam 4", "speed-up"]
    baseline = systems.get("ar_beam4", [])
    rows = []
    for name, records in systems.items():
        row = [name]
        row += [mean_cell(records, f"{kind}.{key}") for key in sets for kind in kinds.values()]
        row.append(_ratio(records, baseline, f"bleu.{sets[0]}"))
        row.append(SPEEDUP.cell(records[0]))
        bleu, speedup = PAPER.get(name, (None, None))
        row.append(MISSING if bleu is None else f"{bleu:.1f}")
        row.append(MISSING if bleu is None else f"{bleu / PAPER['ar_beam4'][0]:.2f}")
        row.append(MISSING if speedup is None else f"{speedup:.2f}×")
        rows.append(row)
    return markdown_table(header, rows, text_columns=1)


def _speed(systems: dict[str, list[Record]]) -> str:
    timed = [records[0] for records in systems.values()]
    prefix = "sentences_per_second.batch_"
    keys = {key for record in timed for key in record.metrics if key.startswith(prefix)}
    batches = sorted(int(key.removeprefix(prefix)) for key in keys)
    columns = [
        SYSTEM,
        Column("n_c", "compression"),
        Column("n_s", "samples"),
        Column("K", "codebook_size"),
        PARAMETERS,
        MEDIAN,
        P90,
        *(Column(f"sent/s at {size}", f"{prefix}{size}", "{:.0f}") for size in batches),
        Column("valid BLEU", "bleu.valid", "{:.2f}"),
        Column("oracle", "bleu_oracle.valid", "{:.2f}"),
        Column("training min.", MINUTES.value, MINUTES.form),
    ]
    return record_table(timed, columns, text_columns=1)


def _significance(systems: dict[str, list[Record]]) -> str:
    """Lay out the differences to the baseline systems; empty where none was tested.

    Of several seeds, each compared with the baseline's, the p-values stand one after the other.
    """
    rows = []
    for name, seeds in systems.items():
        tested = [record for record in seeds if any("bleu_minus_" in key for key in record.metrics)]
        for key in tested[0].metrics if tested else ():
            if not key.startswith("bleu_minus_"):
                continue
            pair = key.removeprefix("bleu_minus_")  # ar_beam4.test
            baseline, test_set = pair.split(".", 1)
            p_value = Column("", f"p_value_against_{pair}", "{:.3f}")
            interval = Column("", f"bleu_interval.{test_set}", "±{:.2f}")
            row = [name, baseline, test_set, mean_cell(tested, key, "{:+.2f}")]
            row += [" ".join(column.cell(one) for one in tested) for column in (p_value, interval)]
            rows.append(row)
    header = ["system", "against", "test set", "BLEU difference", "p", "95% interval of BLEU"]
    return markdown_table(header, rows, text_columns=3) if rows else ""


def _ratio(records: Sequence[Record], baseline: Sequence[Record], key: str) -> str:
    """Divide the mean score of a system by that of the baseline."""
    ours, theirs = (
        [float(record.metrics[key]) for record in some if key in record.metrics]
        for some in (records, baseline)
    )
    if not ours or not theirs or math.isclose(sum(theirs), 0):
        return MISSING
    return f"{statistics.fmean(ours) / statistics.fmean(theirs):.2f}"


# --- engines -----------------------------------------------------------------------------------


def latency_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_latency.py`.

    The columns: BLEU of the timed run; how many sentences PyTorch translates otherwise; median,
    90th and 99th percentile in milliseconds at batch 1; CTranslate2's median over the system's,
    greedy and beam 4; sentences a second in batches of 8, 32 and 128; seconds to the first
    translation; peak memory in MiB.
    """

    def bleu(record: Record) -> Metric | None:
        return next((v for k, v in record.metrics.items() if k.startswith("bleu.")), None)

    columns = [
        SYSTEM,
        Column("BLEU", bleu, "{:.2f}"),
        Column("differ", "differing_translations"),
        Column("median ms", "latency_ms.median", "{:.2f}"),
        Column("p90", "latency_ms.p90", "{:.2f}"),
        Column("p99", "latency_ms.p99", "{:.2f}"),
        Column("over greedy", "ratio_to_ctranslate2_greedy", "{:.2f}×"),
        Column("over beam 4", "ratio_to_ctranslate2_beam4", "{:.2f}×"),
        *(
            Column(
                f"sent./s at {size}" if size == THROUGHPUT_BATCHES[0] else f"at {size}",
                f"sentences_per_second.batch_{size}",
                "{:.0f}",
            )
            for size in THROUGHPUT_BATCHES
        ),
        Column("load s", "load_seconds", "{:.2f}"),
        Column("MiB", "peak_memory_bytes", "{:.0f}", unit=2**20),
    ]
    return record_table(records, columns, text_columns=1)


def classes_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/evaluate_classes.py`: a row for each class and system.

    "intact" are the strings with spans whose translation has all of these and no others.
    """
    names = dict.fromkeys(
        key.partition(".")[2]
        for record in records
        for key in record.metrics
        if key.startswith("sentences.")
    )
    columns = {
        "strings": ("sentences", "{}"),
        **{title: (key, "{:.1f}") for title, key in quality_columns(records).items()},
        "intact %": ("intact", "{:.1f}"),
        "ms": ("latency_ms", "{:.2f}"),
    }
    rows = [
        [name, record.system]
        + [Column("", f"{key}.{name}", form).cell(record) for key, form in columns.values()]
        for name in names
        for record in records
        if f"sentences.{name}" in record.metrics
    ]
    return markdown_table(["class", "system", *columns], rows, text_columns=2)


def examples_section(examples: Sequence[Mapping[str, Any]], count: int) -> str:
    """Lay out the first `count` examples of each class, see `vqnmt.experiments.classes`."""
    parts = []
    for name in dict.fromkeys(example["class"] for example in examples):
        chosen = [example for example in examples if example["class"] == name][:count]
        systems = list(chosen[0]["translations"])
        rows = [
            [
                example["source"],
                *(example["translations"][system] for system in systems),
                " / ".join(example["references"]) or MISSING,
            ]
            for example in chosen
        ]
        header = ["source", *systems, "reference"]
        cells = [[literal(cell) for cell in row] for row in rows]
        parts.append(f"**{name}**\n\n{markdown_table(header, cells, text_columns=len(header))}")
    return "\n\n".join(parts)


def profile_table(records: Sequence[Record]) -> str:
    """Lay out the last record of a profile, a row for each part of one translation."""
    metrics = records[-1].metrics
    lines = [("sentencepiece, in", "ms.tokenise"), ("engine", "ms.engine")]
    lines += [(f"· {part}", f"ms.engine.{part}") for part in ENGINE_PARTS]
    lines += [("sentencepiece, out", "ms.detokenise"), ("Python around them", "ms.python")]
    lines += [("string to string", "ms.total")]
    lines += [(f"floor: {name}", f"floor_ms.{name}") for name in ("arithmetic", "bandwidth")]
    rows = []
    for label, key in lines:
        milliseconds, total = float(metrics[key]), float(metrics["ms.total"])
        operators = metrics.get(f"operators.{label.removeprefix('· ')}", MISSING)
        share = f"{100 * milliseconds / total:.0f}%"
        rows.append([label, f"{milliseconds:.3f}", share, str(operators)])
    return markdown_table(["part", "ms", "of all", "operators"], rows, text_columns=1)


# --- quantizers --------------------------------------------------------------------------------


def collapse_table(records: Sequence[Record]) -> str:
    """Lay out how many codes each codebook uses as its training goes on.

    Column @n has the codes used in the steps up to step n; perplexity and error are of the last
    steps.
    """
    prefix = "used_codes.step_"
    steps = {int(key.removeprefix(prefix)) for r in records for key in r.metrics if prefix in key}
    columns = [
        Column("codebook", SYSTEM.value),
        Column("vectors", lambda record: record.corpus),
        Column("K", "codebook_size", "{:,}"),
        *(Column(f"@{step}", f"{prefix}{step}", "{:,}") for step in sorted(steps)),
        Column("perpl.", "perplexity", "{:.1f}"),
        Column("error", "relative_error", "{:.2f}"),
    ]
    return record_table(records, columns, text_columns=2)


def students_table(records: Sequence[Record]) -> str:
    """Lay out what each student's bottleneck carries; all figures are of the validation set.

    rec. and pred. are losses in nats, a token and a code; the last column is minutes of training.
    """
    columns = [
        Column("quantizer", SYSTEM.value),
        Column("K", "codebook_size", "{:,}"),
        Column("used", "used_codes.valid", "{:,}"),
        Column("perpl.", "perplexity.valid", "{:.1f}"),
        Column("rec.", "reconstruction_loss.valid", "{:.2f}"),
        Column("oracle BLEU", "bleu_oracle.valid", "{:.2f}"),
        Column("oracle chrF++", "chrf_oracle.valid", "{:.2f}"),
        Column("pred.", "predictor_loss.valid", "{:.2f}"),
        Column("BLEU", "bleu.valid", "{:.2f}"),
        MINUTES,
    ]
    return record_table(records, columns, text_columns=1)


def quantizer_speed_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_quantizers.py`.

    "theirs" is the peer that was timed in turn with ours. The columns: milliseconds of a step,
    theirs, the ratio of the two, the ratio to our own `ema`, peak MiB, theirs, the ratio.
    """
    columns = [
        SYSTEM,
        Column("on", lambda record: "GPU" if "gpu" in record.hardware else "CPU"),
        Column("N", "N"),
        Column("d", "d"),
        Column("K", "K"),
        Column("ms", "time_ms", "{:.0f}"),
        Column("theirs", "peer_time_ms", "{:.0f}"),
        Column("ratio", "time_ratio", "{:.2f}"),
        Column("to ema", "time_ratio_to_ema", "{:.2f}"),
        Column("MiB", "peak_memory_bytes", "{:.0f}", unit=2**20),
        Column("theirs", "peer_peak_memory_bytes", "{:.0f}", unit=2**20),
        Column("ratio", "peak_memory_ratio", "{:.3f}"),
    ]
    return record_table(records, columns, text_columns=2)


# --- scaling -----------------------------------------------------------------------------------


def scaling_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_scaling.py`.

    The columns: target tokens a second of all processes, that over the tokens a second of one
    process and over the number of processes, milliseconds of a step, megabytes of gradient and
    kilobytes of codebook that a process gives to each all-reduce, and the share of the step that
    the codebook's takes.
    """
    columns = [
        Column("processes", SYSTEM.value),
        Column("tokens/s", "tokens_per_second", "{:,.0f}"),
        Column("efficiency", "efficiency", "{:.2f}"),
        Column("ms a step", "step_ms", "{:.0f}"),
        Column("gradient MB", "gradient_bytes", "{:.1f}", unit=1e6),
        Column("codebook kB", "codebook_bytes", "{:.0f}", unit=1e3),
        Column("its share", "codebook_share", "{:.2%}"),
    ]
    return record_table(records, columns, text_columns=1)


def preparation_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_corpus.py`, a row for each stage and one for all.

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


def server_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_server.py`, a row for each way to serve.

    The columns: requests a second that were answered with 200, the ratio to a server without
    batches, latency in ms, answers by status, errors of connections, and resident memory in MB
    before and after the requests of the memory's measurement.
    """
    rows = []
    for record in records:
        metrics = record.metrics
        memory = [float(value) for key, value in metrics.items() if key.startswith("rss_mb.")]
        ratio = metrics.get("speedup_over_no_batches")
        rows.append(
            [
                record.system,
                f"{float(metrics['requests_per_second']):,.0f}",
                MISSING if ratio is None else f"{float(ratio):.2f}×",
                f"{float(metrics['latency_ms.median']):.1f}",
                f"{float(metrics['latency_ms.p99']):.1f}",
                *(f"{metrics[key]:,}" for key in ("answered", "refused", "other_statuses")),
                f"{metrics['socket_errors']:,}",
                f"{memory[0]:.0f} → {memory[-1]:.0f}" if memory else MISSING,
            ]
        )
    columns = ["server", "requests/s", "batches", "p50 ms", "p99 ms", "200", "429", "other"]
    return markdown_table([*columns, "errors", "MB"], rows, text_columns=1)
