"""The tables of the image track, the paper's figures beside ours, and the report of a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import Picture, literal, pairs_table, settings_and_times
from vqnmt.evaluation.tables import (
    MINUTES,
    MISSING,
    PARAMETERS,
    SYSTEM,
    Column,
    markdown_table,
    mean_cell,
    record_table,
)
from vqnmt.files import atomic_write_text

PAPER = {
    "image_transformer": 2.92,
    "vae_gaussian": 4.51,
    "vqvae_gradient": 4.67,  # van den Oord et al. 2017, as the table quotes it
    "vqvae_ema": 4.83,
    "vqvae_em": 4.80,
}
"""Bits per dimension on CIFAR-10 in Roy et al. 2018, under our names of the systems."""
FORMER = {"best": "vae_integers"}
"""Names of systems in older records, and their names now."""
VARIANTS = ("both", "k-means", "restarts", "neither")
"""The variants of the collapse table, in its order."""


def image_table(records: Sequence[Record]) -> str:
    """Lay out as Markdown: log perplexity in bits per dimension on the test set, and its parts.

    `rate` is that of the learnt prior, `uniform` that of the uniform one.
    """
    names = {record.system for record in records}
    records = [
        dataclasses.replace(record, system=FORMER.get(record.system, record.system))
        for record in records
        if FORMER.get(record.system) not in names
    ]
    columns = [
        SYSTEM,
        Column("budget", "budget"),
        Column("paper", lambda record: PAPER.get(record.system), "{:.2f}"),
        Column("bits/dim", "bits_per_dim", "{:.3f}"),
        Column("reconstr.", "reconstruction_bits", "{:.3f}"),
        Column("rate", "rate_bits", "{:.3f}"),
        Column("uniform", "rate_bits_uniform", "{:.3f}"),
        Column("used", "used_codes", "{:,}"),
        PARAMETERS,
        MINUTES,
        Column("images/s", "train_images_per_second", "{:,.0f}"),
    ]
    return record_table(records, columns, text_columns=2)


def quantizers_table(records: Sequence[Record]) -> str:
    """Lay out means and standard deviations over seeds: bits per dimension, then the codes.

    `difference` is that of the bits per dimension from the reference with the same seed; p is the
    largest of the seeds' paired tests over the test images.
    """
    groups = _groups(records)
    keys = ("bits_per_dim", "reconstruction_bits", "rate_bits", "rate_bits_uniform")
    bits = [
        [name, str(len(group)), *(mean_cell(group, key, "{:,.3f}") for key in keys)]
        for name, group in groups.items()
    ]
    codes = [
        [
            name,
            mean_cell(group, "used_codes", "{:,.0f}"),
            mean_cell(group, "codebook_perplexity", "{:,.1f}"),
            mean_cell(group, "train_images_per_second", "{:,.0f}"),
            mean_cell(group, "bits_per_dim_difference", "{:,.3f}"),
            _largest_p(group),
        ]
        for name, group in groups.items()
    ]
    head = ["system", "seeds", "bits/dim", "reconstr.", "rate", "uniform"]
    more = ["system", "used", "perplexity", "images/s", "difference", "p"]
    return f"{markdown_table(head, bits, 1)}\n\n{markdown_table(more, codes, 1)}"


def collapse_table(records: Sequence[Record]) -> str:
    """Lay out means and standard deviations over seeds for each start and restart of a codebook."""
    rows = [
        [
            name,
            variant,
            str(len(group)),
            mean_cell(group, "used_codes", "{:,.0f}"),
            mean_cell(group, "codebook_perplexity", "{:,.0f}"),
            mean_cell(group, "reconstruction_bits", "{:,.3f}"),
            mean_cell(group, "bits_per_dim_difference", "{:,.3f}"),
        ]
        for variant in VARIANTS
        for name, group in _groups(
            [record for record in records if record.metrics.get("variant") == variant]
        ).items()
    ]
    head = ["system", "start", "seeds", "used", "perplexity", "reconstr.", "difference"]
    return markdown_table(head, rows, 2)


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Put the seeds of each system together; its budget is named where there are several."""
    budgets = {record.metrics.get("budget") for record in records}
    groups: dict[str, list[Record]] = {}
    for record in records:
        place = f" ({record.metrics.get('budget')})" if len(budgets) > 1 else ""
        groups.setdefault(f"{record.system}{place}", []).append(record)
    return groups


def _largest_p(records: Sequence[Record]) -> str:
    key = "bits_per_dim_difference_p"
    values = [float(record.metrics[key]) for record in records if key in record.metrics]
    if not values:
        return MISSING
    return f"{max(values):.3f}" if max(values) >= 0.001 else "<0.001"


def write_image_report(
    folder: Path | str,
    *,
    title: str,
    records: Sequence[Record],
    data: str,
    settings: Mapping[str, str],
    wall_seconds: Mapping[str, float],
    pictures: Sequence[Picture],
) -> None:
    """Write `report.md` into a run folder.

    Args:
        folder: The run folder; the pictures lie in it.
        title: Heading.
        records: The systems of the table.
        data: What the images are, whose, and how many.
        settings: Configuration by key, flat.
        wall_seconds: Seconds of each stage, in order.
        pictures: Shown in order, each below its text.

    Raises:
        VqnmtError: The file cannot be written.
    """
    parts = [f"# {literal(title)}", image_table(records)]
    parts.append(
        "Bits per dimension on the test set, from a discretised mixture of logistics over 0 to "
        "255. `reconstr.` is -log2 p(x | z), `rate` -log2 p(z) under the learnt prior (of a "
        "Gaussian VAE: the KL), `uniform` under the uniform one; codes by argmax."
    )
    record = records[0]
    metrics = sorted(record.metrics.items())
    figures = ((key, f"{x:.4f}" if isinstance(x, float) else str(x)) for key, x in metrics)
    parts.append(pairs_table("figure", "value", figures))
    hardware = ", ".join(f"{key} {value}" for key, value in record.hardware.items())
    parts.append(f"Hardware: {hardware}. Commit {record.commit}, seed {record.seed}.")
    for picture in pictures:
        parts += [f"## {picture.alt}", f"![{picture.alt}]({picture.file})"]
    parts += ["## Images", literal(data), *settings_and_times(settings, wall_seconds)]
    atomic_write_text(Path(folder) / "report.md", "\n\n".join(parts) + "\n")
