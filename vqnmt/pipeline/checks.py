"""What is refused before the first stage, because a later one would only find it hours later."""

from pathlib import Path

import torch
from accelerate import PartialState

from vqnmt.evaluation.records import read_records
from vqnmt.files import check_writable
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.images.models import build_image_model
from vqnmt.models.warm_start import copy_weights
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


def check_image_settings(config: ImagePipelineConfig) -> None:
    """Refuse settings that some stage of the image track cannot do; nothing is made.

    Raises:
        VqnmtError: The model cannot be built of its settings, or the run folder or that of the
            records cannot be written.
    """
    with torch.device("meta"):
        build_image_model(config.model, config.data.size)
    check_places(config.run, config.records_paths)


def _build(student: str, config: PipelineConfig) -> torch.nn.Module:
    """Build an untrained model, a key of `STUDENTS`."""
    architecture = ARCHITECTURES["autoregressive" if student == "teacher" else student][1]
    return architecture(getattr(config, STUDENTS[student]), config.vocabulary.size)


def check_places(run: str, records: list[Path]) -> None:
    """Refuse a run folder that cannot be made, and records that cannot be added to.

    Raises:
        VqnmtError: Names the key, or the file of records that is damaged.
    """
    if not PartialState().is_main_process:
        return
    if not Path(run).is_dir():  # one that is there may be complete
        check_writable(run, "run")
    for path in records:
        check_writable(path.parent, "records")
        if path.exists():
            read_records(path)
