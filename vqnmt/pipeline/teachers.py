"""Teachers that are there already: a model folder of ours, or a checkpoint for transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vqnmt.checksums import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.models import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.settings import from_mapping
from vqnmt.translate.pytorch import TextTranslator, Translator, check_model_folder
from vqnmt.translate.seq2seq import TransformersTranslator, check_checkpoint


@dataclass(frozen=True, slots=True)
class Teacher:
    """What translates the student's text."""

    translator: TextTranslator
    """Our own `Translator`, or any other."""
    settings: dict[str, Any]
    """What decides its output, for the settings of the stages that use it."""


def check_teacher(config: PipelineConfig) -> nn.Module | None:
    """Refuse, without loading it, a teacher that does not fit the run.

    Returns:
        A model of the shape of a teacher of ours that is there already, on the device of the
        context; else None.

    Raises:
        VqnmtError: It cannot be loaded, or does not fit the run; names the key.
    """
    name = config.teacher
    languages = config.corpus.source_language, config.corpus.target_language
    if name == "own":
        return None
    if not _is_model_folder(Path(name)):
        count, engine = config.decoding.candidates, config.distillation_engine
        own_only = {
            f"student={config.student}": config.student in ("fertility", "teacher"),
            f"decoding.candidates={count}": count > 1,
            f"distillation_engine={engine}": engine != "pytorch",
        }
        for setting, needed in own_only.items():
            if needed:
                raise VqnmtError(
                    f"teacher={name}: {setting} needs a teacher of ours, for its alignments, "
                    "scores or weights: set teacher=own or give the folder of one"
                )
        check_checkpoint(name)
        return None
    check_model_folder(Path(name))
    found = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
    if found["architecture"] != "autoregressive":
        raise VqnmtError(
            f"teacher={name}: a {found['architecture']} model: give the folder of an "
            "autoregressive one, such as RUN/teacher"
        )
    if config.teacher_prefix:
        raise VqnmtError(
            f"teacher_prefix is {config.teacher_prefix!r}, but teacher={name} is a model of ours, "
            "which takes none: leave it empty"
        )
    if (own := (found["source_language"], found["target_language"])) != languages:
        raise VqnmtError(
            f"teacher={name}: translates from {' to '.join(own)}, but the corpus is from "
            f"{' to '.join(languages)}: give a teacher of these languages"
        )
    if config.warm_start and found["vocabulary_size"] != config.vocabulary.size:
        raise _other_vocabulary(name)
    settings = from_mapping(AutoregressiveConfig, found["settings"], f"{name}: settings")
    return AutoregressiveTransformer(settings, found["vocabulary_size"])


def load_teacher(config: PipelineConfig, vocabulary: Path) -> Teacher:
    """Load the teacher that `config.teacher` names, after `check_teacher` has accepted it.

    Args:
        config: Settings of the run.
        vocabulary: This run's spm.model, which a warm start needs to be the teacher's.

    Raises:
        VqnmtError: It cannot be loaded, or has another vocabulary; names the key.
    """
    name = config.teacher
    if not _is_model_folder(Path(name)):
        settings = {"teacher": name}
        if config.teacher_prefix:
            settings["teacher_prefix"] = config.teacher_prefix
        languages = config.corpus.source_language, config.corpus.target_language
        foreign = TransformersTranslator(name, *languages, prefix=config.teacher_prefix)
        return Teacher(foreign, settings)
    translator = Translator.from_pretrained(name)
    if config.warm_start and (Path(name) / "spm.model").read_bytes() != vocabulary.read_bytes():
        raise _other_vocabulary(name)
    translator.max_source_tokens = config.max_source_tokens  # our models take any length
    # A training may have gone on in that folder since; another folder may hold the same.
    checksum = file_checksum(Path(name) / "model.safetensors")
    return Teacher(translator, {"digest of the teacher": checksum})


def _other_vocabulary(name: str) -> VqnmtError:
    return VqnmtError(
        f"warm_start is true, but teacher={name} has another vocabulary than this run: set "
        "warm_start=false"
    )


def _is_model_folder(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(config["model_type"] == "vqnmt")
    except (OSError, ValueError, KeyError, TypeError):
        return False
