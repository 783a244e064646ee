"""What a latent student's codes carry: decoded from right, predicted, random and equal codes.

All controls share one set of units, so that they compare: whole strings of the validation set,
read by the best path, where `translate` cuts a string into sentences and may read with trigrams.

Shapes: B sentences, S source and T target tokens, L codes, K codes in the codebook, d model width.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqnmt.data.corpus import ParallelText
from vqnmt.decode.settings import SearchSettings
from vqnmt.evaluation.records import Metric
from vqnmt.evaluation.scores import score
from vqnmt.evaluation.tables import CODES
from vqnmt.models import LatentTransformer
from vqnmt.translate.generation import find_translations
from vqnmt.translate.pytorch import Translator

# The numbers of its strings, their sources (B, S) and targets (B, T).
Batch = tuple[Sequence[int], Tensor, Tensor]


@torch.inference_mode()
def code_controls(student: Translator, valid: ParallelText, seed: int) -> dict[str, Metric]:
    """Measure what the codes of a latent student decide.

    BLEU and chrF++ of random and constant codes have as many codes as the predictor writes, so
    only their content differs from `predicted`.

    The bits are means over strings. `code_bits` is -log2 p(z|x), the predictor's cross-entropy on
    the true codes z, their end included. It bounds what they tell about the target y beyond the
    source x: z is a function of x and y, so I(y; z|x) = H(z|x) <= code_bits.
    `target_bits_<kind>` is the decoder's -log2 p(y|x, codes), with as many codes as z has, so that
    no kind knows the length better. The baseline without information is `predicted`, because greedy
    codes depend on nothing but x and that number, and the decoder reads them as in translation.
    target_bits_predicted - target_bits_oracle, what the true codes save the decoder, can exceed
    code_bits, because a wrong guess does not only miss information, it misleads. Random codes, or
    those of another sentence, mislead more, which is why neither is the baseline.

    Args:
        student: Around a latent model, in evaluation mode.
        valid: The validation set.
        seed: Of the random codes.

    Returns:
        `bleu_<kind>.valid`, `chrf_<kind>.valid` and `target_bits_<kind>.valid` for each of `CODES`,
        and `code_bits.valid`.
    """
    model = student.model
    assert isinstance(model, LatentTransformer)
    batches = list(student.paired_batches(valid.sources, valid.targets))
    true = [model.true_codes(target, *model.encode(source)) for _, source, target in batches]
    counts = torch.zeros(model.quantizer.codebook_size, dtype=torch.int64)
    for codes, mask in true:
        counts += codes[mask].cpu().bincount(minlength=len(counts))
    common = int(counts.argmax())
    chance = np.random.default_rng(seed)
    scores = _scores(student, valid, batches, common, chance)
    return scores | _bits(model, batches, true, common, chance)


def _scores(
    student: Translator,
    valid: ParallelText,
    batches: Sequence[Batch],
    common: int,
    chance: np.random.Generator,
) -> dict[str, Metric]:
    """Score what the decoder writes of each kind of codes."""
    model = student.model
    predicted: list[list[int]] = [[] for _ in valid.sources]
    for indices, source, _ in batches:
        found: list[list[Any]] = find_translations(
            model, source, SearchSettings(language_model=False)
        )
        for i, (best, *_) in zip(indices, found, strict=True):
            predicted[i] = best.codes.symbols
    lengths = [max(len(codes), 1) for codes in predicted]
    size = student.codebook_size
    given: dict[str, list[list[int]] | None] = {
        "oracle": None,
        "predicted": predicted,
        "random": [chance.integers(size, size=length).tolist() for length in lengths],
        "constant": [[common] * length for length in lengths],
    }
    metrics: dict[str, Metric] = {}
    for kind in CODES:
        texts = student.reconstruct(valid.sources, valid.targets, given[kind])
        scores = score(texts, valid.targets, student.target_language)
        metrics[f"bleu_{kind}.valid"] = scores.bleu
        metrics[f"chrf_{kind}.valid"] = scores.chrf
    return metrics


def _bits(
    model: LatentTransformer,
    batches: Sequence[Batch],
    true: Sequence[tuple[Tensor, Tensor]],
    common: int,
    chance: np.random.Generator,
) -> dict[str, Metric]:
    """Measure the bits a string of the true codes, and of the target given each kind of codes."""
    size = model.quantizer.codebook_size
    nats: dict[str, float] = defaultdict(float)
    for (_, source, target), (codes, mask) in zip(batches, true, strict=True):
        memory, memory_mask = model.encode(source)
        drawn = torch.from_numpy(chance.integers(size, size=codes.shape)).to(codes.device)
        kinds = {
            "oracle": codes,
            "predicted": _greedy(model, memory, memory_mask, mask),
            "random": drawn,
            "constant": torch.full_like(codes, common),
        }
        for kind, some in kinds.items():
            hidden, output_mask = model.decode_codes(some, mask, memory, memory_mask)
            known = model.embedding.known(target)
            loss, tokens = model.output.loss(model.embedding.outputs, hidden, output_mask, known)
            nats[f"target_bits_{kind}"] += float(loss) * tokens
        losses = model(source, target)
        nats["code_bits"] += float(losses.terms["prediction"] * losses.counts["prediction"])
    measured = max(sum(len(indices) for indices, _, _ in batches), 1)
    return {f"{key}.valid": total / math.log(2) / measured for key, total in nats.items()}


def _greedy(model: LatentTransformer, memory: Tensor, memory_mask: Tensor, mask: Tensor) -> Tensor:
    """Predict as many codes for each encoded source as `mask` (B, L) has; (B, L)."""
    state = model.predictor.start(memory, memory_mask)
    size = model.quantizer.codebook_size
    last = torch.full((len(memory),), model.end_of_codes, device=memory.device)
    ends = mask.sum(dim=1) - 1  # (B,): the place of each last code
    steps = []
    for place in range(mask.shape[1]):
        scores = model.step(last, state)  # (B, 2 K) with `joint_end`, else (B, K + 1)
        if model.config.joint_end:
            ending = (ends == place)[:, None]  # (B, 1)
            last = torch.where(ending, scores[:, size:], scores[:, :size]).argmax(dim=1)
        else:
            last = scores[:, :size].argmax(dim=1)
        steps.append(last)
    return torch.stack(steps, dim=1)
