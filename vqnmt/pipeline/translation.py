"""The main job: corpus, vocabulary, teacher, distillation, student, evaluation, report."""

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn

from vqnmt.data.batches import ParallelBatches
from vqnmt.data.corpus import BothSides, Corpus, ParallelText, prepare_corpus
from vqnmt.data.lines import Lines
from vqnmt.data.recombination import recombine
from vqnmt.data.tokenized import open_tokens, tokenize_pairs
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.language_model import LANGUAGE_MODEL
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.model_card import model_card
from vqnmt.files import atomic_write_lines
from vqnmt.models import AutoregressiveTransformer, FertilityTransformer, LatentTransformer
from vqnmt.models.fertility import Aligner
from vqnmt.models.warm_start import copy_weights
from vqnmt.pipeline.checks import check_settings
from vqnmt.pipeline.config import STUDENTS, PipelineConfig
from vqnmt.pipeline.distillation import distill, select
from vqnmt.pipeline.facts import corpus_facts, split_name
from vqnmt.pipeline.observers import BleuObserver, LatentObserver
from vqnmt.pipeline.teachers import load_teacher
from vqnmt.progress import print_once
from vqnmt.settings import deciding, undecided
from vqnmt.training.config import TrainingConfig
from vqnmt.training.distribution import join_processes
from vqnmt.training.loop import Trainer
from vqnmt.training.stage import Stage
from vqnmt.translate.pretrained import ARCHITECTURES
from vqnmt.translate.pytorch import MODEL_FILES, TextTranslator, Translator


