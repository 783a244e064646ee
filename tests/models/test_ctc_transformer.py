"""The parallel Transformer without codes: alignments against enumeration, what it learns."""

import itertools
import math

import pytest
import torch

from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.models import CtcConfig, CtcTransformer
from vqnmt.models.outputs import best_alignment
from vqnmt.tokens import PAD
from vqnmt.training.config import TrainingConfig
from vqnmt.training.optimizer import make_optimizer
from vqnmt.translate.generation import find_translations

VOCABULARY = 12


@pytest.fixture
def make_ctc(size):
    def make(**settings) -> CtcTransformer:
        defaults = {"transformer": size, "encoder_layers": 1, "decoder_layers": 2}
        torch.manual_seed(1)
        return CtcTransformer(CtcConfig(**(defaults | settings)), VOCABULARY)

    return make


# --- the best alignment ----------------------------------------------------------------------


def collapse(path: tuple[int, ...]) -> list[int]:
    return [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]


def test_the_best_alignment_is_that_of_enumeration():
    generator = torch.Generator().manual_seed(3)
    targets = [[1, 2], [1, 1], [2], [1, 2, 1], [], [1, 1, 1]]
    positions = [5, 5, 3, 4, 2, 4]  # the last has too few for its blanks
    scores = torch.randn(6, 5, 4, generator=generator)
    classes = torch.tensor([row + [0] * (3 - len(row)) for row in targets])
    mask = torch.arange(5) < torch.tensor(positions)[:, None]
    found, possible = best_alignment(scores, classes, mask)
    assert possible.tolist() == [True] * 5 + [False]
    for row, (target, count) in enumerate(zip(targets[:5], positions, strict=False)):
        allowed = [
            path for path in itertools.product(range(4), repeat=count) if collapse(path) == target
        ]
        best = max(allowed, key=lambda path: sum(scores[row, i, c] for i, c in enumerate(path)))
        assert found[row, :count].tolist() == list(best)
        assert not found[row, count:].any()


# --- positions -------------------------------------------------------------------------------


def test_each_source_token_and_the_end_get_their_share_of_positions(make_ctc):
    model = make_ctc(stretch=1.5).eval()
    source = torch.tensor([[5, 6, 7, 8], [5, PAD, PAD, PAD]])
    positions, mask = model.stretch(*model.encode(source))
    assert mask.sum(dim=1).tolist() == [math.ceil(1.5 * 5), math.ceil(1.5 * 2)]
    assert positions.shape[:2] == mask.shape
    best, starts, scores = model.best_pieces(*model.encode(source))
    assert best.shape == starts.shape == (2, 16) and scores.shape == (2,)
    assert not starts[1, 6:].any()


def test_padding_changes_nothing(make_ctc):
    model = make_ctc().eval()
    alone = find_translations(model, torch.tensor([[5, 6]]), SearchSettings())
    beside = find_translations(model, torch.tensor([[5, 6, 0, 0], [7, 8, 9, 4]]), SearchSettings())
    assert alone[0][0].symbols == beside[0][0].symbols
    assert alone[0][0].log_probability == pytest.approx(beside[0][0].log_probability, abs=1e-4)


def test_the_score_is_the_probability_of_the_best_path(make_ctc):
    model = make_ctc().eval()
    memory, mask = model.encode(torch.tensor([[5, 6, 7]]))
    logits, _ = model._piece_logits(memory, mask)
    expected = logits.log_softmax(dim=-1).max(dim=-1).values.sum()
    assert model.best_pieces(memory, mask)[2].item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stretch": 0.1}, "student.stretch is 0.1; it must be from 0.5 to 10"),
        ({"upsampling": 1}, "student.upsampling is 1; it must be from 2 to 10"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(VqnmtError, match=message):
        CtcConfig(**settings)


# --- training --------------------------------------------------------------------------------


@pytest.mark.parametrize("glancing", [False, True])
def test_it_learns_to_translate_a_toy_language(make_ctc, glancing):
    model = make_ctc(glancing=glancing).train()
    source = torch.tensor([[4, 5, 6, 7], [7, 6, 5, PAD], [5, 7, 4, 6], [6, 4, PAD, PAD]])
    target = torch.where(source == PAD, PAD, source + 4)  # each token has one translation
    config = TrainingConfig(steps=120, learning_rate=0.01, warmup=10)
    optimizer = make_optimizer(model, config, bf16=False)
    for step in range(config.steps):
        model.set_progress(step / config.steps)
        optimizer.zero_grad()
        model(source, target).total.backward()
        optimizer.step()
    found = find_translations(model.eval(), source, SearchSettings())
    assert [row[0].symbols for row in found] == [
        [token for token in row if token != PAD] for row in target.tolist()
    ]


def test_glancing_shows_tokens_only_where_the_decoder_is_wrong(make_ctc):
    model = make_ctc(glancing=True).train()
    source, target = torch.tensor([[4, 5, 6, 7]] * 400), torch.tensor([[8, 9, 10, 11]] * 400)
    memory, memory_mask = model.encode(source)
    positions, mask = model.stretch(memory, memory_mask)
    state = model.decoder.start(memory, memory_mask)
    _, wrong = model._wrong(positions, mask, state, target)
    shown = (model._show(positions, mask, state, target) != positions).any(dim=2)
    assert wrong.any() and not shown[~mask].any()
    # Two passes differ in dropout, which moves the number of wrong positions a little.
    assert shown.float().mean() == pytest.approx(0.5 * wrong.float().mean().item(), rel=0.1)
    model.set_progress(1.0)
    shown = (model._show(positions, mask, state, target) != positions).any(dim=2)
    assert shown.float().mean() == pytest.approx(0.3 * wrong.float().mean().item(), rel=0.1)


def test_a_target_that_does_not_fit_shows_nothing(make_ctc):
    model = make_ctc(glancing=True).train()
    memory, memory_mask = model.encode(torch.tensor([[4]]))
    positions, mask = model.stretch(memory, memory_mask)
    state = model.decoder.start(memory, memory_mask)
    shown = model._show(positions, mask, state, torch.tensor([[8] * 9]))
    assert torch.equal(shown, positions)
    assert model(torch.tensor([[4]]), torch.tensor([[8] * 9])).total.isfinite()
