"""The main job: corpus, vocabulary, teacher, distillation, student.

Each stage is a function that takes what it needs and returns what it makes. It is skipped when its
output is there and complete. The run folder::

    corpus/       plain text, split and filtered
    vocabulary/   spm.model
    teacher/      model folder, training/ with checkpoints and metrics
    distilled/    the teacher's translations of the training sources
    selected/     with distill=selected: those close to the references, or the references
    recombined-<n>/  with recombined=n: both sides of what the student trains on
    student/      as teacher/
    results.json  report.md  *.png, which `vqnmt.pipeline.evaluation` leaves
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn

from vqnmt.data.batches import ParallelBatches
from vqnmt.data.corpus import BothSides, Corpus, ParallelText, prepare_corpus
from vqnmt.data.lines import Lines
from vqnmt.data.recombination import recombine
from vqnmt.data.tokenized import TokenizedText, open_counts, open_tokens, tokenize_pairs
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.language_model import LANGUAGE_MODEL, TrigramModel
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.model_card import model_card
from vqnmt.exporting.folder import export
from vqnmt.files import atomic_write_lines
from vqnmt.models import (
    AutoregressiveTransformer,
    FertilityTransformer,
    LatentTransformer,
    ParallelTransformer,
)
from vqnmt.models.fertility import Aligner
from vqnmt.models.outputs import Ctc
from vqnmt.models.registry import build_model
from vqnmt.models.shared import copy_weights
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.distillation import distill, select
from vqnmt.pipeline.observers import (
    BleuObserver,
    LatentObserver,
    ParallelObserver,
    choose_language_model,
)
from vqnmt.pipeline.reward import train_for_reward
from vqnmt.pipeline.run import TranslationRun, corpus_facts, method_tags, split_name
from vqnmt.pipeline.teachers import Teacher, load_teacher
from vqnmt.progress import Progress, print_once
from vqnmt.settings import deciding
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer
from vqnmt.training.stage import Stage
from vqnmt.translate.exported import CTranslate2Translator
from vqnmt.translate.pytorch import MODEL_FILES, Translator


@dataclasses.dataclass(frozen=True, slots=True)
class StudentText:
    """What the student trains on."""

    pairs: ParallelText
    """Sources and their translations."""
    stage: str
    """The stage that has made it, or that the student follows otherwise."""


# --- corpus and vocabulary -------------------------------------------------------------------


def make_corpus(run: TranslationRun) -> Corpus:
    """Stage 1: fetch, split and filter the text.

    Raises:
        VqnmtError: See `prepare_corpus`; or the folder has another corpus.
    """
    config = run.config.corpus
    stage = run.stage(
        "corpus",
        # The fingerprint covers the contents of the user's own files too.
        {"corpus": deciding(config), "digest of the text": config.fingerprint()},
    )
    with stage.work_unless_it_has("corpus.json"):
        corpus = prepare_corpus(config, stage.folder)
    for part, facts in corpus.report["parts"].items():
        dropped = ", ".join(f"{n:,} {why}" for why, n in facts["dropped"].items() if n)
        counts = f"{facts['pairs']:,} pairs; dropped: {dropped or 'none'}"
        print_once(f"corpus: {split_name(part)} has {counts}")
    return corpus


def make_vocabulary(run: TranslationRun, corpus: Corpus) -> Vocabulary:
    """Stage 2: the joint sentencepiece vocabulary.

    Raises:
        VqnmtError: It cannot be learnt, or a source of valid or test is too long for the run.
    """
    config, seed = run.config.vocabulary, run.config.seed
    settings = {"vocabulary": dataclasses.asdict(config), "seed": seed}
    stage = run.stage("vocabulary", settings, after="corpus")
    path = _vocabulary_path(run)
    with PartialState().main_process_first():
        if not stage.has(path.name):
            with stage.work(path.name):
                Vocabulary.train(
                    BothSides(corpus.train),
                    config.size,
                    targets=corpus.train.targets,
                    slots=config.slots,
                    span_patterns=config.span_patterns,
                    formality=config.formality,
                    model_type=config.model_type,
                    seed=seed,
                ).save(path)
        vocabulary = Vocabulary.load(path)
    print_once(f"vocabulary: {len(vocabulary):,} pieces")
    _check_lengths(run.config, corpus, vocabulary)
    return vocabulary


def _vocabulary_path(run: TranslationRun) -> Path:
    return run.stages["vocabulary"].folder / "spm.model"


def _check_lengths(config: PipelineConfig, corpus: Corpus, vocabulary: Vocabulary) -> None:
    """Refuse, before hours of training, validation and test sources that are too long.

    Args:
        config: Settings of the run.
        corpus: Has the sources.
        vocabulary: Counts their tokens: this run's, or a loaded teacher's.

    Raises:
        VqnmtError: Names the set, the number of such sources and the length needed.
    """
    limit = config.max_source_tokens
    for name, text in {"valid": corpus.valid, **corpus.test}.items():
        lengths = [len(row) for row in vocabulary.encode(text.sources)]
        if long := [length for length in lengths if length > limit]:
            raise VqnmtError(
                f"max_source_tokens is {limit}, but {len(long)} sources of {name} are longer, "
                f"up to {max(long)} tokens: set max_source_tokens={max(long)} or more"
            )


# --- teacher and its text --------------------------------------------------------------------


def make_teacher(run: TranslationRun, corpus: Corpus, vocabulary: Vocabulary) -> Teacher:
    """Stage 3: our own autoregressive Transformer, trained in this run, or a teacher that is there.

    Raises:
        VqnmtError: The training fails, or the teacher that is there does not fit.
    """
    config = run.config
    if config.teacher != "own":
        teacher = load_teacher(config, _vocabulary_path(run))
        if isinstance(teacher.translator, Translator):
            _check_lengths(config, corpus, teacher.translator.vocabulary)
            if config.student == "fertility":  # a vocabulary that does not fit is told now
                _aligner(run, teacher)
        return teacher
    training = config.teacher_training
    settings = {
        "teacher_model": dataclasses.asdict(config.teacher_model),
        "teacher_training": deciding(training),
        **_common_settings(config),
    }
    stage = run.stage("teacher", settings, after="vocabulary")
    if not stage.trained_already(*MODEL_FILES):
        set_seed(config.seed)
        model = AutoregressiveTransformer(config.teacher_model, len(vocabulary))
        translator = _translator(config, model, corpus, vocabulary)
        observer = BleuObserver(translator, corpus.valid)
        with stage.work(*MODEL_FILES):
            _train(config, stage, translator, observer, corpus.train, training)
            _save(stage, translator, corpus)
    return Teacher(Translator.from_pretrained(stage.folder), {"teacher": "own"})


def make_text(
    run: TranslationRun, corpus: Corpus, vocabulary: Vocabulary, teacher: Teacher
) -> StudentText:
    """Stage 4: what the student trains on, raw or distilled, with made-up sources or without.

    Raises:
        VqnmtError: See `distill_text`.
    """
    config = run.config
    if not config.distill:
        stage = "teacher" if "teacher" in run.stages else "vocabulary"
        return StudentText(corpus.train, stage)
    text = distill_text(run, corpus, vocabulary, teacher)
    if config.distill == "selected":
        text = _select(run, corpus, text)
    return _recombine(run, corpus, vocabulary, teacher, text) if config.recombined else text


def distill_text(
    run: TranslationRun, corpus: Corpus, vocabulary: Vocabulary, teacher: Teacher
) -> StudentText:
    """Translate the training sources with the teacher's beam.

    Raises:
        VqnmtError: A file cannot be written, or has changed since.
    """
    config, sources = run.config, corpus.train.sources
    stage = run.stage(
        "distilled",
        {
            "beam": config.beam,
            "max_source_tokens": config.max_source_tokens,
            **_engine_settings(config),
            **teacher.settings,
        },
        after="teacher" if config.teacher == "own" else "vocabulary",
    )
    path = stage.folder / f"train.{corpus.target_language}"
    if not stage.has(path.name):
        with stage.work(path.name):
            _translate(run, teacher, vocabulary, sources, path)
    pairs = ParallelText(sources, Lines(path), corpus.train.counts)
    return StudentText(pairs, "distilled")


def _select(run: TranslationRun, corpus: Corpus, text: StudentText) -> StudentText:
    """Take the teacher's translations where they are close to the references, or these."""
    least, pairs = run.config.selection, text.pairs
    stage = run.stage("selected", {"selection": least}, after=text.stage)
    path = stage.folder / f"train.{corpus.target_language}"
    if not stage.has(path.name):
        with stage.work(path.name):
            select(pairs.targets, corpus.train.targets, path, least)
    chosen = ParallelText(pairs.sources, Lines(path), pairs.counts)
    return StudentText(chosen, "selected")


