"""The output is over the pieces that may be written, and nothing else changes."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.searching import generate
from vqnmt.models import FertilityConfig, FertilityTransformer
from vqnmt.models.shared import TiedEmbedding
from vqnmt.tokens import BOS, PAD, UNK

WRITTEN, VOCABULARY = 7, 12


@pytest.fixture(params=["autoregressive", "latent", "cross_entropy", "fertility"])
def model(request, make_autoregressive, make_latent, size):
    if request.param == "autoregressive":
        return make_autoregressive().eval()
    if request.param == "fertility":
        config = FertilityConfig(transformer=size, encoder_layers=1, decoder_layers=1)
        return FertilityTransformer(config, VOCABULARY).eval()
    return make_latent(output="ctc" if request.param == "latent" else request.param).eval()


def test_rows_have_norm_one_and_lookups_unit_variance():
    embedding = TiedEmbedding(2000, 64)
    assert embedding.weight[1:].norm(dim=1).mean().item() == pytest.approx(1.0, abs=0.01)
    found = embedding(torch.arange(1, 2000))
    torch.testing.assert_close(found, embedding.weight[1:] * 8)
    assert found.var().item() == pytest.approx(1.0, abs=0.02)
    assert not embedding(torch.tensor(PAD)).any()


def test_scores_are_the_first_of_all_scores():
    embedding, hidden = TiedEmbedding(VOCABULARY, 16), torch.randn(3, 5, 16)
    every = F.linear(hidden, embedding.weight)
    torch.testing.assert_close(embedding.logits(hidden), every)
    embedding.written = WRITTEN
    torch.testing.assert_close(embedding.logits(hidden), every[..., :WRITTEN])


def written(model) -> set[int]:
    source = torch.randint(4, VOCABULARY, (40, 6), generator=torch.Generator().manual_seed(1))
    found = generate(model, source)
    return {t for one in found for t in getattr(one, "tokens", None) or getattr(one, "symbols", [])}


def test_no_other_piece_is_written(model):
    assert max(written(model)) >= WRITTEN
    model.embedding.written = WRITTEN
    assert 3 < max(written(model)) < WRITTEN


def test_the_search_compares_the_pieces_that_may_be_written(make_autoregressive):
    model = make_autoregressive().eval()
    state = [model.decoder.start(*model.encode(torch.tensor([[5, 9]]))) for _ in range(2)]
    every = model.step(torch.tensor([BOS]), state[0])
    model.embedding.written = WRITTEN
    torch.testing.assert_close(model.step(torch.tensor([BOS]), state[1]), every[:, :WRITTEN])


@pytest.mark.parametrize("training", [False, True])
def test_a_piece_that_may_not_be_written_counts_as_the_unknown_one(model, training):
    # With UNK's vector for those pieces, all that reads them reads UNK, too.
    if isinstance(model, FertilityTransformer):
        model.align = lambda source, target: torch.zeros_like(target)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    embedding = model.train(training).embedding
    embedding.written = WRITTEN
    embedding.weight.data[WRITTEN:] = embedding.weight.data[UNK]
    source = torch.tensor([[4, 5, 6], [9, 4, 0]])
    target = torch.tensor([[11, 5, 7, 4], [WRITTEN, 0, 0, 0]])
    states = []
    for one in (target, torch.where(target < WRITTEN, target, UNK)):
        torch.manual_seed(1)
        losses = model(source, one)
        states.append({"total": losses.total, "tokens": losses.tokens, **losses.terms})
    assert states[0] == states[1]


@pytest.mark.parametrize("length", [0, 3])
def test_targets_without_pieces_have_a_loss_and_a_gradient(model, length):
    if isinstance(model, FertilityTransformer):
        model.align = lambda source, target: torch.zeros_like(target)
    target = torch.full((2, length), PAD)
    losses = model.train()(torch.tensor([[4, 5, 6], [9, 4, 0]]), target)
    losses.total.backward()
    assert losses.total > 0 and losses.tokens > 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
