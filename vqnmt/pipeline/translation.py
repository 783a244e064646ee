"""The main job: corpus, vocabulary, teacher, distillation, student, evaluation, report."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn

from vqnmt.data.batches import ParallelBatches, TokenizedText
from vqnmt.data.corpus import Corpus, prepare_corpus
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.distillation import distill
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.report import CorpusFacts
from vqnmt.files import atomic_write_text
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.observers import BleuObserver, LatentObserver
from vqnmt.pipeline.stage import Stage
from vqnmt.pipeline.teachers import load_teacher
from vqnmt.progress import say
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer
from vqnmt.translator import MODEL_FILES, TextTranslator, Translator


class TranslationPipeline:
    """The stages of one run; each is skipped when its output is there and complete.

    Args:
        config: All settings.

    The run folder::

        corpus/       plain text, split and filtered
        vocabulary/   spm.model
        teacher/      model folder, training/ with checkpoints and metrics
        distilled/    the teacher's translations of the training sources
        student/      as teacher/
        results.json  report.md  *.png
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.folder = Path(config.run)
        self.stages: dict[str, Stage] = {}
        # What decides the teacher's output, for the stages that use it.
        self.teacher_settings: dict[str, Any] = {"teacher": config.teacher}
        # accelerate takes processes on CPUs together only if the first to ask says so.
        PartialState(cpu=not torch.cuda.is_available())
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
        self.train_student(self.distill() if self.config.distill else self.corpus.train.targets)

    def prepare_corpus(self) -> None:
        """Stage 1: fetch, split and filter the text."""
        state = PartialState()
        config = self.config.corpus
        asked = dataclasses.asdict(config)
        del asked["cache"]  # where downloads stand decides nothing
        # The fingerprint covers the contents of the user's own files too.
        stage = self.stage("corpus", {"corpus": asked, "digest of the text": config.fingerprint()})
        with state.main_process_first(), stage.work_unless_it_has("corpus.json"):
            self.corpus = prepare_corpus(config, stage.folder)
        report = self.corpus.report["parts"]
        for part, facts in report.items():
            dropped = ", ".join(f"{n:,} {why}" for why, n in facts["dropped"].items() if n)
            counts = f"{facts['pairs']:,} pairs; dropped: {dropped or 'none'}"
            say(f"corpus: {_split_name(part)} has {counts}")

    def train_vocabulary(self) -> None:
        """Stage 2: the joint sentencepiece vocabulary."""
        config, train = self.config.vocabulary, self.corpus.train
        settings = {"vocabulary": dataclasses.asdict(config), "seed": self.config.seed}
        stage = self.stage("vocabulary", settings, after="corpus")
        path = stage.folder / "spm.model"
        with PartialState().main_process_first():
            if not stage.has("spm.model"):
                with stage.work():
                    Vocabulary.train(
                        [*train.sources, *train.targets],
                        config.size,
                        keep_pattern=self.corpus.keep_pattern,
                        model_type=config.model_type,
                        seed=self.config.seed,
                    ).save(path)
            self.vocabulary = Vocabulary.load(path)
        say(f"vocabulary: {len(self.vocabulary):,} pieces")
        self._check_lengths(self.vocabulary)

    def train_teacher(self) -> None:
        """Stage 3: our own autoregressive Transformer, trained in this run or loaded."""
        config = self.config
        if config.teacher != "own":
            path = self.stages["vocabulary"].folder / "spm.model"
            self.teacher, self.teacher_settings = load_teacher(config, self.corpus, path)
            if isinstance(self.teacher, Translator):
                self._check_lengths(self.teacher.vocabulary)
                self._new_student()  # a warm start that does not fit is told now, not in hours
            return
        settings = {
            "teacher_model": dataclasses.asdict(config.teacher_model),
            "teacher_training": dataclasses.asdict(config.teacher_training),
            **self._common_settings(),
        }
        stage = self.stage("teacher", settings, after="vocabulary")
        if not self._trained_already(stage):
            set_seed(config.seed)
            model = AutoregressiveTransformer(config.teacher_model, len(self.vocabulary))
            targets = self.corpus.train.targets
            self._train(stage, model, BleuObserver, targets, config.teacher_training)
        self.teacher = Translator.from_pretrained(stage.folder)

    def distill(self) -> list[str]:
        """Stage 4: the teacher's beam output for the training sources."""
        config = self.config
        settings = {
            "beam": config.beam,
            "max_source_tokens": config.max_source_tokens,
            **self.teacher_settings,
        }
        after = "teacher" if config.teacher == "own" else "vocabulary"
        stage = self.stage("distilled", settings, after=after)
        sources, targets = self.corpus.train.sources, self.corpus.train.targets
        path = stage.folder / f"train.{self.corpus.target_language}"
        if not stage.has(path.name):
            with stage.work():
                # A source may stand in several pairs; its translation is one.
                distinct = list(dict.fromkeys(sources))
                vocabulary = self.vocabulary
                if isinstance(self.teacher, Translator):
                    vocabulary = self.teacher.vocabulary
                fitting = [
                    source
                    for source, row in zip(distinct, vocabulary.encode(distinct), strict=True)
                    if len(row) <= config.max_source_tokens
                ]
                if long := len(distinct) - len(fitting):
                    say(f"distillation: {long:,} sources over max_source_tokens stay empty")
                found = distill(self.teacher, fitting, stage.folder / "parts", beam=config.beam)
                texts = dict(zip(fitting, found, strict=True))
                atomic_write_text(path, "".join(texts.get(source, "") + "\n" for source in sources))
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if len(lines) != len(targets):
            raise VqnmtError(
                f"{path}: has {len(lines)} lines for {len(targets)} sources: remove the folder to "
                "distill again"
            )
        return lines

    def train_student(self, targets: list[str]) -> None:
        """Stage 5: the latent Transformer, on distilled or raw `targets`."""
        config = self.config
        settings = {
            "student_model": dataclasses.asdict(config.student_model),
            "student_training": dataclasses.asdict(config.student_training),
            **self._common_settings(),
            "distill": config.distill,
            "warm_start": config.warm_start,
        }
        if config.teacher != "own" and config.warm_start and isinstance(self.teacher, Translator):
            settings |= self.teacher_settings
        before = "distilled" if config.distill else "teacher"
        after = before if before in self.stages else "vocabulary"
        stage = self.stage("student", settings, after=after)
        if not self._trained_already(stage):
            model, copied = self._new_student()
            if copied:
                say(f"student: {copied:,} weights start as the teacher's")
            self._train(stage, model, LatentObserver, targets, config.student_training)
        self.student = Translator.from_pretrained(stage.folder)

    # --- helpers -----------------------------------------------------------------------------

    def stage(self, name: str, settings: dict[str, Any], after: str | None = None) -> Stage:
        """Open a stage whose settings include a digest of all that stands before it."""
        if after is not None:
            before = json.dumps(self.stages[after].settings, sort_keys=True)
            digest = hashlib.sha256(before.encode()).hexdigest()[:12]
            settings = settings | {f"digest of {after}": digest}
        self.stages[name] = Stage(self.folder / name, settings)
        return self.stages[name]

    def _common_settings(self) -> dict[str, Any]:
        keys = ("seed", "max_train_tokens", "max_source_tokens")
        return {key: getattr(self.config, key) for key in keys}

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
            say(f"{stage.folder.name}: trained already")
        return found

    def _new_student(self) -> tuple[LatentTransformer, int]:
        """Return the untrained student, and how many of its weights are the teacher's."""
        set_seed(self.config.seed)
        model = LatentTransformer(self.config.student_model, len(self.vocabulary))
        if not (self.config.warm_start and isinstance(self.teacher, Translator)):
            return model, 0
        return model, model.start_from(self.teacher.model)

    def _train(
        self,
        stage: Stage,
        model: nn.Module,
        observer: type[BleuObserver],
        targets: list[str],
        training: TrainingConfig,
    ) -> None:
        """Train `model` on the training sources and `targets`; leave the model folder."""
        name, seed, corpus = stage.folder.name, self.config.seed, self.corpus
        translator = Translator(
            model,
            self.vocabulary,
            corpus.source_language,
            corpus.target_language,
            max_source_tokens=self.config.max_source_tokens,
        )
        watch = observer(translator, corpus.valid, corpus.target_language)
        with stage.work():
            batches = self._batches(stage.folder / "tokens", targets, training.batch_tokens, name)
            folder = stage.folder / "training"
            trainer = Trainer(model, batches, watch, training, folder, seed, name)
            model.load_state_dict(trainer.train())
            model.eval()
            if PartialState().is_main_process:
                card = model_card(
                    title=f"vqnmt {name}: {corpus.name}",
                    description=f"The {name} of a vqnmt run.",
                    corpus=corpus_facts(corpus),
                )
                translator.save_pretrained(stage.folder, card)
            PartialState().wait_for_everyone()

    def _batches(
        self, folder: Path, targets: list[str], batch_tokens: int, name: str
    ) -> ParallelBatches:
        """Tokenise the pairs that pass the filters."""
        fit = self.config.corpus.pair_filter()
        sources = self.corpus.train.sources
        pairs = [(s, t) for s, t in zip(sources, targets, strict=True) if not fit.reason(s, t)]
        if not pairs:
            raise VqnmtError(
                f"{name}: none of {len(sources):,} pairs passes the filters corpus.max_words and "
                "corpus.max_ratio, such as when a teacher only repeats itself: train it longer"
            )
        limit = self.config.max_train_tokens
        state = PartialState()
        if state.is_main_process:
            for part, side in enumerate(("source", "target")):
                TokenizedText.encode((pair[part] for pair in pairs), self.vocabulary, folder / side)
        state.wait_for_everyone()
        texts = [TokenizedText.open(folder / side) for side in ("source", "target")]
        batches = ParallelBatches(texts[0], texts[1], batch_tokens, self.config.seed, limit)
        say(
            f"{name}: trains on {len(batches):,} pairs; dropped: {len(sources) - len(pairs):,} by "
            f"the filters, {len(pairs) - len(batches):,} over {limit} tokens"
        )
        return batches


def _split_name(part: str) -> str:
    """Name a part of the corpus as the tables do: a test set by its own name."""
    return part.removeprefix("test.")


def corpus_facts(corpus: Corpus) -> CorpusFacts:
    """Gather what reports and model cards say of a corpus."""
    parts = corpus.report["parts"]
    dropped: dict[str, int] = {}
    for facts in parts.values():
        for reason, count in facts["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    return CorpusFacts(
        name=corpus.name,
        source_language=corpus.source_language,
        target_language=corpus.target_language,
        licence=corpus.report["licence"],
        attribution=corpus.report["attribution"],
        counts={_split_name(part): facts["pairs"] for part, facts in parts.items()},
        dropped=dropped,
    )
