"""What a latent student's codes carry: decoded from right, predicted, random and equal codes.

All controls share one set of units, so that they compare: whole strings of the validation set,
read by the best path, where `translate` cuts a string into sentences and may read with trigrams.

Shapes: B sentences, S source and T target tokens, L codes, K codes in the codebook, d model width.
"""

import math
from collections import defaultdict
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
    size = model.quantizer.codebook_size
    batches = list(student.paired_batches(valid.sources, valid.targets))
    predicted: list[list[int]] = [[] for _ in valid.sources]
    true = [model.true_codes(target, *model.encode(source)) for _, source, target in batches]
    counts = torch.zeros(size, dtype=torch.int64)
    for codes, mask in true:
        counts += codes[mask].cpu().bincount(minlength=size)
    for indices, source, _ in batches:
        found: list[list[Any]] = find_translations(
            model, source, SearchSettings(language_model=False)
        )
        for i, (best, *_) in zip(indices, found, strict=True):
            predicted[i] = best.codes.symbols
    common = int(counts.argmax())
    chance = np.random.default_rng(seed)
    given: dict[str, list[list[int]] | None] = {
        "oracle": None,
        "predicted": predicted,
        "random": [chance.integers(size, size=max(len(p), 1)).tolist() for p in predicted],
        "constant": [[common] * max(len(p), 1) for p in predicted],
    }
    metrics: dict[str, Metric] = {}
    for kind in CODES:
        texts = student.reconstruct(valid.sources, valid.targets, given[kind])
        scores = score(texts, valid.targets, student.target_language)
        metrics[f"bleu_{kind}.valid"] = scores.bleu
        metrics[f"chrf_{kind}.valid"] = scores.chrf
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
            nats[f"target_bits_{kind}"] += _target_nats(
                model, some, mask, memory, memory_mask, target
            )
        losses = model(source, target)
        nats["code_bits"] += float(losses.terms["prediction"] * losses.counts["prediction"])
    measured = max(sum(len(indices) for indices, _, _ in batches), 1)
    bits = {f"{key}.valid": total / math.log(2) / measured for key, total in nats.items()}
    return metrics | bits


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


def _target_nats(
    model: LatentTransformer,
    codes: Tensor,
    mask: Tensor,
    memory: Tensor,
    memory_mask: Tensor,
    target: Tensor,
) -> float:
    """Return the decoder's loss of `target` (B, T) given `codes` (B, L), a sum over the batch."""
    hidden, output_mask = model.decode_codes(codes, mask, memory, memory_mask)
    loss, tokens = model.output.loss(
        model.embedding.outputs, hidden, output_mask, model.embedding.known(target)
    )
    return float(loss) * tokens
