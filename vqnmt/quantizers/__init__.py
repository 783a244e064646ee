"""Discrete bottlenecks: encoder vectors in, code vectors and codes out, trained straight through.

- `gradient`: nearest neighbour, codebook loss and commitment loss (van den Oord et al. 2017);
- `ema`: the codebook is a moving average of the vectors assigned to it;
- `hard_em`: the codebook is the mean of the vectors assigned to it in the last batch;
- `soft_em`: m codes drawn from the posterior at each position (Roy et al. 2018);
- `gumbel_softmax`: a relaxed draw of one code (Jang et al. 2017);
- `semhash`: the bits of a noisy saturating sigmoid (Kaiser et al. 2018);
- `product`: several of these side by side, each for a part of the vector;
- `residual`: several of these in turn, each for what the earlier ones left;
- `fsq`, `lfq`, `sim_vq`: those of vector-quantize-pytorch, an optional extra.

The package needs only torch and `vqnmt.errors`.
"""

from vqnmt.quantizers.base import Quantizer, QuantizerOutput
from vqnmt.quantizers.build import build_quantizer
from vqnmt.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.external import FSQQuantizer, LFQQuantizer, SimVQQuantizer
from vqnmt.quantizers.learnt import GumbelSoftmaxQuantizer, SemanticHashingQuantizer
from vqnmt.quantizers.statistics import CodebookStatistics
from vqnmt.quantizers.vector_quantizers import (
    EMAQuantizer,
    GradientQuantizer,
    HardEMQuantizer,
    SoftEMQuantizer,
)

__all__ = [
    "CodebookStatistics",
    "EMAQuantizer",
    "FSQQuantizer",
    "GradientQuantizer",
    "GumbelSoftmaxQuantizer",
    "HardEMQuantizer",
    "LFQQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "ResidualQuantizer",
    "SemanticHashingQuantizer",
    "SimVQQuantizer",
    "SoftEMQuantizer",
    "build_quantizer",
]
