"""The CIFAR-10 table of Roy et al. 2018 with our figures beside the paper's, and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import Picture
from vqnmt.evaluation.tables import (
    MINUTES,
    PARAMETERS,
    SYSTEM,
    Column,
    markdown_table,
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


def image_table(records: Sequence[Record]) -> str:
    """Lay out as Markdown: log perplexity in bits per dimension on the test set, and its parts.

    `rate` is that of the learnt prior, `uniform` that of the uniform one.
    """
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
    parts = [f"# {title}", image_table(records)]
    parts.append(
        "Bits per dimension on the test set, from a discretised mixture of logistics over 0 to "
        "255. `reconstr.` is -log2 p(x | z), `rate` -log2 p(z) under the learnt prior (of a "
        "Gaussian VAE: the KL), `uniform` under the uniform one; codes by argmax."
    )
    record = records[0]
    metrics = sorted(record.metrics.items())
    parts.append(
        markdown_table(
            ["figure", "value"],
            [[key, f"{x:.4f}" if isinstance(x, float) else str(x)] for key, x in metrics],
            text_columns=1,
        )
    )
    hardware = ", ".join(f"{key} {value}" for key, value in record.hardware.items())
    parts.append(f"Hardware: {hardware}. Commit {record.commit}, seed {record.seed}.")
    for picture in pictures:
        parts += [f"## {picture.alt}", f"![{picture.alt}]({picture.file})"]
    parts += ["## Images", data, "## Settings"]
    rows = [[f"`{key}`", f"`{value}`"] for key, value in settings.items()]
    parts.append(markdown_table(["key", "value"], rows, text_columns=2))
    times = [*wall_seconds.items(), ("all stages", sum(wall_seconds.values()))]
    stages = [[stage, f"{seconds:,.1f}"] for stage, seconds in times]
    parts += ["## Wall time", markdown_table(["stage", "seconds"], stages, text_columns=1)]
    atomic_write_text(Path(folder) / "report.md", "\n\n".join(parts) + "\n")
