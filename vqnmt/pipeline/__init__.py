"""The stages of the main job, from a corpus to a report."""

from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.run import check_settings, start_run
from vqnmt.pipeline.translation import (
    make_corpus,
    make_student,
    make_teacher,
    make_text,
    make_vocabulary,
)

__all__ = [
    "PipelineConfig",
    "check_settings",
    "make_corpus",
    "make_student",
    "make_teacher",
    "make_text",
    "make_vocabulary",
    "start_run",
]