def _recombine(
    run: TranslationRun,
    corpus: Corpus,
    vocabulary: Vocabulary,
    teacher: Teacher,
    text: StudentText,
) -> StudentText:
    """Add made-up sources, translated by the teacher too, behind those of `text`."""
    config, pairs = run.config, text.pairs
    settings = {
        "recombined": config.recombined,
        "seed": config.seed,
        **_engine_settings(config),
    }
    stage = run.stage(f"recombined-{config.recombined}", settings, after=text.stage)
    names = [f"train.{code}" for code in (corpus.source_language, corpus.target_language)]
    paths = [stage.folder / name for name in names]
    if not stage.has(*names):
        with stage.work(*names):
            wanted = config.recombined * len(pairs)
            made = recombine(pairs.sources, wanted, config.seed, corpus.held_out_sources)
            print_once(f"recombination: {len(made):,} sources made of {len(pairs):,}")
            translated = stage.folder / "made" / names[1]
            _translate(run, teacher, vocabulary, made, translated)
            if PartialState().is_main_process:
                atomic_write_lines(paths[0], chain(pairs.sources, made))
                atomic_write_lines(paths[1], chain(pairs.targets, Lines(translated)))
            PartialState().wait_for_everyone()
    sources = Lines(paths[0])
    counts = pairs.counts
    if counts is not None:  # a made-up source counts once
        counts = np.pad(counts, (0, len(sources) - len(pairs)), constant_values=1)
    made_too = ParallelText(sources, Lines(paths[1]), counts)
    return StudentText(made_too, stage.folder.name)


