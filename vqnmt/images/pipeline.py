"""The image track's job: images, model, prior; `vqnmt.images.evaluation` measures the result.

Each stage is a function that takes what it needs and returns what it makes. It is skipped when its
output is there and complete. The run folder::

    data/         data.json: counts and a digest of the images
    model/        config.json, model.safetensors, training/
    prior/        as model/, with the prior fitted; only where it has a training of its own
    results.json  report.md  *.png
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from vqnmt.evaluation.records import check_places
from vqnmt.files import atomic_write_text
from vqnmt.images.config import ImagePipelineConfig, ImageTrainingConfig
from vqnmt.images.data import (
    ImageBatches,
    ImageData,
    batches_in_order,
    load_images,
)
from vqnmt.images.likelihood import bits_per_dimension
from vqnmt.images.models import (
    MODEL_FILES,
    VQVAE,
    AveragedWeights,
    ImageModel,
    build_image_model,
    load_image_model,
    save_image_model,
)
from vqnmt.images.models.priors import CodePrior
from vqnmt.progress import Progress, print_once
from vqnmt.settings import deciding
from vqnmt.training.distribution import join_processes
from vqnmt.training.loop import Batches, Observer, Trainer
from vqnmt.training.stage import Run, Stage

ImageRun: TypeAlias = Run[ImagePipelineConfig]


def check_image_settings(config: ImagePipelineConfig) -> None:
    """Refuse settings that some stage of the image track cannot do; nothing is made.

    Raises:
        VqnmtError: The model cannot be built of its settings, or the run folder or that of the
            records cannot be written.
    """
    with torch.device("meta"):
        build_image_model(config.model, config.data.size)
    check_places(config.run, config.records_paths)


def start_image_run(config: ImagePipelineConfig) -> ImageRun:
    """Join the processes of a run, and check its settings; nothing is made.

    Raises:
        VqnmtError: See `check_image_settings`.
    """
    join_processes()
    check_image_settings(config)
    set_seed(config.seed)
    return Run(config, Path(config.run))


def make_data(run: ImageRun) -> ImageData:
    """Stage 1: fetch and split the images; they stay where they are.

    Raises:
        VqnmtError: See `load_images`; or the run was made with other images.
    """
    config = run.config.data
    with PartialState().main_process_first():
        data = load_images(config)
    facts = data.facts()
    settings = deciding(config) | {"the images": facts}
    stage = run.stage("data", settings)
    if PartialState().is_main_process and not stage.has("data.json"):
        with stage.work("data.json"):
            atomic_write_text(stage.folder / "data.json", json.dumps(facts, indent=2) + "\n")
    PartialState().wait_for_everyone()
    counts = ", ".join(f"{facts[part]:,} {part}" for part in ("train", "valid", "test"))
    print_once(f"data: {data.name}: {counts} images")
    return data


def make_model(run: ImageRun, data: ImageData) -> ImageModel:
    """Stage 2: the model, with its prior: trained along, or in a stage of its own after it.

    Raises:
        VqnmtError: A training fails.
    """
    config, training = run.config, run.config.model_training
    settings = {
        "model": deciding(config.model),
        "model_training": deciding(training),
        "seed": config.seed,
    }
    if config.fits_prior:  # another prior needs no other model
        del settings["model"]["prior"]  # type: ignore[attr-defined]
    stage = run.stage("model", settings, after="data")
    if not stage.trained_already(*MODEL_FILES):
        set_seed(config.seed)
        model = build_image_model(config.model, config.data.size)
        batches = ImageBatches(data.train, training.batch_images, config.seed, training.flip)
        observer = ImageObserver(data.valid, config.evaluation.batch_images)
        with stage.work(*MODEL_FILES):
            _train(stage, model, batches, observer, training, config.seed)
            save_on_main(model, stage.folder)
    model = load_image_model(stage.folder)
    return _fit_prior(run, data, model) if config.fits_prior else model


def _fit_prior(run: ImageRun, data: ImageData, model: ImageModel) -> ImageModel:
    """Stage 3: the prior, on the codes of the training images and their mirror images."""
    config, training = run.config, run.config.prior_training
    settings = {
        "prior": dataclasses.asdict(config.model.prior),
        "prior_training": deciding(training),
        "seed": config.seed,
    }
    stage = run.stage("prior", settings, after="model")
    if not stage.trained_already(*MODEL_FILES):
        assert isinstance(model, VQVAE)
        set_seed(config.seed)
        # The stage may have trained its model for another prior, whose weights are of no use here.
        fresh = build_image_model(config.model, config.data.size)
        assert isinstance(fresh, VQVAE)
        model.prior, model.config = fresh.prior.requires_grad_(True), config.model
        size = config.evaluation.batch_images
        with stage.work(*MODEL_FILES):
            codes = [all_codes(model, data.train, size)]
            if training.flip:
                codes.append(all_codes(model, data.train[..., ::-1], size))
            batches = CodeBatches(
                np.concatenate(codes),
                images=data.train,
                batch_images=training.batch_images,
                seed=config.seed,
                flip=training.flip,
            )
            valid = all_codes(model, data.valid, size)
            observer = PriorObserver(valid, size, 3 * config.data.size**2)
            _train(stage, model.prior, batches, observer, training, config.seed)
            save_on_main(model, stage.folder)
    return load_image_model(stage.folder)


def _train(
    stage: Stage,
    module: nn.Module,
    batches: Batches,
    observer: Observer,
    training: ImageTrainingConfig,
    seed: int,
) -> None:
    """Train `module` in place."""
    # On a CPU too the convolutions take less time this way.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = AveragedWeights(module, training.ema) if training.ema else module
    folder, name = stage.training_folder, stage.folder.name
    trainer = Trainer(trained, batches, observer, training, folder, seed, name)
    trained.load_state_dict(trainer.train())
    if isinstance(trained, AveragedWeights):
        module.load_state_dict(trained.average.state_dict())
    module.eval()


def save_on_main(model: ImageModel, folder: Path) -> None:
    """Save `model` by the first process; the others wait for it."""
    if PartialState().is_main_process:
        save_image_model(model, folder)
    PartialState().wait_for_everyone()


@torch.no_grad()
def all_codes(model: VQVAE, images: NDArray[np.uint8], batch: int) -> NDArray[np.int32]:
    """The codes (N, h, w, n) of `images` (N, 3, H, W), by argmax."""
    device = PartialState().device
    model.to(device).eval()
    found = []
    with Progress("codes", len(images), "images") as progress:
        for part in batches_in_order(images, batch):
            found.append(model.encode(part.to(device)).int().cpu().numpy())
            progress.update(len(part))
    return np.concatenate(found)


class CodeBatches(ImageBatches):
    """Batches of codes in the order of `ImageBatches`.

    Args:
        codes: (N, h, w, n), or (2 N, h, w, n) with those of the mirrored images last.
        images: The N images.
        batch_images: Images in a batch.
        seed: Fixes order and mirroring.
        flip: Whether the second half is drawn from too.
    """

    def __init__(
        self,
        codes: NDArray[np.int32],
        images: NDArray[np.uint8],
        batch_images: int,
        seed: int,
        flip: bool,
    ) -> None:
        super().__init__(images, batch_images, seed, flip)
        self.codes = codes

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor]:
        """Return the codes (B, h, w, n) int64 of one planned batch."""
        return (torch.from_numpy(self.codes[indices]).long(),)


class ImageObserver:
    """The bound on validation images.

    Args:
        valid: (N, 3, H, W).
        batch: Images at a time.
    """

    def __init__(self, valid: NDArray[np.uint8], batch: int) -> None:
        self.batches = batches_in_order(valid, batch)

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Bits per dimension of the averaged model, in all and by parts."""
        image_model = model.average if isinstance(model, AveragedWeights) else model
        assert isinstance(image_model, ImageModel)
        # Draws of a VAE's posterior must not depend on how often validation has been run.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = bits_per_dimension(image_model, self.batches)
        return {f"valid/{name}": value for name, value in found.means().items()}

    def score(self, values: dict[str, Any]) -> float:
        """The lower the bound, the better."""
        return -float(values["valid/bits_per_dim"])


class PriorObserver:
    """The rate of the validation images' codes.

    Args:
        codes: (N, h, w, n).
        batch: Images at a time.
        dimensions: Of an image.
    """

    def __init__(self, codes: NDArray[np.int32], batch: int, dimensions: int) -> None:
        self.codes = torch.from_numpy(codes).split(batch)
        self.dimensions = dimensions

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Bits per dimension that the averaged prior spends on the codes."""
        prior = model.average if isinstance(model, AveragedWeights) else model
        assert isinstance(prior, CodePrior)
        device = next(prior.parameters()).device
        nats = torch.cat([prior.nats(codes.long().to(device)).cpu() for codes in self.codes])
        bits = nats.double().mean() / self.dimensions / np.log(2)
        return {"valid/rate_bits": float(bits)}

    def score(self, values: dict[str, Any]) -> float:
        """The lower the rate, the better."""
        return -float(values["valid/rate_bits"])
