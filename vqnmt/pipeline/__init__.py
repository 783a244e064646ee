"""The stages of the main job, from a corpus to a report."""

from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.translation import TranslationPipeline

__all__ = ["PipelineConfig", "TranslationPipeline"]
