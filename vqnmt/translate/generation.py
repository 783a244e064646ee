"""Source tokens in, translations as tokens out: how each kind of model is searched and read.

`find_translations` has a function for each kind of model. A model of another kind, of a plug-in,
has a method `find_translations(source, settings)`, which returns for each sentence a list of
`vqnmt.decode.search.Hypothesis`.
"""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqnmt.decode.ctc import read_likely
from vqnmt.decode.language_model import TrigramModel
from vqnmt.decode.search import Hypothesis, SearchSettings, find_candidates
from vqnmt.decode.settings import ReadingSettings
from vqnmt.models import (
    AutoregressiveTransformer,
    CtcTransformer,
    FertilityTransformer,
    LatentTransformer,
    ParallelTransformer,
)
from vqnmt.models.outputs import read
from vqnmt.models.shared import length_limits
from vqnmt.tokens import BOS, EOS, PAD


class LatentTranslation(NamedTuple):
    """One translation of a sentence by a latent model."""

    codes: Hypothesis
    """The codes, without the end, and their log-probability."""
    tokens: list[int]
    """The tokens decoded from them."""
    spans: list[int]
    """How many of the tokens each code writes."""


@singledispatch
def find_translations(
    model: nn.Module,
    source: Tensor,
    settings: SearchSettings,
    language_model: TrigramModel | None = None,
) -> list[list[Hypothesis]] | list[list[LatentTranslation]]:
    """Translate `source` (B, S) in up to `settings.candidates` ways.

    Args:
        model: In evaluation mode.
        source: Source tokens, padded at the end with `PAD`, without BOS and EOS.
        settings: How to search.
        language_model: Reads the output of a model with CTC, unless
            `settings.language_model` is off; with None the best path is read.

    Returns:
        For each sentence its candidates, in the order of `vqnmt.decode.search.find_candidates`.
    """
    with torch.inference_mode():
        return model.find_translations(source, settings)  # type: ignore[operator]


@find_translations.register
@torch.inference_mode()
def _(
    model: AutoregressiveTransformer,
    source: Tensor,
    settings: SearchSettings,
    language_model: TrigramModel | None = None,
) -> list[list[Hypothesis]]:
    """Search over tokens."""
    return find_candidates(
        model.step,
        model.decoder.start(*model.encode(source)),
        length_limits(source),
        begin=BOS,
        end=EOS,
        settings=settings,
        forbidden=(PAD, BOS),
    )


@find_translations.register
@torch.inference_mode()
def _(
    model: FertilityTransformer,
    source: Tensor,
    settings: SearchSettings,
    language_model: TrigramModel | None = None,
) -> list[list[Hypothesis]]:
    """Draw fertilities, at temperature 1 if none is given; there is nothing to search."""
    count = settings.candidates
    tokens, totals = model.draw(source, count, settings.temperature or 1.0)
    found = [Hypothesis(row, total) for row, total in zip(tokens, totals, strict=True)]
    return [found[i : i + count] for i in range(0, len(found), count)]


@find_translations.register
@torch.inference_mode()
def _(
    model: CtcTransformer,
    source: Tensor,
    settings: SearchSettings,
    language_model: TrigramModel | None = None,
) -> list[list[Hypothesis]]:
    """Read the one output of each sentence; its score is that of the best path."""
    memory, memory_mask = model.encode(source)
    best, starts, scores = model.best_pieces(memory, memory_mask)
    rows = read(best, starts)
    if language_model is not None and settings.language_model:
        reading = settings.reading
        likely = model.likely_pieces(memory, memory_mask, reading.pieces)
        found = _read_likely(model, *likely, 1, language_model, reading)
        rows = [tokens for tokens, _ in found]
    return [[Hypothesis(*one)] for one in zip(rows, scores.tolist(), strict=True)]


@find_translations.register
@torch.inference_mode()
def _(
    model: LatentTransformer,
    source: Tensor,
    settings: SearchSettings,
    language_model: TrigramModel | None = None,
) -> list[list[LatentTranslation]]:
    """Search over codes, then decode all tokens of each code sequence at once."""
    memory, memory_mask = model.encode(source)
    limits = length_limits(source).div(2**model.config.compression, rounding_mode="floor") + 1
    found = find_candidates(
        model.step,
        model.predictor.start(memory, memory_mask),
        limits,
        begin=model.end_of_codes,
        end=model.end_of_codes,
        settings=settings,
        joint=model.config.joint_end,
    )
    rows = [i for i, hypotheses in enumerate(found) for _ in hypotheses]
    codes, mask = pad_codes([h.symbols for hs in found for h in hs], source.device)
    if rows != list(range(len(source))):
        index = torch.tensor(rows, device=source.device)
        memory, memory_mask = memory[index], memory_mask[index]
    reader = language_model if settings.language_model else None
    arguments = codes, mask, memory, memory_mask, reader, settings.reading
    decoded = iter(_decode_codes(model, *arguments))
    translations: list[list[LatentTranslation]] = []
    for hypotheses in found:
        translations.append([])
        for hypothesis in hypotheses:
            tokens, spans = next(decoded)
            spans = spans[: len(hypothesis.symbols)]
            translations[-1].append(LatentTranslation(hypothesis, tokens, spans))
    return translations


