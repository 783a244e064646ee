"""Discrete bottlenecks: encoder vectors in, straight-through code vectors and codes out.

- `gradient`: nearest neighbour, codebook loss and commitment loss (van den Oord et al.);
- `ema`: the codebook is a moving average of the vectors assigned to it;
- `hard_em`: the codebook is the mean of the vectors assigned to it in the last batch;
- `soft_em`: m codes drawn from the posterior at each position (Roy et al. 2018).

The package needs only torch and `vqnmt.errors`.
"""

from vqnmt.quantizers.base import Quantizer, QuantizerOutput
from vqnmt.quantizers.build import build_quantizer
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.ema import EMAQuantizer, HardEMQuantizer
from vqnmt.quantizers.gradient import GradientQuantizer
from vqnmt.quantizers.soft_em import SoftEMQuantizer
from vqnmt.quantizers.statistics import CodebookStatistics

__all__ = [
    "CodebookStatistics",
    "EMAQuantizer",
    "GradientQuantizer",
    "HardEMQuantizer",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "SoftEMQuantizer",
    "build_quantizer",
]
