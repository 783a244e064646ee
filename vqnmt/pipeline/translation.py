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
from vqnmt.foreign import ForeignTranslator
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.observers import BleuObserver, LatentObserver
from vqnmt.pipeline.stage import Stage
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
            say(f"corpus: {part} has {facts['pairs']:,} pairs; dropped: {dropped or 'none'}")

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
        self._check_lengths()

    def train_teacher(self) -> None:
        """Stage 3: our own autoregressive Transformer, or a checkpoint from elsewhere."""
        config = self.config
        if config.teacher != "own":
            self.teacher = ForeignTranslator(config.teacher)
            return
        settings = {
            "teacher_model": dataclasses.asdict(config.teacher_model),
            "teacher_training": dataclasses.asdict(config.teacher_training),
            **self._common_settings(),
        }
        stage = self.stage("teacher", settings, after="vocabulary")
        set_seed(config.seed)
        model = AutoregressiveTransformer(config.teacher_model.model(len(self.vocabulary)))
        translator = self._translator(model)
        if not stage.has(*MODEL_FILES):
            observer = BleuObserver(translator, self.corpus.valid, self.corpus.target_language)
            with stage.work():
                self._train(
                    stage,
                    model,
                    translator,
                    self.corpus.train.targets,
                    observer,
                    config.teacher_training,
                )
        self.teacher = Translator.from_pretrained(stage.folder)

    def distill(self) -> list[str]:
        """Stage 4: the teacher's beam output for the training sources."""
        config = self.config
        settings = {
            "beam": config.beam,
            "teacher": config.teacher,
            "max_source_tokens": config.max_source_tokens,
        }
        after = "teacher" if config.teacher == "own" else "vocabulary"
        stage = self.stage("distilled", settings, after=after)
        sources, targets = self.corpus.train.sources, self.corpus.train.targets
        path = stage.folder / f"train.{self.corpus.target_language}"
        if not stage.has(path.name):
            with stage.work():
                # A source may stand in several pairs; its translation is one.
                distinct = list(dict.fromkeys(sources))
                fitting = [
                    source
                    for source, row in zip(distinct, self.vocabulary.encode(distinct), strict=True)
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
        before = "distilled" if config.distill else "teacher"
        after = before if before in self.stages else "vocabulary"
        stage = self.stage("student", settings, after=after)
        set_seed(config.seed)
        model = LatentTransformer(config.student_model.model(len(self.vocabulary)))
        if config.warm_start and isinstance(self.teacher, Translator):
            copied = model.start_from(self.teacher.model)
            say(f"student: {copied:,} weights start as the teacher's")
        translator = self._translator(model)
        if not stage.has(*MODEL_FILES):
            observer = LatentObserver(translator, self.corpus.valid, self.corpus.target_language)
            with stage.work():
                self._train(stage, model, translator, targets, observer, config.student_training)
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

    def _check_lengths(self) -> None:
        """Refuse, before hours of training, validation and test sources that are too long.

        Raises:
            VqnmtError: Names the set, the number of such sources and the length needed.
        """
        limit = self.config.max_source_tokens
        for name, text in {"valid": self.corpus.valid, **self.corpus.test}.items():
            lengths = [len(row) for row in self.vocabulary.encode(text.sources)]
            if long := [length for length in lengths if length > limit]:
                raise VqnmtError(
                    f"max_source_tokens is {limit}, but {len(long)} sources of {name} are longer, "
                    f"up to {max(long)} tokens: set max_source_tokens={max(long)} or more"
                )

    def _translator(self, model: nn.Module) -> Translator:
        corpus, limit = self.corpus, self.config.max_source_tokens
        return Translator(
            model,
            self.vocabulary,
            corpus.source_language,
            corpus.target_language,
            max_source_tokens=limit,
        )

    def _train(
        self,
        stage: Stage,
        model: nn.Module,
        translator: Translator,
        targets: list[str],
        observer: BleuObserver,
        training: TrainingConfig,
    ) -> None:
        """Train `model` on the training sources and `targets`; leave the model folder."""
        name, seed = stage.folder.name, self.config.seed
        batches = self._batches(stage.folder / "tokens", targets, training.batch_tokens, name)
        trainer = Trainer(model, batches, observer, training, stage.folder / "training", seed, name)
        model.load_state_dict(trainer.train())
        model.eval()
        if PartialState().is_main_process:
            corpus = self.corpus
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


def say(line: str) -> None:
    """Print a line once, whatever the number of processes."""
    if PartialState().is_main_process:
        print(line, flush=True)


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
        counts={part: facts["pairs"] for part, facts in parts.items()},
        dropped=dropped,
    )