def _engine_settings(config: PipelineConfig) -> dict[str, str]:
    """Name the engine, unless it is the default, which run folders do not name."""
    engine = config.distillation_engine
    return {} if engine == "pytorch" else {"distillation_engine": engine}


def _translate(
    run: TranslationRun,
    teacher: Teacher,
    vocabulary: Vocabulary,
    sources: Sequence[str],
    path: Path,
) -> None:
    """Write the teacher's translations of `sources` to `path`, empty lines for long ones."""
    config, translator = run.config, teacher.translator
    if isinstance(translator, Translator):
        vocabulary = translator.vocabulary

    def fits(source: str) -> bool:
        return len(vocabulary.encode([source])[0]) <= config.max_source_tokens

    with tempfile.TemporaryDirectory() as folder:
        if config.distillation_engine == "ctranslate2":
            own = run.stages["teacher"].folder if config.teacher == "own" else config.teacher
            export(own, folder, "int8")
            translator = CTranslate2Translator.from_pretrained(folder)
            translator.max_source_tokens = config.max_source_tokens
        if long := distill(translator, sources, path, beam=config.beam, fits=fits):
            print_once(f"distillation: {long:,} sources over max_source_tokens stay empty")


# --- student ---------------------------------------------------------------------------------


def make_student(
    run: TranslationRun,
    corpus: Corpus,
    vocabulary: Vocabulary,
    teacher: Teacher,
    text: StudentText,
) -> Translator:
    """Stage 5: the student, on `text`; with student=teacher our own teacher.

    Raises:
        VqnmtError: The training fails.
    """
    config, training = run.config, run.config.student_training
    if config.student == "teacher":
        assert isinstance(teacher.translator, Translator), "only our own teacher can be measured"
        return teacher.translator
    stage = student_stage(run, teacher, text)
    if stage.trained_already(*MODEL_FILES):
        return Translator.from_pretrained(stage.folder)
    model, copied = _new_student(run, vocabulary, teacher)
    if copied:
        print_once(f"student: {copied:,} weights start as the teacher's")
    translator = _translator(config, model, corpus, vocabulary)
    observer = BleuObserver(translator, corpus.valid)
    if isinstance(model, ParallelTransformer):
        kind = LatentObserver if isinstance(model, LatentTransformer) else ParallelObserver
        observer = kind(translator, corpus.valid, _imitated(config, corpus, teacher))
    with stage.work(*MODEL_FILES, LANGUAGE_MODEL):
        targets = _train(config, stage, translator, observer, text.pairs, training)
        if isinstance(observer, LatentObserver) and config.reward_training.steps:
            place = stage.folder / "reward"
            train_for_reward(
                config.reward_training, translator, observer, text.pairs, place, config.seed
            )
        if isinstance(observer, ParallelObserver) and PartialState().is_main_process:
            translator.language_model = _language_model(config, corpus, observer, targets)
        _save(stage, translator, corpus)
    return Translator.from_pretrained(stage.folder)


