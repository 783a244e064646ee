"""The tables of the engines: what each reaches, and where one translation spends its time."""

from collections.abc import Mapping, Sequence

from vqnmt.evaluation.records import Metric, Record
from vqnmt.evaluation.report import markdown_table

BATCHES = (8, 32, 128)
"""Sentences handed over at a time where throughput is measured."""

ENGINE_PARTS = ("encoder", "codes", "predictor", "decompressor", "decoder", "pieces")
"""The scopes of the exported graph, see `vqnmt.export.latent_graph`."""


def ratios_to_peers(
    metrics: Mapping[str, Mapping[str, Metric]],
) -> dict[str, dict[str, Metric]]:
    """Compare each system's median latency and throughput with CTranslate2's better precision.

    Args:
        metrics: Of each system, by name; CTranslate2's names begin with `ctranslate2_` and end in
            `_greedy` or `_beam4`.

    Returns:
        For each system `ratio_to_ctranslate2_greedy` and `ratio_to_ctranslate2_beam4`, their time
        over its own, and likewise `throughput_ratio_to_ctranslate2_greedy` at batch 32.
    """

    def values(search: str, key: str) -> list[float]:
        return [
            float(found[key])
            for name, found in metrics.items()
            if name.startswith("ctranslate2_") and name.endswith(search) and key in found
        ]

    ratios: dict[str, dict[str, Metric]] = {name: {} for name in metrics}
    for search in ("greedy", "beam4"):
        times = values(f"_{search}", "latency_ms.median")
        for name, found in metrics.items():
            if times and "latency_ms.median" in found:
                own = float(found["latency_ms.median"])
                ratios[name][f"ratio_to_ctranslate2_{search}"] = min(times) / own
    rates = values("_greedy", "sentences_per_second.batch_32")
    for name, found in metrics.items():
        if rates and "sentences_per_second.batch_32" in found:
            own = float(found["sentences_per_second.batch_32"])
            ratios[name]["throughput_ratio_to_ctranslate2_greedy"] = own / max(rates)
    return ratios


def latency_table(records: Sequence[Record]) -> str:
    """Lay out records of `scripts/benchmark_latency.py` as Markdown.

    The columns: BLEU of the timed run; how many sentences PyTorch translates otherwise; median,
    90th and 99th percentile in milliseconds at batch 1; CTranslate2's median over the system's,
    greedy and beam 4; sentences a second in batches of 8, 32 and 128; seconds to the first
    translation; peak memory in MiB.
    """
    columns = {
        "differ": ("differing_translations", 1.0, "{:.0f}"),
        "median ms": ("latency_ms.median", 1.0, "{:.2f}"),
        "p90": ("latency_ms.p90", 1.0, "{:.2f}"),
        "p99": ("latency_ms.p99", 1.0, "{:.2f}"),
        "over greedy": ("ratio_to_ctranslate2_greedy", 1.0, "{:.2f}×"),
        "over beam 4": ("ratio_to_ctranslate2_beam4", 1.0, "{:.2f}×"),
        **{
            f"{'sent./s at ' if size == BATCHES[0] else 'at '}{size}": (
                f"sentences_per_second.batch_{size}",
                1.0,
                "{:.0f}",
            )
            for size in BATCHES
        },
        "load s": ("load_seconds", 1.0, "{:.2f}"),
        "MiB": ("peak_memory_bytes", 2.0**20, "{:.0f}"),
    }
    rows = []
    for record in records:
        bleu = next((v for k, v in record.metrics.items() if k.startswith("bleu.")), None)
        cells = [record.system, "" if bleu is None else f"{float(bleu):.2f}"]
        for key, unit, form in columns.values():
            value = record.metrics.get(key)
            cells.append("" if value is None else form.format(float(value) / unit))
        rows.append(cells)
    return markdown_table(["system", "BLEU", *columns], rows, text_columns=1)


def profile_table(records: Sequence[Record]) -> str:
    """Lay out the record of a profile as Markdown, a line for each part."""
    metrics = records[-1].metrics
    total = float(metrics["ms.total"])
    lines = [("sentencepiece, in", "ms.tokenise"), ("engine", "ms.engine")]
    lines += [(f"· {part}", f"ms.engine.{part}") for part in ENGINE_PARTS]
    lines += [("sentencepiece, out", "ms.detokenise"), ("Python around them", "ms.python")]
    lines += [("string to string", "ms.total")]
    lines += [(f"floor: {name}", f"floor_ms.{name}") for name in ("arithmetic", "bandwidth")]
    rows = []
    for label, key in lines:
        value, operators = float(metrics[key]), metrics.get(f"operators.{label.removeprefix('· ')}")
        cells = [f"{value:.3f}", f"{100 * value / total:.0f}%"]
        rows.append([label, *cells, "" if operators is None else str(operators)])
    return markdown_table(["part", "ms", "of all", "operators"], rows, text_columns=1)