@torch.inference_mode()
def force_codes(
    model: LatentTransformer,
    source: Tensor,
    given: list[int],
    limit: int,
    language_model: TrigramModel | None,
) -> tuple[LatentTranslation, Tensor]:
    """Translate one sentence, `source` (1, S), from given codes.

    Args:
        model: In evaluation mode.
        source: As for `find_translations`.
        given: The predictor's first symbols; the search goes on greedily.
        limit: The most codes.
        language_model: Reads the output; with None the best path is read.

    Returns:
        The translation, and the log-probabilities of all symbols at each step, (steps, V).
    """
    memory, memory_mask = model.encode(source)
    state = model.predictor.start(memory, memory_mask)
    end, joint = model.end_of_codes, model.config.joint_end
    symbol, found = end, Hypothesis([], 0.0)
    steps: list[Tensor] = []
    while len(found.symbols) < limit and (symbol < end or not steps):
        last = torch.tensor([symbol], device=source.device)
        log_p = model.step(last, state)[0].float().log_softmax(dim=0)  # (V,)
        if len(steps) < len(given):
            symbol = given[len(steps)]
        else:
            least = end if joint and len(found.symbols) == limit - 1 else 0
            symbol = least + int(log_p[least:].max(dim=0).indices)
        steps.append(log_p)
        found.log_probability += float(log_p[symbol])
        found.ended = symbol == end and not joint
        if not found.ended:
            found.symbols.append(symbol % end)
    codes, mask = pad_codes([found.symbols], source.device)
    ((tokens, spans),) = _decode_codes(model, codes, mask, memory, memory_mask, language_model)
    return LatentTranslation(found, tokens, spans[: len(found.symbols)]), torch.stack(steps)


@torch.inference_mode()
def reconstruct(
    model: LatentTransformer, source: Tensor, target: Tensor, given: list[list[int]] | None = None
) -> list[list[int]]:
    """Decode from the codes of the true `target` (B, T), the oracle, or from codes `given`; tokens.

    The best path is read.
    """
    memory, memory_mask = model.encode(source)
    if given is None:
        codes, mask = model.true_codes(target, memory, memory_mask)
    else:
        codes, mask = pad_codes(given, source.device)
    decoded = _decode_codes(model, codes, mask, memory, memory_mask)
    return [tokens for tokens, _ in decoded]


def _decode_codes(
    model: LatentTransformer,
    codes: Tensor,
    mask: Tensor,
    memory: Tensor,
    memory_mask: Tensor,
    language_model: TrigramModel | None = None,
    reading: ReadingSettings | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of each sentence, and how many of them each code writes."""
    if language_model is None:
        best, starts = model.best_pieces(codes, mask, memory, memory_mask)
        spans = starts.view(*codes.shape, -1).sum(dim=2)  # (B, L)
        return list(zip(read(best, starts), spans.tolist(), strict=True))
    reading = reading or ReadingSettings()
    likely = model.likely_pieces(codes, mask, memory, memory_mask, reading.pieces)
    stride = likely[2].shape[1] // codes.shape[1]
    return _read_likely(model, *likely, stride, language_model, reading)


def _read_likely(
    model: ParallelTransformer,
    logits: Tensor,
    pieces: Tensor,
    mask: Tensor,
    stride: int,
    language_model: TrigramModel,
    reading: ReadingSettings,
) -> list[tuple[list[int], list[int]]]:
    """Read the likeliest pieces, `model.likely_pieces`, with trigrams; see `read_likely`."""
    return read_likely(
        logits.float().numpy(force=True),
        pieces.numpy(force=True),
        mask.sum(dim=1).tolist(),
        stride,
        language_model,
        model.repeatable.numpy(force=True),
        reading,
    )


def pad_codes(codes: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack lists of codes to (B, L) with the mask (B, L); a list without codes gets one, 0."""
    codes = [row or [0] for row in codes]  # the decoder needs at least one position
    longest = max(len(row) for row in codes)
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in codes], device=device)
    lengths = torch.tensor([len(row) for row in codes], device=device)
    return padded, torch.arange(longest, device=device) < lengths[:, None]
