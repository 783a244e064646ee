"""All settings of the translation pipeline, as `configs/train_nmt.yaml` lists them."""

from dataclasses import dataclass, field

from vqnmt.data.config import CorpusConfig
from vqnmt.data.vocabulary import VocabularyConfig
from vqnmt.errors import VqnmtError
from vqnmt.layers import TransformerConfig
from vqnmt.models import AutoregressiveConfig, LatentConfig
from vqnmt.quantizers import QuantizerConfig
from vqnmt.training.config import TrainingConfig


@dataclass(kw_only=True, slots=True)
class TeacherSettings:
    """The autoregressive Transformer, but for what the vocabulary decides."""

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    encoder_layers: int = 3
    decoder_layers: int = 3
    label_smoothing: float = 0.1

    def model(self, vocabulary_size: int) -> AutoregressiveConfig:
        """Complete the settings for a vocabulary."""
        return AutoregressiveConfig(vocabulary_size=vocabulary_size, **_fields(self))


@dataclass(kw_only=True, slots=True)
class StudentSettings:
    """The latent Transformer, but for what the vocabulary decides; see `LatentConfig`."""

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    encoder_layers: int = 3
    predictor_layers: int = 1
    decoder_layers: int = 3
    compression: int = 3
    output: str = "ctc"
    upsampling: int = 2
    causal_decoder: bool = False
    source_in_compressor: bool = True
    source_copy: bool = True
    word_dropout: float = 0.0
    code_noise: float = 0.0
    continuous_start: float = 0.15
    predictor_gradient: bool = False
    gold_mixing: bool = False

    def __post_init__(self) -> None:
        """Check the values as `LatentConfig` does."""
        self.model(vocabulary_size=1)

    def model(self, vocabulary_size: int) -> LatentConfig:
        """Complete the settings for a vocabulary."""
        return LatentConfig(vocabulary_size=vocabulary_size, **_fields(self))


def _fields(settings: TeacherSettings | StudentSettings) -> dict:
    return {name: getattr(settings, name) for name in settings.__slots__}


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured at the end of a run."""

    latency_sentences: int = 200
    """Sentences of the first test set that are timed at batch 1; 0 times none."""
    latency_rounds: int = 3
    """Timings of each sentence."""
    latency_warmup: int = 10
    """Sentences that each system translates before the clock runs."""
    examples: int = 10
    """Translations that the report shows side by side."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig:
    """One run of `scripts/train_nmt.py`."""

    run: str
    """Run folder; starting the same command again resumes there."""
    seed: int = 1
    """Fixes initial weights, dropout, data order and codes drawn."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which text."""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Joint sentencepiece vocabulary."""
    max_train_tokens: int = 128
    """Longer training pairs are dropped (and counted)."""
    max_source_tokens: int = 512
    """Longer sources are refused in translation."""
    teacher: str = "own"
    """`own` trains our autoregressive Transformer; else a checkpoint for transformers."""
    teacher_model: TeacherSettings = field(default_factory=TeacherSettings)
    """Our own teacher."""
    teacher_training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""
    beam: int = 4
    """The teacher's beam for distillation."""
    distill: bool = True
    """Whether the student trains on the teacher's output or on the raw text."""
    warm_start: bool = True
    """Whether the student starts with our own teacher's embedding, encoder and decoder."""
    student_model: StudentSettings = field(default_factory=StudentSettings)
    """The student."""
    student_training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    records: str | None = "results/translation"
    """Folder of the run records by corpus; null keeps them in the run folder alone."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("max_train_tokens", "max_source_tokens", "beam"):
            if getattr(self, key) < 1:
                raise VqnmtError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        if not self.run.strip():
            raise VqnmtError(f"run is {self.run!r}; give the run a folder, such as run=runs/first")
