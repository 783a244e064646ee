"""Writes our autoregressive models for CTranslate2, the fastest engine for them.

The weights stay the same, so that timings compare engines.
"""

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from torch import Tensor, nn

from vqnmt.layers.transformer import Attention, DecoderLayer, EncoderLayer, FeedForward, sinusoids
from vqnmt.models import AutoregressiveTransformer
from vqnmt.tokens import BOS, EOS, PAD, UNK, length_limit
from vqnmt.translate.pytorch import Translator


def convert(translator: Translator, folder: Path | str, int8: bool) -> None:
    """Write an autoregressive model as a CTranslate2 model folder.

    Args:
        translator: Around an `AutoregressiveTransformer`.
        folder: Gets model.bin, config.json and the vocabulary; must be empty or new.
        int8: Whether weights are rounded to 8 bits.
    """
    model = translator.model
    assert isinstance(model, AutoregressiveTransformer)
    config = model.config
    spec = ctranslate2.specs.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers), config.transformer.heads, pre_norm=True
    )
    length = length_limit(translator.max_source_tokens) + 2
    for side, module in ((spec.encoder, model.encoder), (spec.decoder, model.decoder)):
        side.position_encodings.encodings = sinusoids(length, config.transformer.dim).numpy()
        _norm(side.layer_norm, module.norm)
    spec.encoder.embeddings[0].weight = _array(model.embedding.weight)
    outputs = _array(model.embedding.outputs)
    spec.decoder.embeddings.weight = spec.decoder.projection.weight = outputs
    # Our search and our scores exclude the pieces that never occur in a text.
    bias = np.zeros(len(outputs), dtype=np.float32)
    bias[[PAD, BOS]] = -1e9
    spec.decoder.projection.bias = bias
    for target, layer in zip(spec.encoder.layer, model.encoder.layers, strict=True):
        assert isinstance(layer, EncoderLayer)
        _self_attention(target.self_attention, layer.attention_norm, layer.attention)
        _feedforward(target.ffn, layer.feedforward_norm, layer.feedforward)
    for target, layer in zip(spec.decoder.layer, model.decoder.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        _self_attention(target.self_attention, layer.self_norm, layer.self_attention)
        _source_attention(target.attention, layer.source_norm, layer.source_attention)
        _feedforward(target.ffn, layer.feedforward_norm, layer.feedforward)
    pieces = translator.vocabulary.pieces(range(len(translator.vocabulary)))
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces[: len(outputs)])
    spec.config.unk_token, spec.config.bos_token = pieces[UNK], pieces[BOS]
    spec.config.eos_token, spec.config.decoder_start_token = pieces[EOS], pieces[BOS]
    spec.config.add_source_eos, spec.config.layer_norm_epsilon = True, model.encoder.norm.eps
    spec.validate()
    spec.optimize(quantization="int8" if int8 else None)
    Path(folder).mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _array(tensor: Tensor) -> np.ndarray:
    # A copy: CTranslate2 rounds to int8 in place.
    return np.array(tensor.detach().float().cpu().numpy(), order="C")


def _linear(target: Any, *layers: nn.Linear) -> None:
    target.weight = np.concatenate([_array(layer.weight) for layer in layers])
    target.bias = np.concatenate([_array(layer.bias) for layer in layers])


def _norm(target: Any, norm: nn.LayerNorm) -> None:
    target.gamma, target.beta = _array(norm.weight), _array(norm.bias)


def _self_attention(target: Any, norm: nn.LayerNorm, attention: Attention) -> None:
    _norm(target.layer_norm, norm)
    _linear(target.linear[0], attention.query, attention.key_value)
    _linear(target.linear[1], attention.output)


def _source_attention(target: Any, norm: nn.LayerNorm, attention: Attention) -> None:
    _norm(target.layer_norm, norm)
    for linear, layer in zip(
        target.linear, (attention.query, attention.key_value, attention.output), strict=True
    ):
        _linear(linear, layer)


def _feedforward(target: Any, norm: nn.LayerNorm, layer: FeedForward) -> None:
    _norm(target.layer_norm, norm)
    _linear(target.linear_0, layer.inner)
    _linear(target.linear_1, layer.outer)
