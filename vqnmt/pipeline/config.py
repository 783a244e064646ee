"""All settings of the translation pipeline, and their defaults."""

from dataclasses import dataclass, field

from vqnmt.data.config import CorpusConfig
from vqnmt.data.vocabulary import VocabularyConfig
from vqnmt.decode.settings import check_temperature, check_width
from vqnmt.errors import VqnmtError
from vqnmt.models import AutoregressiveConfig, FertilityConfig, LatentConfig
from vqnmt.settings import check_seed
from vqnmt.training.config import TrainingConfig

STUDENTS = {
    "latent": "student_model",
    "autoregressive": "autoregressive_student",
    "fertility": "fertility_student",
    "teacher": "teacher_model",
}
"""From each kind of student to the key of its settings; `teacher`: the teacher is its own."""

# The largest values of keys by which memory grows: an export has room for the longest sentence.
_MOST = {"max_train_tokens": 100_000, "max_source_tokens": 100_000, "recombined": 1000}


@dataclass(kw_only=True, slots=True)
class DecodingConfig:
    """How the student translates."""

    beam: int = 1
    """Beam over tokens or codes; 1 is greedy."""
    candidates: int = 1
    """Translations of each sentence, from which our teacher chooses the likeliest; 1: no choice."""
    temperature: float | None = None
    """Draws the candidates from p ** (1 / temperature); null: takes the best of a beam search over
    codes, or fertilities drawn at temperature 1."""
    language_model: bool = True
    """Whether a latent student with CTC output reads what its decoder says with the help of a
    trigram model of its training targets, where this has helped on valid; else the best path is
    read."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("beam", "candidates"):
            check_width(f"decoding.{key}", getattr(self, key))
        if self.temperature is not None:
            check_temperature("decoding.temperature", self.temperature)


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured at the end of a run."""

    latency_sentences: int = 100
    """Sentences of the first test set that are timed at batch 1; 0 times none."""
    latency_rounds: int = 3
    """Timings of each sentence; its time is their median."""
    latency_warmup: int = 10
    """Sentences that each system translates before the clock runs."""
    throughput_batches: list[int] = field(default_factory=list)
    """Sizes of the batches in which the same sentences are timed again; [] for none."""
    examples: int = 10
    """Translations that the report shows side by side."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        least = {"latency_sentences": 0, "latency_rounds": 1, "latency_warmup": 0, "examples": 0}
        for key, allowed in least.items():
            if getattr(self, key) < allowed:
                raise VqnmtError(
                    f"evaluation.{key} is {getattr(self, key)}; it must be {allowed} or more"
                )
        if any(size < 1 for size in self.throughput_batches):
            raise VqnmtError(
                f"evaluation.throughput_batches is {self.throughput_batches}; each must be 1 or "
                "more"
            )


@dataclass(kw_only=True, slots=True)
class PipelineConfig:
    """One run of `vqnmt train`."""

    run: str
    """Run folder; starting the same command again resumes there."""
    seed: int = 1
    """Fixes initial weights, dropout, data order and codes drawn."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which text."""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Joint sentencepiece vocabulary."""
    max_train_tokens: int = 128
    """Longer training pairs are dropped, and counted."""
    max_source_tokens: int = 512
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
    beam: int = 4
    """The teacher's beam for distillation."""
    distill: bool | str = "selected"
    """What the student trains on: true, the teacher's output; false, the raw text; `selected`, for
    a weak teacher, its output where that is close to the reference, else the reference."""
    selection: float = 70.0
    """With `selected`: the chrF against the reference, 0 to 100, that counts as close."""
    recombined: int = 0
    """Made-up sources for each training source, each joined from parts of two of them and
    translated by the teacher: for small corpora, which the student would otherwise learn by
    heart."""
    warm_start: bool = True
    """Whether the student starts with our own teacher's embedding, encoder and decoder."""
    student: str = "latent"
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

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("max_train_tokens", "max_source_tokens"):
            if getattr(self, key) < 1:
                raise VqnmtError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        check_width("beam", self.beam)
        if self.recombined < 0:
            raise VqnmtError(f"recombined is {self.recombined}; it must be 0 or more")
        if isinstance(self.distill, str) and self.distill != "selected":
            raise VqnmtError(f"distill is {self.distill!r}; choose one of true, false, selected")
        if not 0 <= self.selection <= 100:
            raise VqnmtError(f"selection is {self.selection}; it must be from 0 to 100")
        if self.recombined and not self.distill and self.student != "teacher":
            raise VqnmtError(
                f"recombined is {self.recombined}, but distill is false, so that nobody translates "
                "the made-up sources: set distill=true or recombined=0"
            )
        for key, most in _MOST.items():
            if getattr(self, key) > most:
                raise VqnmtError(f"{key} is {getattr(self, key)}; it must be {most} or less")
        if self.student not in STUDENTS:
            raise VqnmtError(f"student is {self.student!r}; choose one of {', '.join(STUDENTS)}")
        check_seed(self.seed)
        if not self.run.strip():
            raise VqnmtError(f"run is {self.run!r}; give the run a folder, such as run=runs/first")
        if self.teacher_prefix and self.teacher == "own":
            raise VqnmtError(
                f"teacher_prefix is {self.teacher_prefix!r}, but teacher=own takes none: leave it "
                "empty, or name a transformers teacher"
            )
