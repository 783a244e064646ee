"""A run before its first stage: settings that are checked, and how tables and reports name it."""

from pathlib import Path
from typing import TypeAlias

import torch
from accelerate.utils import set_seed
from torch import nn

from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import Corpus
from vqnmt.evaluation.records import check_places
from vqnmt.evaluation.report import CorpusFacts
from vqnmt.models import LatentTransformer, ParallelTransformer
from vqnmt.models.registry import build_model
from vqnmt.models.shared import copy_weights
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.teachers import check_teacher
from vqnmt.training.distribution import join_processes
from vqnmt.training.stage import Run

TranslationRun: TypeAlias = Run[PipelineConfig]


def start_run(config: PipelineConfig) -> TranslationRun:
    """Join the processes of a run, and check its settings; nothing is made.

    Raises:
        VqnmtError: See `check_settings`.
    """
    join_processes()
    check_settings(config)
    set_seed(config.seed)
    return Run(config, Path(config.run))


def check_settings(config: PipelineConfig) -> None:
    """Refuse settings that some stage cannot do; nothing is made.

    The models are built on torch's device `meta`, which takes neither memory nor time.

    Raises:
        VqnmtError: A model cannot be built of its settings or lacks an optional package, the
            teacher does not fit, or the run folder or that of the records cannot be written.
    """
    with torch.device("meta"):
        teacher = _build("teacher", config) if config.teacher == "own" else check_teacher(config)
        student = _build(config.student, config)
        if config.student != "teacher" and config.warm_start and teacher is not None:
            copy_weights(student, teacher)
    check_places(config.run, records_paths(config))


def _build(student: str, config: PipelineConfig) -> torch.nn.Module:
    """Build the untrained teacher, or the student that the settings name."""
    if student == "teacher":
        return build_model("autoregressive", config.teacher_model, config.vocabulary.size)
    return build_model(student, config.student_settings, config.vocabulary.size)


def split_name(part: str) -> str:
    """Name a part of the corpus as the tables do: a test set by its own name."""
    return part.removeprefix("test.")


def pair_name(corpus: Corpus | CorpusConfig) -> str:
    """Name a corpus and its languages as records do: `multi30k-en-de`."""
    return f"{corpus.name}-{corpus.source_language}-{corpus.target_language}"


def records_paths(config: PipelineConfig) -> list[Path]:
    """Return the file of records that is asked for, if any."""
    name = f"{pair_name(config.corpus)}.json"
    return [] if config.records is None else [Path(config.records) / name]


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
        counts={split_name(part): facts["pairs"] for part, facts in parts.items()},
        dropped=dropped,
    )


def method_tags(model: nn.Module) -> list[str]:
    """Name the method of a model as the Hub's tags do."""
    tags = ["non-autoregressive"] if isinstance(model, ParallelTransformer) else []
    return [*tags, "vq-vae"] if isinstance(model, LatentTransformer) else tags
