"""Rescoring against the cached steps of the search and against one candidate at a time."""

import pytest
import torch

from tests.models.searching import generate
from vqnmt.layers import TransformerConfig
from vqnmt.models import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.tokens import BOS, EOS, PAD, UNK
from vqnmt.translate.rescoring import score_targets

SIZE = TransformerConfig(dim=16, feedforward=24, heads=2, dropout=0.0)
SOURCES = [[5, 6, 7], [8, 4], [9]]
TARGETS = [[[4, 5], [], [6, 6, 6, 7]], [], [[11]]]


@pytest.fixture
def model() -> AutoregressiveTransformer:
    torch.manual_seed(0)
    config = AutoregressiveConfig(transformer=SIZE, encoder_layers=1, decoder_layers=2)
    return AutoregressiveTransformer(config, 12).eval()


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def by_steps(model: AutoregressiveTransformer, source: list[int], target: list[int]) -> float:
    """Sum the log-probabilities of cached single steps over the pieces that may stand there."""
    state = model.decoder.start(*model.encode(torch.tensor([source])))
    total, last = 0.0, BOS
    for token in [*target, EOS]:
        logits = model.step(torch.tensor([last]), state)[0]
        logits[[PAD, BOS]] = -torch.inf
        label = token if token < model.embedding.written else UNK
        total += logits.log_softmax(-1)[label].item()
        last = label
    return total


@pytest.mark.parametrize("written", [12, 7])
def test_scores_are_those_of_single_steps(model, written):
    model.embedding.written = written
    found = score_targets(model, padded(SOURCES), TARGETS)
    assert [len(row) for row in found] == [3, 0, 1]
    for source, candidates, scores in zip(SOURCES, TARGETS, found, strict=True):
        for target, score in zip(candidates, scores, strict=True):
            assert score == pytest.approx(by_steps(model, source, target), rel=1e-4)


def test_a_sentence_alone_scores_as_in_a_batch(model):
    together = score_targets(model, padded(SOURCES), TARGETS)
    for source, candidates, scores in zip(SOURCES, TARGETS, together, strict=True):
        assert score_targets(model, torch.tensor([source]), [candidates])[0] == pytest.approx(
            scores, rel=1e-4
        )


def test_the_search_and_the_rescorer_agree_on_what_has_ended(model):
    with torch.no_grad():
        model.embedding.weight[EOS] *= 3  # most sequences end before their limit
    source = padded([[4 + (i * j) % 8 for j in range(1, 1 + i)] for i in range(1, 9)])
    ended = 0
    for beam in (1, 3):
        hypotheses = generate(model, source, beam)
        scores = score_targets(model, source, [[h.symbols] for h in hypotheses])
        for row, hypothesis, (score,) in zip(source, hypotheses, scores, strict=True):
            if len(hypothesis.symbols) < 2 * int((row != PAD).sum()) + 10:
                assert score == pytest.approx(hypothesis.log_probability, rel=1e-4)
                ended += 1
    assert ended > 4


def test_many_positions_are_scored_in_parts(model, monkeypatch):
    whole = score_targets(model, padded(SOURCES), TARGETS)
    monkeypatch.setattr("vqnmt.translate.rescoring._POSITIONS", 2)
    parts = score_targets(model, padded(SOURCES), TARGETS)
    assert [x for row in parts for x in row] == pytest.approx([x for row in whole for x in row])


def test_no_candidates_no_scores(model):
    assert score_targets(model, padded(SOURCES), [[], [], []]) == [[], [], []]