class TranslationPipeline:
    """The stages of one run; each is skipped when its output is there and complete.

    Args:
        config: All settings.

    Raises:
        VqnmtError: A stage cannot do what is asked for, see `check_settings`; nothing is made.

    The run folder::

        corpus/       plain text, split and filtered
        vocabulary/   spm.model
        teacher/      model folder, training/ with checkpoints and metrics
        distilled/    the teacher's translations of the training sources
        selected/     with distill=selected: those close to the references, or the references
        recombined-<n>/  with recombined=n: both sides of what the student trains on
        student/      as teacher/
        results.json  report.md  *.png
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.folder = Path(config.run)
        self.stages: dict[str, Stage] = {}
        # What decides the teacher's output, for the stages that use it.
        self.teacher_settings: dict[str, Any] = {"teacher": config.teacher}
        join_processes()
        check_settings(config)
        # Results of the stages before; each stage sets its own.
        self.corpus: Corpus
        self.vocabulary: Vocabulary
        self.teacher: TextTranslator
        self.student: Translator

    def run(self) -> None:
        """Run all training stages."""
        set_seed(self.config.seed)
        self.prepare_corpus()
        self.train_vocabulary()
        self.train_teacher()
        self.train_student(self.student_text())

    def prepare_corpus(self) -> None:
        """Stage 1: fetch, split and filter the text."""
        config = self.config.corpus
        stage = self.stage(
            "corpus",
            # The fingerprint covers the contents of the user's own files too.
            {"corpus": deciding(config), "digest of the text": config.fingerprint()},
            ignored=undecided(config, "corpus"),
            older={"digest of the text": config.older_fingerprint()},
        )
        with stage.work_unless_it_has("corpus.json"):
            self.corpus = prepare_corpus(config, stage.folder)
        report = self.corpus.report["parts"]
        for part, facts in report.items():
            dropped = ", ".join(f"{n:,} {why}" for why, n in facts["dropped"].items() if n)
            counts = f"{facts['pairs']:,} pairs; dropped: {dropped or 'none'}"
            print_once(f"corpus: {split_name(part)} has {counts}")

    def train_vocabulary(self) -> None:
        """Stage 2: the joint sentencepiece vocabulary."""
        config = self.config.vocabulary
        settings = {"vocabulary": dataclasses.asdict(config), "seed": self.config.seed}
        stage = self.stage("vocabulary", settings, after="corpus")
        path = stage.folder / "spm.model"
        with PartialState().main_process_first():
            if not stage.has("spm.model"):
                with stage.work(path.name):
                    Vocabulary.train(
                        BothSides(self.corpus.train),
                        config.size,
                        targets=self.corpus.train.targets,
                        keep_pattern=self.corpus.keep_pattern,
                        model_type=config.model_type,
                        seed=self.config.seed,
                    ).save(path)
            self.vocabulary = Vocabulary.load(path)
        print_once(f"vocabulary: {len(self.vocabulary):,} pieces")
        self._check_lengths(self.vocabulary)

    def train_teacher(self) -> None:
        """Stage 3: our own autoregressive Transformer, trained in this run or loaded."""
        config = self.config
        if config.teacher != "own":
            path = self.stages["vocabulary"].folder / "spm.model"
            self.teacher, self.teacher_settings = load_teacher(config, path)
            if isinstance(self.teacher, Translator):
                self._check_lengths(self.teacher.vocabulary)
                if config.student == "fertility":  # a vocabulary that does not fit is told now
                    self._aligner()
            return
        settings = {
            "teacher_model": dataclasses.asdict(config.teacher_model),
            "teacher_training": deciding(config.teacher_training),
            **self._common_settings(),
        }
        ignored = undecided(config.teacher_training, "teacher_training")
        stage = self.stage("teacher", settings, after="vocabulary", ignored=ignored)
        if not self._trained_already(stage):
            set_seed(config.seed)
            model = AutoregressiveTransformer(config.teacher_model, len(self.vocabulary))
            self._train(stage, model, BleuObserver, self.corpus.train, config.teacher_training)
        self.teacher = Translator.from_pretrained(stage.folder)

    def distill(self) -> ParallelText:
        """Stage 4: the training sources with the teacher's beam output."""
        config = self.config
        settings = {
            "beam": config.beam,
            "max_source_tokens": config.max_source_tokens,
            **self.teacher_settings,
        }
        after = "teacher" if config.teacher == "own" else "vocabulary"
        stage = self.stage("distilled", settings, after=after)
        sources = self.corpus.train.sources
        path = stage.folder / f"train.{self.corpus.target_language}"
        if not stage.has(path.name):
            with stage.work(path.name):
                self._translate(sources, path)
        return ParallelText(sources, _lines(path, len(sources)))

    def select(self, text: ParallelText) -> ParallelText:
        """Stage 4, further: the teacher's translations, where close to the references, or these."""
        references, least = self.corpus.train.targets, self.config.selection
        stage = self.stage("selected", {"selection": least}, after="distilled")
        path = stage.folder / f"train.{self.corpus.target_language}"
        if not stage.has(path.name):
            with stage.work(path.name):
                select(text.targets, references, path, least)
        return ParallelText(text.sources, _lines(path, len(text)))

    def recombine(self, text: ParallelText) -> ParallelText:
        """Stage 4, further: made-up sources, translated by the teacher too, behind those of `text`.

        Args:
            text: The training sources and the teacher's translations of them.
        """
        config, corpus, count = self.config, self.corpus, self.config.recombined
        settings = {"recombined": count, "seed": config.seed}
        stage = self.stage(self.before_student, settings, after=self._distilled)
        names = [f"train.{code}" for code in (corpus.source_language, corpus.target_language)]
        paths = [stage.folder / name for name in names]
        if not stage.has(*names):
            with stage.work(*names):
                seed, wanted = config.seed, count * len(text)
                made = recombine(text.sources, wanted, seed, corpus.held_out_sources)
                print_once(f"recombination: {len(made):,} sources made of {len(text):,}")
                translated = stage.folder / "made" / names[1]
                self._translate(made, translated)
                if PartialState().is_main_process:
                    atomic_write_lines(paths[0], chain(text.sources, made))
                    atomic_write_lines(paths[1], chain(text.targets, Lines(translated)))
                PartialState().wait_for_everyone()
        sources = Lines(paths[0])
        return ParallelText(sources, _lines(paths[1], len(sources)))

    def student_text(self) -> ParallelText:
        """Return what the student trains on: raw or distilled, with made-up sources or without."""
        if not self.config.distill:
            return self.corpus.train
        text = self.distill()
        if self.config.distill == "selected":
            text = self.select(text)
        return self.recombine(text) if self.config.recombined else text

    @property
    def before_student(self) -> str:
        """The stage that the student follows; a teacher from elsewhere has none."""
        if self.config.recombined:
            return f"recombined-{self.config.recombined}"
        return self._distilled if self.config.distill else "teacher"

    @property
    def _distilled(self) -> str:
        """The stage that leaves the distilled text."""
        return "selected" if self.config.distill == "selected" else "distilled"

    def train_student(self, text: ParallelText) -> None:
        """Stage 5: the student, on `text`."""
        config = self.config
        if config.student == "teacher":
            assert isinstance(self.teacher, Translator), "only our own teacher can be measured"
            self.student = self.teacher
            return
        stage = self.student_stage()
        if not self._trained_already(stage):
            model, copied = self._new_student()
            if copied:
                print_once(f"student: {copied:,} weights start as the teacher's")
            observer: Callable[..., BleuObserver] = BleuObserver
            if isinstance(model, LatentTransformer):
                imitated = self.teacher if config.distill is True else None
                observer = partial(LatentObserver, teacher=imitated, beam=config.beam)
            self._train(stage, model, observer, text, config.student_training)
        self.student = Translator.from_pretrained(stage.folder)

    def student_stage(self) -> Stage:
        """Open the student's stage."""
        config, key = self.config, STUDENTS[self.config.student]
        settings = {
            key: dataclasses.asdict(getattr(config, key)),
            "student_training": deciding(config.student_training),
            **self._common_settings(),
            "distill": config.distill,
            "warm_start": config.warm_start,
        }
        uses_teacher = config.warm_start or config.student == "fertility"
        if config.teacher != "own" and uses_teacher and isinstance(self.teacher, Translator):
            settings |= self.teacher_settings
        after = self.before_student if self.before_student in self.stages else "vocabulary"
        ignored = undecided(config.student_training, "student_training")
        return self.stage("student", settings, after=after, ignored=ignored)

    def with_student(self, config: PipelineConfig, folder: Path) -> "TranslationPipeline":
        """Return a pipeline that shares all stages before the student, with one of its own.

        Args:
            config: As this pipeline's, but for the student and how it is trained and used.
            folder: The folder of its stages.
        """
        one = copy.copy(self)
        one.config, one.folder, one.stages = config, folder, dict(self.stages)
        return one

    # --- helpers -----------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        settings: dict[str, Any],
        after: str | None = None,
        ignored: Collection[str] = (),
        older: Mapping[str, Any] | None = None,
    ) -> Stage:
        """Open a stage whose settings include a digest of all that stands before it.

        Args:
            name: Of its folder.
            settings: See `Stage`.
            after: The stage before it.
            ignored: See `Stage`.
            older: See `Stage`.
        """
        if after is not None:
            settings = settings | {f"digest of {after}": self.stages[after].digest}
        # Of a teacher with a digest the place decides nothing; older versions wrote it down.
        if "digest of the teacher" in settings:
            ignored = [*ignored, "teacher"]
        self.stages[name] = Stage(self.folder / name, settings, ignored, older)
        return self.stages[name]

    def _common_settings(self) -> dict[str, Any]:
        keys = ("seed", "max_train_tokens", "max_source_tokens")
        return {key: getattr(self.config, key) for key in keys}

    def _translate(self, sources: Sequence[str], path: Path) -> None:
        """Write the teacher's translations of `sources` to `path`, empty lines for long ones."""
        config, vocabulary = self.config, self.vocabulary
        if isinstance(self.teacher, Translator):
            vocabulary = self.teacher.vocabulary

        def fits(source: str) -> bool:
            return len(vocabulary.encode([source])[0]) <= config.max_source_tokens

        if long := distill(self.teacher, sources, path, beam=config.beam, fits=fits):
            print_once(f"distillation: {long:,} sources over max_source_tokens stay empty")

    def _check_lengths(self, vocabulary: Vocabulary) -> None:
        """Refuse, before hours of training, validation and test sources that are too long.

        Args:
            vocabulary: Counts their tokens: this run's, or a loaded teacher's.

        Raises:
            VqnmtError: Names the set, the number of such sources and the length needed.
        """
        limit = self.config.max_source_tokens
        for name, text in {"valid": self.corpus.valid, **self.corpus.test}.items():
            lengths = [len(row) for row in vocabulary.encode(text.sources)]
            if long := [length for length in lengths if length > limit]:
                raise VqnmtError(
                    f"max_source_tokens is {limit}, but {len(long)} sources of {name} are longer, "
                    f"up to {max(long)} tokens: set max_source_tokens={max(long)} or more"
                )

    def _trained_already(self, stage: Stage) -> bool:
        if found := stage.has(*MODEL_FILES):
            print_once(f"{stage.folder.name}: trained already")
        return found

    def _new_student(self) -> tuple[nn.Module, int]:
        """Return the untrained student, and how many of its weights are the teacher's."""
        config = self.config
        set_seed(config.seed)
        architecture = ARCHITECTURES[config.student][1]
        model = architecture(getattr(config, STUDENTS[config.student]), len(self.vocabulary))
        if isinstance(model, FertilityTransformer):
            model.align = self._aligner()
        if not (config.warm_start and isinstance(self.teacher, Translator)):
            return model, 0
        return model, copy_weights(model, self.teacher.model)

    def _aligner(self) -> Aligner:
        """Return what aligns pairs of this run's tokens: our own teacher.

        Raises:
            VqnmtError: The teacher has other tokens.
        """
        assert isinstance(self.teacher, Translator)  # load_teacher takes no other
        name, vocabulary = self.config.teacher, self.stages["vocabulary"].folder / "spm.model"
        if name != "own" and (Path(name) / "spm.model").read_bytes() != vocabulary.read_bytes():
            raise VqnmtError(
                f"student=fertility, but teacher={name} has another vocabulary than this run, so "
                "that its alignments do not fit: set teacher=own"
            )
        return cast(AutoregressiveTransformer, self.teacher.model).align

    def _train(
        self,
        stage: Stage,
        model: nn.Module,
        observer: Callable[..., BleuObserver],
        text: ParallelText,
        training: TrainingConfig,
    ) -> None:
        """Train `model` on `text`; leave the model folder."""
        name, seed, corpus = stage.folder.name, self.config.seed, self.corpus
        limit = self.config.max_source_tokens
        languages = (corpus.source_language, corpus.target_language)
        translator = Translator(model, self.vocabulary, *languages, max_source_tokens=limit)
        watch = observer(translator, corpus.valid, corpus.target_language)
        with stage.work(*MODEL_FILES, LANGUAGE_MODEL):
            batches = self.batches(stage.folder / "tokens", text, training.batch_tokens, name)
            watch.prepare(model, batches)
            folder = stage.folder / "training"
            trainer = Trainer(model, batches, watch, training, folder, seed, name)
            model.load_state_dict(trainer.train())
            model.eval()
            if PartialState().is_main_process:
                if isinstance(watch, LatentObserver):
                    watch.add_language_model(model, batches.targets)
                title, about = f"vqnmt {name}: {corpus.name}", f"The {name} of a vqnmt run."
                card = model_card(title=title, description=about, corpus=corpus_facts(corpus))
                translator.save_pretrained(stage.folder, card)
            PartialState().wait_for_everyone()

    def batches(
        self, folder: Path, text: ParallelText, batch_tokens: int, name: str
    ) -> ParallelBatches:
        """Tokenise the pairs of `text`, but for those that the filters drop.

        Args:
            folder: Gets the tokens; those of the same pairs that are there already are used.
            text: Training sources and their translations.
            batch_tokens: See `plan_batches`.
            name: Of the model that trains on them, for what is printed.

        Raises:
            VqnmtError: No pair is left.
        """
        fit = self.config.corpus.pair_filter()
        tokenize_pairs(text.sources, text.targets, self.vocabulary, folder, fit, name)
        tokens = open_tokens(folder)
        pairs = len(tokens[0])
        if not pairs:
            raise VqnmtError(
                f"{name}: none of {len(text):,} pairs passes the filters corpus.max_words and "
                "corpus.max_ratio, such as when a teacher only repeats itself: train it longer"
            )
        limit = self.config.max_train_tokens
        batches = ParallelBatches(*tokens, batch_tokens, self.config.seed, limit)
        print_once(
            f"{name}: trains on {len(batches):,} pairs; dropped: {len(text) - pairs:,} by "
            f"the filters, {pairs - len(batches):,} over {limit} tokens"
        )
        return batches


def _lines(path: Path, count: int) -> Lines:
    """Open a text that a stage has left.

    Raises:
        VqnmtError: It has not `count` lines.
    """
    lines = Lines(path)
    if len(lines) != count:
        raise VqnmtError(
            f"{path}: has {len(lines):,} lines instead of {count:,}: remove this file and start "
            "the same command again, which makes it anew"
        )
    return lines