def student_stage(run: TranslationRun, teacher: Teacher, text: StudentText) -> Stage:
    """Open the student's stage.

    Raises:
        VqnmtError: Its folder has a student of other settings.
    """
    config, key = run.config, run.config.student_key
    settings = {
        key: deciding(config.student_settings),
        "student_training": deciding(config.student_training),
        **_common_settings(config),
        "distill": config.distill,
        "warm_start": config.warm_start,
    }
    if config.student == "latent":
        settings["reward_training"] = dataclasses.asdict(config.reward_training)
    uses_teacher = config.warm_start or config.student == "fertility"
    if config.teacher != "own" and uses_teacher and isinstance(teacher.translator, Translator):
        settings |= teacher.settings
    return run.stage("student", settings, after=text.stage)


def _new_student(
    run: TranslationRun, vocabulary: Vocabulary, teacher: Teacher
) -> tuple[nn.Module, int]:
    """Return the untrained student, and how many of its weights are the teacher's."""
    config = run.config
    set_seed(config.seed)
    model = build_model(config.student, config.student_settings, len(vocabulary))
    if isinstance(model, FertilityTransformer):
        model.align = _aligner(run, teacher)
    if not (config.warm_start and isinstance(teacher.translator, Translator)):
        return model, 0
    return model, copy_weights(model, teacher.translator.model)


def _aligner(run: TranslationRun, teacher: Teacher) -> Aligner:
    """Return what aligns pairs of this run's tokens: our own teacher.

    Raises:
        VqnmtError: The teacher has other tokens.
    """
    assert isinstance(teacher.translator, Translator)  # load_teacher takes no other
    name, vocabulary = run.config.teacher, _vocabulary_path(run)
    if name != "own" and (Path(name) / "spm.model").read_bytes() != vocabulary.read_bytes():
        raise VqnmtError(
            f"student=fertility, but teacher={name} has another vocabulary than this run, so "
            "that its alignments do not fit: set teacher=own"
        )
    return cast(AutoregressiveTransformer, teacher.translator.model).align


def _imitated(config: PipelineConfig, corpus: Corpus, teacher: Teacher) -> Sequence[str]:
    """Return translations of the validation set as the student learns to write them."""
    valid = corpus.valid
    if config.distill is not True:
        return valid.targets
    with Progress("teacher on valid", len(valid), "sentences") as progress:
        found = teacher.translator.translate(valid.sources, beam=config.beam, progress=progress)
    return [translation.text for translation in found]


def _language_model(
    config: PipelineConfig, corpus: Corpus, observer: ParallelObserver, targets: TokenizedText
) -> TrigramModel | None:
    """Return trigrams of the targets that a CTC student was trained on, where they help it."""
    model, vocabulary = observer.translator.model, observer.translator.vocabulary
    assert isinstance(model, ParallelTransformer)
    if not isinstance(model.output, Ctc):
        return None

    def bleu(language_model: TrigramModel | None) -> float:
        reader = _translator(config, model, corpus, vocabulary)
        reader.language_model = language_model
        reading = config.decoding.reading
        found = reader.translate(corpus.valid.sources, reading=reading, repair=False)
        return observer.bleu([translation.text for translation in found], observer.imitated)

    trigrams = TrigramModel.count(targets.tokens, targets.offsets, len(vocabulary))
    return choose_language_model(trigrams, bleu)


