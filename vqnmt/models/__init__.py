"""The translation models: pure modules that know nothing of files, devices or processes."""

from vqnmt.layers import Losses
from vqnmt.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.models.ctc import CtcConfig, CtcTransformer
from vqnmt.models.fertility import FertilityConfig, FertilityTransformer
from vqnmt.models.latent import LatentConfig, LatentTransformer
from vqnmt.models.outputs import register_output
from vqnmt.models.parallel import ParallelTransformer
from vqnmt.models.registry import register_student

__all__ = [
    "AutoregressiveConfig",
    "AutoregressiveTransformer",
    "CtcConfig",
    "CtcTransformer",
    "FertilityConfig",
    "FertilityTransformer",
    "LatentConfig",
    "LatentTransformer",
    "Losses",
    "ParallelTransformer",
    "register_output",
    "register_student",
]
