"""All settings of the image pipeline, and their defaults."""

from dataclasses import dataclass, field
from pathlib import Path

from vqnmt.errors import VqnmtError
from vqnmt.images.data import ImageDataConfig
from vqnmt.images.models import ImageModelConfig
from vqnmt.settings import NO_NUMBER, check_seed
from vqnmt.training.config import TrainingConfig

# Images of a batch or a picture, draws of an estimate: more would not end, or fit no memory.
_MOST = 100_000


@dataclass(kw_only=True, slots=True)
class ImageTrainingConfig(TrainingConfig):
    """How long and how an image model, or its prior, is trained."""

    batch_tokens: int = field(init=False, default=1)  # batches are counted in images
    steps: int = 8000
    learning_rate: float = 0.004
    beta2: float = 0.99
    validate_every: int = 4000
    keep: int = field(default=1, metadata=NO_NUMBER)
    batch_images: int = 16
    """Images in a batch; the processes share it out."""
    ema: float = 0.99
    """Decay of the moving average of the weights that is evaluated and kept; 0: none."""
    flip: bool = True
    """Whether half of the training images, drawn anew each epoch, are mirrored."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        # Without arguments `super` looks for the class that slots=True has replaced.
        TrainingConfig.__post_init__(self)
        if not 1 <= self.batch_images <= _MOST:
            raise VqnmtError(
                f"training.batch_images is {self.batch_images}; it must lie between 1 and {_MOST}"
            )
        if not 0 <= self.ema < 1:
            raise VqnmtError(f"training.ema is {self.ema}; it must be 0 or more and below 1")


@dataclass(kw_only=True, slots=True)
class ImageEvaluationConfig:
    """What is measured and drawn at the end of a run."""

    batch_images: int = 100
    """Images that are evaluated at a time."""
    importance_samples: int = 0
    """Draws of the importance-weighted estimate of a Gaussian VAE; 0: none."""
    reconstructions: int = 32
    """Test images drawn beside their reconstructions."""
    samples: int = 16
    """Images drawn from the model; 0: none. A sample of an autoregressive model takes as many
    passes as it has codes or pixels."""
    patches: int = 12
    """Patches drawn for each of this many codes: those whose vectors are nearest to it."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in self.__slots__:
            least = 0 if key in ("importance_samples", "samples") else 1
            if not least <= getattr(self, key) <= _MOST:
                raise VqnmtError(
                    f"evaluation.{key} is {getattr(self, key)}; it must lie between {least} and "
                    f"{_MOST}"
                )


@dataclass(kw_only=True, slots=True)
class ImagePipelineConfig:
    """One run of `vqnmt images`: one system."""

    run: str
    """Run folder; starting the same command again resumes there."""
    system: str
    """The system's name in records and reports."""
    budget: str
    """The budget's name in records and reports."""
    seed: int = 1
    """Fixes initial weights, dropout, data order, mirroring and the codes drawn."""
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

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("run", "system", "budget"):
            if not getattr(self, key).strip():
                raise VqnmtError(f"{key} is {getattr(self, key)!r}; give it a name")
        check_seed(self.seed)

    @property
    def records_paths(self) -> list[Path]:
        """The file of records that is asked for, if any."""
        return [] if self.records is None else [Path(self.records) / f"{self.data.name}.json"]

    @property
    def fits_prior(self) -> bool:
        """Whether the prior has a training of its own."""
        prior = self.model.prior
        return self.model.kind == "vqvae" and prior.name != "uniform" and not prior.joint
