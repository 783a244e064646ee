"""What is refused before the first stage, because a later one would only find it hours later."""

import torch

from vqnmt.evaluation.records import check_places
from vqnmt.models.shared import copy_weights
from vqnmt.pipeline.config import STUDENTS, PipelineConfig
from vqnmt.pipeline.facts import records_path
from vqnmt.pipeline.teachers import check_teacher
from vqnmt.translate.pretrained import ARCHITECTURES


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
    places = [] if config.records is None else [records_path(config.records, config.corpus)]
    check_places(config.run, places)


def _build(student: str, config: PipelineConfig) -> torch.nn.Module:
    """Build an untrained model, a key of `STUDENTS`."""
    architecture = ARCHITECTURES["autoregressive" if student == "teacher" else student][1]
    return architecture(getattr(config, STUDENTS[student]), config.vocabulary.size)
