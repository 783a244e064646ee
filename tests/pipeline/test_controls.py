"""What the codes of a student carry, against sums made by hand, one sentence at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vqnmt.data.corpus import ParallelText
from vqnmt.evaluation.scores import score
from vqnmt.evaluation.tables import CODES
from vqnmt.models import LatentConfig, LatentTransformer
from vqnmt.pipeline.controls import code_controls
from vqnmt.spans import restore
from vqnmt.tokens import length_limit
from vqnmt.translate.generation import force_codes
from vqnmt.translate.pytorch import Translator

SEED = 5


def made_of(student: Translator, output: str) -> Translator:
    """Return an untrained student that writes several codes, with the vocabulary of `student`."""
    if output == "trained":
        model = student.model
        with torch.no_grad():
            model.code_output.bias[student.codebook_size :] -= 4  # ends are less likely
        return Translator(model, student.vocabulary, "en", "de")
    torch.manual_seed(3)
    config = LatentConfig(
        transformer=student.model.config.transformer,
        output=output,
        upsampling=2 if output == "ctc" else 1,
        joint_end=output == "ctc",
    )
    model = LatentTransformer(config, len(student.vocabulary)).eval()
    return Translator(model, student.vocabulary, "en", "de")


@pytest.fixture(params=["trained", "ctc", "cross_entropy"])
def student(request, finished_run) -> Translator:
    found = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    return made_of(found, request.param)


@pytest.fixture
def valid(finished_run) -> ParallelText:
    sides = [finished_run.lines(f"corpus/valid.{code}")[:8] for code in ("en", "de")]
    return ParallelText(sides[0], sides[1])


def by_hand(student: Translator, valid: ParallelText) -> dict[str, float]:
    """Compute the metrics sentence by sentence, without padding, by other functions."""
    model, vocabulary, size = student.model, student.vocabulary, student.codebook_size
    rows, targets = vocabulary.encode(valid.sources), vocabulary.encode(valid.targets)
    true, predicted = [], []
    for row, target in zip(rows, targets, strict=True):
        z_e, _ = model.compress(torch.tensor([target]), *model.encode(torch.tensor([row])))
        true.append(model.quantizer.nearest(z_e)[0].tolist())
        limit = length_limit(len(row)) // 8 + 1
        predicted.append(force_codes(model, torch.tensor([row]), [], limit, None)[0].codes.symbols)
    common = int(np.bincount(np.concatenate(true), minlength=size).argmax())
    chance = np.random.default_rng(SEED)
    codes = {
        "oracle": true,
        "predicted": predicted,
        "random": [chance.integers(size, size=max(len(p), 1)).tolist() for p in predicted],
        "constant": [[common] * max(len(p), 1) for p in predicted],
    }
    found = {}
    for kind, some in codes.items():
        tokens = [
            force_codes(model, torch.tensor([row]), ended(model, given), 99, None)[0].tokens
            for row, given in zip(rows, some, strict=True)
        ]
        # An untrained student writes slots that no span belongs in.
        texts = [restore(text, []) for text in vocabulary.decode(tokens)]
        scores = score(texts, valid.targets, "de")
        found |= {f"bleu_{kind}.valid": scores.bleu, f"chrf_{kind}.valid": scores.chrf}
    bits = dict.fromkeys(("code", "oracle", "predicted", "constant"), 0.0)
    for row, target, codes_ in zip(rows, targets, true, strict=True):
        source = torch.tensor([row])
        symbols = ended(model, codes_)
        _, log_p = force_codes(model, source, symbols, 99, None)
        bits["code"] -= float(log_p[range(len(symbols)), symbols].sum()) / math.log(2)
        greedy: list[int] = []
        for place in range(1, len(codes_) + 1):
            _, log_p = force_codes(model, source, [*greedy, 0], place, None)
            ends = model.config.joint_end and place == len(codes_)
            greedy.append(int(log_p[-1][size:].argmax() if ends else log_p[-1][:size].argmax()))
        kinds = {"oracle": codes_, "predicted": greedy, "constant": [common] * len(codes_)}
        for kind, given in kinds.items():
            bits[kind] += target_bits(model, source, target, given)
    n = len(rows)
    found["code_bits.valid"] = bits.pop("code") / n
    return found | {f"target_bits_{kind}.valid": total / n for kind, total in bits.items()}


def ended(model: LatentTransformer, codes: list[int]) -> list[int]:
    """Return the predictor's symbols for `codes` and their end."""
    size = model.quantizer.codebook_size
    if model.config.joint_end:
        return [*codes[:-1], codes[-1] + size]
    return [*codes, size]


def target_bits(
    model: LatentTransformer, source: torch.Tensor, target: list[int], codes: list[int]
) -> float:
    """Score all pieces at every position, and sum over alignments by torch's own CTC."""
    given, mask = torch.tensor([codes]), torch.ones(1, len(codes), dtype=torch.bool)
    logits, _ = model._piece_logits(given, mask, *model.encode(source))  # (1, P, W)
    log_p = logits[0].log_softmax(dim=1)
    if model.config.output == "ctc":
        labels = torch.tensor(target)
        ctc = F.ctc_loss(log_p, labels, torch.tensor(len(log_p)), torch.tensor(len(labels)))
        return float(ctc) * len(labels) / math.log(2)  # its mean is over the labels
    labels = model.output.labels(torch.tensor([target]))[0]
    return -float(log_p[range(len(labels)), labels].sum()) / math.log(2)


@torch.inference_mode()
def test_controls_are_the_sums_made_by_hand(student: Translator, valid: ParallelText) -> None:
    found, expected = code_controls(student, valid, SEED), by_hand(student, valid)
    assert len(set(map(len, (s.split() for s in valid.sources)))) > 3, "batches are padded"
    assert max(found["bleu_random.valid"], found["chrf_random.valid"]) > 0
    keys = [f"{key}_{kind}.valid" for kind in CODES for key in ("bleu", "chrf", "target_bits")]
    assert set(found) == {*keys, "code_bits.valid"}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4), key
    again = code_controls(student, valid, SEED)
    assert again == found
    assert code_controls(student, valid, SEED + 1) != found


def test_codes_that_say_nothing_are_seen_to_say_nothing(finished_run, valid: ParallelText) -> None:
    """With equal vectors for all codes every kind of codes gives the same."""
    student = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    before = code_controls(student, valid, SEED)
    assert len({before[f"target_bits_{kind}.valid"] for kind in CODES}) > 1
    codebook = next(
        value
        for value in student.model.quantizer.buffers()
        if value.shape == (16, student.model.quantizer.dim)
    )
    codebook.copy_(codebook[:1].clone().expand_as(codebook))
    found = code_controls(student, valid, SEED)
    for kind in CODES:
        assert found[f"target_bits_{kind}.valid"] == found["target_bits_oracle.valid"]
    for key in ("bleu", "chrf"):
        equal = {found[f"{key}_{kind}.valid"] for kind in ("predicted", "random", "constant")}
        assert len(equal) == 1
