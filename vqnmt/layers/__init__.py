"""Building blocks that the models share: Transformer layers and 1-d convolutions."""

from vqnmt.layers.convolution import Compressor, Decompressor, Upsample
from vqnmt.layers.transformer import Decoder, DecoderState, Encoder, TransformerConfig

__all__ = [
    "Compressor",
    "Decoder",
    "DecoderState",
    "Decompressor",
    "Encoder",
    "TransformerConfig",
    "Upsample",
]