# --- training --------------------------------------------------------------------------------


def _common_settings(config: PipelineConfig) -> dict[str, int]:
    keys = ("seed", "max_train_tokens", "max_source_tokens")
    return {key: getattr(config, key) for key in keys}


def _translator(
    config: PipelineConfig, model: nn.Module, corpus: Corpus, vocabulary: Vocabulary
) -> Translator:
    languages = (corpus.source_language, corpus.target_language)
    return Translator(
        model,
        vocabulary,
        *languages,
        max_source_tokens=config.max_source_tokens,
        span_patterns=config.vocabulary.span_patterns,
    )


def _train(
    config: PipelineConfig,
    stage: Stage,
    translator: Translator,
    observer: BleuObserver,
    text: ParallelText,
    training: TrainingConfig,
) -> TokenizedText:
    """Train the model of `translator` on `text`; return the targets' tokens."""
    name, model = stage.folder.name, translator.model
    folder, budget = stage.folder / "tokens", training.batch_tokens
    batches = make_batches(config, text, translator.vocabulary, folder, budget, name)
    _learn_pieces(model, batches)
    trainer = Trainer(model, batches, observer, training, stage.training_folder, config.seed, name)
    model.load_state_dict(trainer.train())
    model.eval()
    return batches.targets


def _learn_pieces(model: nn.Module, batches: ParallelBatches) -> None:
    """Tell the untrained `model` which pieces its text has, and which of them follow themselves."""
    model.embedding.written = batches.written  # type: ignore[union-attr]
    if isinstance(model, ParallelTransformer):
        model.repeatable.copy_(batches.repeatable(len(model.repeatable)))


def _save(stage: Stage, translator: Translator, corpus: Corpus) -> None:
    """Leave the model folder, by the first process; the others wait for it."""
    if PartialState().is_main_process:
        name = stage.folder.name
        title, about = f"vqnmt {name}: {corpus.name}", f"The {name} of a vqnmt run."
        card = model_card(
            title=title,
            description=about,
            corpus=corpus_facts(corpus),
            tags=method_tags(translator.model),
        )
        translator.save_pretrained(stage.folder, card)
    PartialState().wait_for_everyone()


def make_batches(
    config: PipelineConfig,
    text: ParallelText,
    vocabulary: Vocabulary,
    folder: Path,
    batch_tokens: int,
    name: str,
) -> ParallelBatches:
    """Tokenise the pairs of `text`, but for those that the filters drop.

    Args:
        config: Settings of the run: filters, longest pair, seed.
        text: Training sources and their translations.
        vocabulary: Of both sides.
        folder: Gets the tokens; those of the same pairs that are there already are used.
        batch_tokens: See `plan_batches`.
        name: Of the model that trains on them, for what is printed.

    Raises:
        VqnmtError: No pair is left.
    """
    fit = config.corpus.pair_filter()
    tokenize_pairs(
        *(text.sources, text.targets, vocabulary, folder, fit, name, text.counts),
        span_patterns=config.vocabulary.span_patterns,
        formality=config.corpus.target_language if config.vocabulary.formality else "",
    )
    tokens = open_tokens(folder)
    pairs = len(tokens[0])
    if not pairs:
        raise VqnmtError(
            f"{name}: none of {len(text):,} pairs passes the filters corpus.max_words and "
            "corpus.max_ratio, such as when a teacher only repeats itself: train it longer"
        )
    limit = config.max_train_tokens
    batches = ParallelBatches(*tokens, batch_tokens, config.seed, limit, open_counts(folder))
    print_once(
        f"{name}: trains on {len(batches):,} pairs; dropped: {len(text) - pairs:,} by "
        f"the filters or as their placeholders differ, {pairs - len(batches):,} over {limit} tokens"
    )
    return batches
