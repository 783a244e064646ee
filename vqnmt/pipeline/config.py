"""All settings of the translation pipeline, and their defaults."""

from dataclasses import InitVar, dataclass, field
from typing import Annotated, Literal

from vqnmt.data.config import CorpusConfig
from vqnmt.data.vocabulary import VocabularyConfig
from vqnmt.decode.settings import Temperature, Width
from vqnmt.errors import VqnmtError
from vqnmt.models import AutoregressiveConfig, FertilityConfig, LatentConfig
from vqnmt.settings import Name, NonNegativeInt, PositiveInt, Seed, Settings, between, check
from vqnmt.training.config import TrainingConfig

STUDENTS = {
    "latent": "student_model",
    "autoregressive": "autoregressive_student",
    "fertility": "fertility_student",
    "teacher": "teacher_model",
}
"""From each kind of student to the key of its settings; `teacher`: the teacher is its own."""


@dataclass(kw_only=True, slots=True)
class DecodingConfig(Settings):
    """How the student translates."""

    group: InitVar[str] = "decoding"
    beam: Width = 1
    """Beam over tokens or codes; 1 is greedy."""
    candidates: Width = 1
    """Translations of each sentence, from which our teacher chooses the likeliest; 1: no choice."""
    temperature: Temperature | None = None
    """Draws the candidates from p ** (1 / temperature); null: takes the best of a beam search over
    codes, or fertilities drawn at temperature 1."""
    language_model: bool = True
    """Whether a latent student with CTC output reads what its decoder says with the help of a
    trigram model of its training targets, where this has helped on valid; else the best path is
    read."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig(Settings):
    """What is measured at the end of a run."""

    group: InitVar[str] = "evaluation"
    latency_sentences: NonNegativeInt = 100
    """Sentences of the first test set that are timed at batch 1; 0 times none."""
    latency_rounds: PositiveInt = 3
    """Timings of each sentence; its time is their median."""
    latency_warmup: NonNegativeInt = 10
    """Sentences that each system translates before the clock runs."""
    throughput_batches: list[PositiveInt] = field(default_factory=list)
    """Sizes of the batches in which the same sentences are timed again; [] for none."""
    examples: NonNegativeInt = 10
    """Translations that the report shows side by side."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig(Settings):
    """One run of `scripts/train_nmt.py`."""

    run: Name
    """Run folder; starting the same command again resumes there."""
    seed: Seed = 1
    """Fixes initial weights, dropout, data order and codes drawn."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which text."""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Joint sentencepiece vocabulary."""
    max_train_tokens: Annotated[int, between(1, 100_000)] = 128
    """Longer training pairs are dropped, and counted."""
    max_source_tokens: Annotated[int, between(1, 100_000)] = 512
    """Longer sources are refused in translation, never cut."""
    teacher: str = "own"
    """`own` trains our autoregressive Transformer; else the model folder of one (RUN/teacher), or a
    folder or Hub name that transformers loads."""
    teacher_prefix: str = ""
    """Text before every source of a transformers teacher, such as "translate English to German: "
    for T5."""
    teacher_model: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)
    """Our own teacher."""
    teacher_training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""
    beam: Width = 4
    """The teacher's beam for distillation."""
    distill: Literal[True, False, "selected"] = "selected"
    """What the student trains on: true, the teacher's output; false, the raw text; `selected`, for
    a weak teacher, its output where that is close to the reference, else the reference."""
    selection: Annotated[float, between(0, 100)] = 70.0
    """With `selected`: the chrF against the reference, 0 to 100, that counts as close."""
    recombined: Annotated[int, between(0, 1000)] = 0
    """Made-up sources for each training source, each joined from parts of two of them and
    translated by the teacher: for small corpora, which the student would otherwise learn by
    heart."""
    warm_start: bool = True
    """Whether the student starts with our own teacher's embedding, encoder and decoder."""
    student: Literal["latent", "autoregressive", "fertility", "teacher"] = "latent"
    """`latent`; `autoregressive` or `fertility` for the baselines; `teacher` trains none."""
    student_model: LatentConfig = field(default_factory=LatentConfig)
    """The latent student."""
    autoregressive_student: AutoregressiveConfig = field(
        default_factory=lambda: AutoregressiveConfig(encoder_layers=5, decoder_layers=1)
    )
    """The autoregressive student: many encoder layers, one decoder layer."""
    fertility_student: FertilityConfig = field(default_factory=FertilityConfig)
    """The fertility NAT."""
    # Larger batches than the teacher's: two cores process a third more positions a second.
    student_training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=1650, batch_tokens=1536, learning_rate=0.003, validate_every=550
        )
    )
    """How the student of any kind is trained."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How the student translates."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    records: str | None = None
    """Folder that gets the run records too, by corpus; null keeps them in the run folder alone."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and those that depend on each other."""
        check(self, group)
        if self.recombined and not self.distill and self.student != "teacher":
            raise VqnmtError(
                f"recombined is {self.recombined}, but distill is false, so that nobody translates "
                "the made-up sources: set distill=true or recombined=0"
            )
        if self.teacher_prefix and self.teacher == "own":
            raise VqnmtError(
                f"teacher_prefix is {self.teacher_prefix!r}, but teacher=own takes none: leave it "
                "empty, or name a transformers teacher"
            )
