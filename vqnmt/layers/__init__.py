"""Building blocks that the models share: Transformer layers, 1-d convolutions, dropout, losses."""

from vqnmt.layers.basic import Dropout, Losses, stack
from vqnmt.layers.convolution import Compressor, Decompressor, Upsample
from vqnmt.layers.transformer import Decoder, DecoderState, Encoder, TransformerConfig

__all__ = [
    "Compressor",
    "Decoder",
    "DecoderState",
    "Decompressor",
    "Dropout",
    "Encoder",
    "Losses",
    "TransformerConfig",
    "Upsample",
    "stack",
]
