"""The last stage of the image track: bits per dimension, pictures, records, report."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.plots import plot_code_usage
from vqnmt.evaluation.records import Metric, Record, new_record, publish_records, write_records
from vqnmt.evaluation.report import Picture
from vqnmt.files import atomic_path, remove_leftovers
from vqnmt.images.data import ImageData, batches_in_order
from vqnmt.images.likelihood import BitsPerDimension, bits_per_dimension
from vqnmt.images.models import VQVAE, CodeModel, GaussianVAE, ImageModel
from vqnmt.images.models.logistics import expected_pixels
from vqnmt.images.pipeline import ImageRun
from vqnmt.images.plots import (
    beside,
    nearest_patches,
    plot_bits,
    save_image_grid,
    square,
)
from vqnmt.images.tables import write_image_report
from vqnmt.progress import Progress
from vqnmt.quantizers.statistics import perplexity
from vqnmt.settings import to_flat
from vqnmt.training.metrics import code_usage, rates
from vqnmt.training.stage import as_text

# Test images that are searched for the nearest patches, and the side of a patch in positions.
PATCH_IMAGES, PATCH_POSITIONS = 500, 4
# The bits per dimension of each test image, for paired tests.
TEST_BITS = "test_bits.safetensors"


class ImageEvaluation:
    """Measures the finished model once, and writes the results.

    Args:
        run: A run that has made the others.
        data: Has the images.
        model: The finished model.
        overrides: The command's changes to the default configuration, for the records.
    """

    def __init__(
        self, run: ImageRun, data: ImageData, model: ImageModel, overrides: list[str]
    ) -> None:
        self.config, self.folder, self.stages = run.config, run.folder, run.stages
        self.data, self.model, self.overrides = data, model, overrides
        trained = "prior" if "prior" in self.stages else "model"
        settings = {
            "evaluation": dataclasses.asdict(self.config.evaluation),
            "system": self.config.system,
            "budget": self.config.budget,
        }
        self.stage = run.stage("evaluation", settings, after=trained)

    def run(self) -> list[Record]:
        """Measure, and write results.json, report.md and the pictures, unless done."""
        path = self.folder / "results.json"
        files = (path, self.folder / "report.md", self.folder / TEST_BITS)
        if not (self.stage.complete and all(file.exists() for file in files)):
            with self.stage.work():
                remove_leftovers(self.folder)
                self.model.to(PartialState().device).eval()
                torch.manual_seed(self.config.seed)
                record = self._record()
                # Replaces the records of an earlier evaluation.
                write_records(path, [record], anew=True)
                self._report(record)
        return publish_records(path, self.config.records_paths)

    def _record(self) -> Record:
        metrics: dict[str, Metric] = {"budget": self.config.budget}
        for name, images in (("", self.data.test), (".valid", self.data.valid)):
            batches = batches_in_order(images, self.config.evaluation.batch_images)
            with Progress(f"evaluation{name}", len(images), "images") as progress:
                found = bits_per_dimension(self.model, batches, progress)
            if not name:
                write_test_bits(found, self.folder / TEST_BITS)
            metrics |= {f"{key}{name}": value for key, value in found.means().items()}
        metrics |= {
            "test_images": len(self.data.test),
            "train_images": len(self.data.train),
            "likelihood": f"{self.config.model.autoencoder.mixtures} discretised logistics",
            "prior": self._prior_name(),
        }
        if isinstance(self.model, CodeModel):
            metrics |= self._code_metrics(self.model)
        samples = self.config.evaluation.importance_samples
        if isinstance(self.model, GaussianVAE) and samples:
            metrics[f"bits_per_dim_importance_{samples}"] = self._importance(self.model, samples)
        metrics |= self._training_metrics()
        trained = [self.stages[name] for name in ("model", "prior") if name in self.stages]
        return new_record(
            system=self.config.system,
            corpus=self.data.name,
            overrides=self.overrides,
            seed=self.config.seed,
            device=self.model.device,
            trained=trained,
            parameters=sum(p.numel() for p in self.model.parameters()),
            metrics=metrics,
        )

    def _prior_name(self) -> str:
        kind = self.config.model.kind
        if kind in ("vae", "pixels"):
            return {"vae": "standard normal", "pixels": "none"}[kind]
        prior = self.config.model.prior
        return prior.name if kind == "integers" or not prior.joint else f"{prior.name}, joint"

    def _batches(self, images: NDArray[np.uint8]) -> list[torch.Tensor]:
        device = self.model.device
        size = self.config.evaluation.batch_images
        return [batch.to(device) for batch in batches_in_order(images, size)]

    @torch.no_grad()
    def _code_metrics(self, model: CodeModel) -> dict[str, Metric]:
        """Usage of the codes on the test set."""
        size, codebooks = model.codebook_size, model.codebooks
        usage = torch.zeros(codebooks * size, dtype=torch.int64)
        for batch in self._batches(self.data.test):
            codes = model.encode(batch)  # (B, h, w, n)
            # Codes of different codebooks are different codes.
            turns = torch.arange(codes.shape[-1], device=codes.device) % codebooks
            usage += (codes + size * turns).flatten().cpu().bincount(minlength=len(usage))
        return {
            "codebook_size": len(usage),
            "used_codes": int((usage > 0).sum()),
            "codebook_perplexity": perplexity(usage),
            "codes_per_image": codes[0].numel(),
        }

    @torch.no_grad()
    def _importance(self, model: GaussianVAE, samples: int) -> float:
        nats = 0.0
        with Progress("importance samples", len(self.data.test), "images") as progress:
            for batch in self._batches(self.data.test):
                nats += float(model.importance_nats(batch, samples).double().sum())
                progress.update(len(batch))
        return nats / len(self.data.test) / model.dimensions / float(np.log(2))

    def _training_metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        for name in ("model", "prior"):
            if name not in self.stages:
                continue
            training = getattr(self.config, f"{name}_training")
            prefix = "" if name == "model" else "prior_"
            metrics[f"{prefix}steps"] = training.steps
            metrics[f"{prefix}batch_images"] = training.batch_images
            rows = self.stages[name].metrics()
            metrics[f"{prefix}train_images_per_second"] = float(np.median(rates(rows, "images")))
        return metrics

    # --- report ------------------------------------------------------------------------------

    def _report(self, record: Record) -> None:
        facts = self.data.facts()
        source = f" ({self.data.attribution})" if self.data.attribution else ""
        write_image_report(
            self.folder,
            title=f"{self.config.system} on {self.data.name}",
            records=[record],
            data=f"{self.data.name}{source}; licence: {self.data.licence}. Training on "
            f"{facts['train']:,} images, validation on {facts['valid']:,}, test on "
            f"{facts['test']:,}.",
            settings={
                key: as_text(value)
                for key, value in to_flat(dataclasses.asdict(self.config)).items()
            },
            wall_seconds={n: s.seconds for n, s in self.stages.items() if s is not self.stage},
            pictures=self._pictures(),
        )

    @torch.no_grad()
    def _pictures(self) -> list[Picture]:
        pictures = []
        settings, model = self.config.evaluation, self.model
        originals = self.data.test[: settings.reconstructions]
        if isinstance(model, CodeModel | GaussianVAE):
            found = [self._reconstruct(model, batch) for batch in self._batches(originals)]
            grid = beside(originals, torch.cat(found).cpu().numpy())
            save_image_grid(grid, self.folder / "reconstructions.png")
            alt = "Test images, each row above its reconstructions (expected pixels)"
            pictures.append(Picture(file="reconstructions.png", alt=alt))
        if settings.samples:
            drawn = model.sample(settings.samples).cpu().numpy()
            save_image_grid(square(drawn), self.folder / "samples.png")
            alt = "Images drawn from the model by ancestral sampling"
            pictures.append(Picture(file="samples.png", alt=alt))
        if isinstance(model, VQVAE):
            pictures.append(self._nearest(model))
        for name in ("model", "prior"):
            if name not in self.stages:
                continue
            rows = self.stages[name].metrics()
            plot_bits(rows, self.folder / f"training_{name}.png", f"Training of the {name}")
            alt = f"Bits over the training of the {name}"
            pictures.append(Picture(file=f"training_{name}.png", alt=alt))
            if usage := code_usage(rows):
                plot_code_usage(*usage, self.folder / "code_usage.png")
                alt = "How often each code is used, epoch by epoch"
                pictures.append(Picture(file="code_usage.png", alt=alt))
        return pictures

    def _reconstruct(self, model: CodeModel | GaussianVAE, images: torch.Tensor) -> torch.Tensor:
        """Return the expected pixels (B, 3, H, W) of images encoded and decoded."""
        if isinstance(model, CodeModel):
            return model.reconstruct(model.encode(images))
        return expected_pixels(model.decoder(model.posterior(images)[0]))

    def _nearest(self, model: VQVAE) -> Picture:
        """Draw the patches nearest to the most used codes, at each position's first code."""
        images = self.data.test[:PATCH_IMAGES]
        codes, distances = [], []
        for batch in self._batches(images):
            vectors = model.vectors(batch)[:, :, :, 0]  # (B, h, w, d)
            found = model.quantizer.nearest(vectors)
            gaps = (vectors - model.quantizer.codes_to_vectors(found)).square().sum(-1)
            codes.append(found.cpu().numpy())
            distances.append(gaps.float().cpu().numpy())
        all_codes = np.concatenate(codes)
        side = min(PATCH_POSITIONS * images.shape[2] // all_codes.shape[1], images.shape[2])
        count = self.config.evaluation.patches
        rows = nearest_patches(images, all_codes, np.concatenate(distances), count, side)
        save_image_grid(rows, self.folder / "nearest_codes.png")
        alt = f"The {count} most used codes, a row each: the patches nearest to the code's vector"
        return Picture(file="nearest_codes.png", alt=alt)


def write_test_bits(bits: BitsPerDimension, path: Path) -> None:
    """Keep the bits per dimension of each test image.

    Raises:
        VqnmtError: The file cannot be written.
    """
    values = {"reconstruction": bits.reconstruction, "rate": bits.rate}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(values))


def read_test_bits(folder: Path) -> BitsPerDimension:
    """Read the bits per dimension of each test image in a finished run's folder.

    Raises:
        VqnmtError: The file is missing or damaged.
    """
    path = folder / TEST_BITS
    try:
        values = load_file(path)
        return BitsPerDimension(values["reconstruction"], values["rate"], None)
    except Exception as error:  # safetensors has errors of its own
        raise VqnmtError(
            f"{path}: cannot be read ({error}): delete it and start the same command again"
        ) from error
