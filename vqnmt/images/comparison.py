"""The tables of `scripts/reproduce_image.py`: systems with seeds and variants, and pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import Metric, Record, check_places, read_records, write_records
from vqnmt.files import atomic_write_text
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.images.evaluation import ImageEvaluation, read_test_bits
from vqnmt.images.likelihood import paired_difference
from vqnmt.images.models import CodeModel, ImageModel
from vqnmt.images.pipeline import (
    check_image_settings,
    make_data,
    make_model,
    start_image_run,
)
from vqnmt.images.plots import Strip, plot_collapse, plot_strips
from vqnmt.images.tables import collapse_table, image_table, quantizers_table
from vqnmt.progress import print_once

TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    "systems": image_table,
    "quantizers": quantizers_table,
    "collapse": collapse_table,
}
"""How each table of configs/table is laid out."""
# The systems whose reconstructions are drawn, and the images of a row.
RECONSTRUCTED, SHOWN = ("vqvae_em", "vqvae_best"), 8


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a table."""

    config: ImagePipelineConfig
    """Its settings; no other run of the table has its run folder."""
    overrides: list[str]
    """The command's changes to the default configuration, for the records."""
    variant: str = ""
    """Of the systems of one table, what else differs; "" where nothing does."""


class ImageComparison:
    """Trains and measures the runs of one table one after another, and compares them.

    Args:
        table: A key of `TABLES`.
        rows: The runs.
        reference: The system that each other one with the same seed and variant is compared with,
            image by image; None: none.

    Raises:
        VqnmtError: A run's settings do not fit, or a place cannot be written.
    """

    def __init__(self, table: str, rows: Sequence[Row], reference: str | None = None) -> None:
        self.table, self.reference = table, reference
        config = rows[0].config
        folder = Path(config.records or Path(config.run).parent)
        name = config.data.name if table == "systems" else f"{config.data.name}_{table}"
        self.path = folder / f"{name}.json"
        # The table's own file gets the records, with what is known of all runs.
        self.rows = [
            dataclasses.replace(row, config=dataclasses.replace(row.config, records=None))
            for row in rows
        ]
        folders = [row.config.run for row in self.rows]
        if again := next((x for i, x in enumerate(folders) if x in folders[:i]), None):
            raise VqnmtError(f"run={again} would be the folder of two runs: leave run=... out")
        for row in self.rows:
            check_image_settings(row.config)
            check_places(row.config.run, [self.path])

    def run(self) -> str:
        """Run what is missing, write records, table and pictures, and return the table."""
        done: list[tuple[Row, Record]] = []
        models: dict[str, ImageModel] = {}
        for row in self.rows:
            print_once(f"run {row.config.run}")
            job = start_image_run(row.config)
            data = make_data(job)
            model = make_model(job, data)
            if not PartialState().is_main_process:
                continue
            (record,) = ImageEvaluation(job, data, model, row.overrides).run()
            done.append((row, record))
            models.setdefault(row.config.system, model)
            # Whatever interrupts the night, what is done is recorded.
            write_records(self.path, self._compared(done))
        if not PartialState().is_main_process:
            return ""
        if self.table == "systems":
            self._draw(models, torch.from_numpy(data.test[:SHOWN].copy()), self.rows[0].config.seed)
        # With what other starts have recorded.
        records = read_records(self.path)
        if self.table == "collapse":
            plot_collapse(records, self.path.with_suffix(".png"))
        text = TABLES[self.table](records)
        atomic_write_text(self.path.with_suffix(".md"), text + "\n")
        return text

    def _compared(self, done: Sequence[tuple[Row, Record]]) -> list[Record]:
        """Return the records with each run's variant, and its difference from the reference."""
        found = {(row.config.system, row.config.seed, row.variant): row for row, _ in done}
        records = []
        for row, record in done:
            metrics: dict[str, Metric] = {"variant": row.variant} if row.variant else {}
            other = found.get((self.reference or "", row.config.seed, row.variant))
            if other is not None and other is not row:
                bits = [read_test_bits(Path(x.config.run)).total for x in (row, other)]
                metrics |= {"reference": other.config.system, **paired_difference(*bits)}
            records.append(dataclasses.replace(record, metrics=record.metrics | metrics))
        return records

    @torch.no_grad()
    def _draw(self, models: dict[str, ImageModel], originals: torch.Tensor, seed: int) -> None:
        """Draw reconstructions of the same images, and samples, a row for each model."""
        strips = [Strip("originals", originals.numpy())]
        for name in RECONSTRUCTED:
            model = models.get(name)
            if isinstance(model, CodeModel):
                model.eval()
                codes = model.encode(originals.to(model.device))
                strips.append(Strip(name, model.reconstruct(codes).cpu().numpy()))
        place = self.path.with_suffix("")
        if len(strips) > 1:
            plot_strips(strips, Path(f"{place}_reconstructions.png"))
        if self.rows[0].config.evaluation.samples:
            drawn = []
            for name, model in models.items():
                torch.manual_seed(seed)
                drawn.append(Strip(name, model.eval().sample(SHOWN).cpu().numpy()))
            plot_strips(drawn, Path(f"{place}_samples.png"))
