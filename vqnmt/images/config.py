"""All settings of the image pipeline, and their defaults."""

from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated

from vqnmt.images.data import ImageDataConfig
from vqnmt.images.models import ImageModelConfig
from vqnmt.plugins import NamesPlugins
from vqnmt.settings import (
    NO_NUMBER,
    Fraction,
    Name,
    PositiveFloat,
    PositiveInt,
    Seed,
    Settings,
    between,
)
from vqnmt.training.config import TrainingConfig

# Images of a batch or a picture, draws of an estimate: more would not end, or fit no memory.
_MOST = 100_000
Images = Annotated[int, between(1, _MOST)]
ImagesOrNone = Annotated[int, between(0, _MOST)]


@dataclass(kw_only=True, slots=True)
class ImageTrainingConfig(TrainingConfig):
    """How long and how an image model, or its prior, is trained."""

    batch_tokens: int = field(init=False, default=1)  # batches are counted in images
    steps: PositiveInt = 8000
    learning_rate: PositiveFloat = 0.004
    beta2: Fraction = 0.99
    validate_every: PositiveInt = 4000
    keep: PositiveInt = field(default=1, metadata=NO_NUMBER)
    batch_images: Images = 16
    """Images in a batch; the processes share it out."""
    ema: Fraction = 0.99
    """Decay of the moving average of the weights that is evaluated and kept; 0: none."""
    flip: bool = True
    """Whether half of the training images, drawn anew each epoch, are mirrored."""


@dataclass(kw_only=True, slots=True)
class ImageEvaluationConfig(Settings):
    """What is measured and drawn at the end of a run."""

    group: InitVar[str] = "evaluation"
    batch_images: Images = 100
    """Images that are evaluated at a time."""
    importance_samples: ImagesOrNone = 0
    """Draws of the importance-weighted estimate of a Gaussian VAE; 0: none."""
    reconstructions: Images = 32
    """Test images drawn beside their reconstructions."""
    samples: ImagesOrNone = 16
    """Images drawn from the model; 0: none. A sample of an autoregressive model takes as many
    passes as it has codes or pixels."""
    patches: Images = 12
    """Patches drawn for each of this many codes: those whose vectors are nearest to it."""


@dataclass(kw_only=True, slots=True)
class ImagePipelineConfig(NamesPlugins, Settings):
    """One run of `vqnmt images`: one system."""

    run: Name
    """Run folder; starting the same command again resumes there."""
    system: Name
    """The system's name in records and reports."""
    budget: Name
    """The budget's name in records and reports."""
    seed: Seed = 1
    """Fixes initial weights, dropout, data order, mirroring and the codes drawn."""
    plugins: list[str] = field(default_factory=list, metadata=NO_NUMBER)
    """Modules, installed or in the current folder, that register quantizers."""
    data: ImageDataConfig = field(default_factory=lambda: ImageDataConfig(max_valid=1000))
    """Which images."""
    model: ImageModelConfig = field(default_factory=ImageModelConfig)
    """The model."""
    model_training: ImageTrainingConfig = field(default_factory=ImageTrainingConfig)
    """How it is trained."""
    prior_training: ImageTrainingConfig = field(
        default_factory=lambda: ImageTrainingConfig(steps=3000, validate_every=3000)
    )
    """How the prior is trained on the finished model's codes, where it is not trained along."""
    evaluation: ImageEvaluationConfig = field(default_factory=ImageEvaluationConfig)
    """What is measured."""
    records: str | None = None
    """Folder that gets the run records too, by data set; null keeps them in the run folder
    alone."""

    @property
    def records_paths(self) -> list[Path]:
        """The file of records that is asked for, if any."""
        return [] if self.records is None else [Path(self.records) / f"{self.data.name}.json"]

    @property
    def fits_prior(self) -> bool:
        """Whether the prior has a training of its own."""
        prior = self.model.prior
        return self.model.kind == "vqvae" and prior.name != "uniform" and not prior.joint
