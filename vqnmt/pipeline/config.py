"""All settings of the translation pipeline, and their defaults."""

from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Literal

from vqnmt.data.config import CorpusConfig
from vqnmt.data.vocabulary import VocabularyConfig
from vqnmt.decode.settings import ReadingSettings, Temperature, Width
from vqnmt.errors import VqnmtError
from vqnmt.formality import find_formality
from vqnmt.models import AutoregressiveConfig, CtcConfig, FertilityConfig, LatentConfig
from vqnmt.models.registry import ARCHITECTURES
from vqnmt.plugins import NamesPlugins
from vqnmt.settings import (
    NO_NUMBER,
    Name,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Settings,
    between,
    check,
    from_mapping,
)
from vqnmt.training.config import TrainingConfig

STUDENTS = {
    "latent": "student_model",
    "autoregressive": "autoregressive_student",
    "ctc": "ctc_student",
    "fertility": "fertility_student",
    "teacher": "teacher_model",
}
"""From each kind of student to the key of its settings; `teacher`: the teacher is its own. Those of
plug-ins have `plugin_student`."""


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
    """Whether a student with CTC output reads what its decoder says with the help of a trigram
    model of its training targets, where this has helped on valid; else the best path is read."""
    reading: ReadingSettings = field(
        default_factory=ReadingSettings, metadata={"omitted at default": True}
    )
    """How widely the reading with trigrams searches."""


@dataclass(kw_only=True, slots=True)
class RewardConfig(Settings):
    """How the predictor of a latent student is trained for reward, after the student."""

    group: InitVar[str] = "reward_training"
    steps: Annotated[int, between(0, 1_000_000)] = 400
    """Optimiser steps of 32 sources; 0 leaves the predictor as it is."""
    sources: Annotated[int, between(1, 10_000_000)] = 4000
    """Training sources, drawn once, for which candidates are searched."""
    candidates: Annotated[int, between(2, 100)] = 8
    """Code sequences of each source, the best of a beam search of this width."""
    learning_rate: PositiveFloat = 0.0005
    """Peak learning rate."""


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
    """Translations of validation sentences, and of labels, that the report shows side by side."""
    controls: bool = True
    """Whether a student with codes also writes the validation set from the codes of the true
    targets, from random ones and from one code, and their bits are measured: half a minute for
    a thousand sentences."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig(NamesPlugins, Settings):
    """One run of `vqnmt train`."""

    run: Name
    """Run folder; starting the same command again resumes there."""
    seed: Seed = 1
    """Fixes initial weights, dropout, data order and codes drawn."""
    plugins: list[str] = field(default_factory=list, metadata=NO_NUMBER)
    """Modules, installed or in the current folder, that register quantizers, students or
    outputs."""
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
    distillation_engine: Literal["pytorch", "ctranslate2"] = "pytorch"
    """What runs our teacher for distillation: `ctranslate2` translates in int8, on CPUs several
    times as fast."""
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
    student: str = "latent"
    """`latent`; `autoregressive`, `ctc` or `fertility` for the baselines; `teacher` trains none; or
    the name of a plug-in's."""
    student_model: LatentConfig = field(default_factory=LatentConfig)
    """The latent student."""
    autoregressive_student: AutoregressiveConfig = field(
        default_factory=lambda: AutoregressiveConfig(encoder_layers=5, decoder_layers=1)
    )
    """The autoregressive student: many encoder layers, one decoder layer."""
    ctc_student: CtcConfig = field(default_factory=CtcConfig)
    """The parallel student without codes."""
    fertility_student: FertilityConfig = field(default_factory=FertilityConfig)
    """The fertility NAT."""
    plugin_student: dict[str, Any] = field(default_factory=dict)
    """A plug-in's student, by its own keys."""
    # Larger batches than the teacher's: two cores process a third more positions a second.
    student_training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=1650, batch_tokens=1536, learning_rate=0.003, validate_every=550
        )
    )
    """How the student of any kind is trained."""
    reward_training: RewardConfig = field(default_factory=RewardConfig)
    """How the predictor of a latent student is trained for good translations afterwards."""
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
        if self.student not in {*STUDENTS, *ARCHITECTURES}:
            known = dict.fromkeys((*STUDENTS, *ARCHITECTURES))
            raise VqnmtError(f"student is {self.student!r}; choose one of {', '.join(known)}")
        if self.plugin_student and self.student in STUDENTS:
            raise VqnmtError(
                f"plugin_student is {self.plugin_student}, but student={self.student} has "
                f"{STUDENTS[self.student]}: leave it out, or name the student of a plug-in"
            )
        _ = self.student_settings  # checks those of a plug-in
        if self.vocabulary.formality:
            find_formality("", self.corpus.target_language)  # refuses languages that it lacks
        if self.teacher_prefix and self.teacher == "own":
            raise VqnmtError(
                f"teacher_prefix is {self.teacher_prefix!r}, but teacher=own takes none: leave it "
                "empty, or name a transformers teacher"
            )

    @property
    def student_key(self) -> str:
        """The key of the student's settings."""
        return STUDENTS.get(self.student, "plugin_student")

    @property
    def student_settings(self) -> Any:
        """The student's settings."""
        if self.student in STUDENTS:
            return getattr(self, self.student_key)
        kind = ARCHITECTURES[self.student].config
        return from_mapping(kind, self.plugin_student, "plugin_student")
