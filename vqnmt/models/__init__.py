"""The translation models: pure modules that know nothing of files, devices or processes."""

from vqnmt.layers import Losses
from vqnmt.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.models.ctc import CtcConfig, CtcTransformer
from vqnmt.models.fertility import FertilityConfig, FertilityTransformer
from vqnmt.models.latent import LatentConfig, LatentTransformer
from vqnmt.models.parallel import ParallelTransformer

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
]
