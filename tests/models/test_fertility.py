"""The fertility NAT against copying and counting by hand, and what it learns."""

import numpy as np
import pytest
import torch

from tests.models.searching import generate
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.layers import TransformerConfig
from vqnmt.models import AutoregressiveTransformer, FertilityConfig, FertilityTransformer
from vqnmt.models.fertility import copies, count_fertilities
from vqnmt.models.shared import length_limits
from vqnmt.tokens import BOS, EOS, PAD
from vqnmt.training.config import TrainingConfig
from vqnmt.training.optimizer import make_optimizer
from vqnmt.translate.generation import find_translations

VOCABULARY = 12


@pytest.fixture
def make_fertility(size):
    def make(**settings) -> FertilityTransformer:
        defaults = {"transformer": size, "encoder_layers": 1, "decoder_layers": 2}
        return FertilityTransformer(FertilityConfig(**(defaults | settings)), VOCABULARY)

    return make


def in_order(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Align token i of the target with token i of the source, or its last."""
    last = (source != PAD).sum(dim=1, keepdim=True) - 1
    return torch.arange(target.shape[1]).expand(target.shape).minimum(last)


def real(row: torch.Tensor) -> list[int]:
    return [t for t in row.tolist() if t != PAD]


# --- copies and fertilities ------------------------------------------------------------------


def test_copies_are_those_of_numpy_repeat():
    fertilities = np.array([[0, 2, 1, 0], [3, 0, 0, 4], [1, 1, 1, 1], [0, 0, 5, 0]])
    index, mask = copies(torch.from_numpy(fertilities))
    assert index.shape == mask.shape == (4, 7)
    for row, chosen, kept in zip(fertilities, index, mask, strict=True):
        expected = np.repeat(np.arange(4), row).tolist()
        assert chosen[kept].tolist() == expected
        assert kept.tolist() == [i < len(expected) for i in range(7)]


def test_no_fertility_leaves_one_position():
    index, mask = copies(torch.tensor([[0, 0], [0, 2]]))
    assert index[0, 0] == 0 and mask.tolist() == [[True, False], [True, True]]


def test_fertilities_of_a_known_alignment():
    source = torch.tensor([[5, 6, 7], [8, 9, PAD]])
    target = torch.tensor([[4, 4, 6, 5], [7, 8, PAD, PAD]])
    alignment = torch.tensor([[2, 0, 2, 2], [1, 1, 0, 0]])  # the last two are of padding
    found = count_fertilities(alignment, source, target)
    assert found.tolist() == [[1, 0, 3], [0, 2, 0]]


# --- the teacher's alignment -----------------------------------------------------------------


@torch.no_grad()
def attended_by_hand(model: AutoregressiveTransformer, source: list[int], target: list[int]):
    """Attention of the first decoder layer over source tokens and end, head by head: (T, S + 1)."""
    layer, heads = model.decoder.layers[0], model.config.transformer.heads
    memory = model.encoder(model.embedding(torch.tensor([[*source, EOS]])), torch.ones(1, 1).bool())
    x = model.decoder.positions(model.embedding(torch.tensor([[BOS, *target[:-1]]])))
    normed = layer.self_norm(x)
    own = layer.self_attention.project(normed)
    x = x + layer.self_attention(normed, *own, None, True)
    attention = layer.source_attention
    queries = attention.query(layer.source_norm(x))[0].numpy()
    keys = attention.key_value(memory)[0].chunk(2, dim=-1)[0].numpy()
    weights = []
    for query, key in zip(
        np.split(queries, heads, axis=1), np.split(keys, heads, axis=1), strict=True
    ):
        powers = np.exp(query @ key.T / np.sqrt(query.shape[1]))
        weights.append(powers / powers.sum(axis=1, keepdims=True))
    return np.mean(weights, axis=0)


def test_alignment_is_the_token_most_attended(make_autoregressive, pairs):
    model = make_autoregressive(decoder_layers=1).eval()
    with torch.no_grad():  # far from uniform
        model.decoder.layers[0].source_attention.query.weight *= 8
    source, target = pairs
    found = model.align(source, target)
    assert found.shape == target.shape
    chosen = []
    for x, y, row in zip(source, target, found, strict=True):
        weights = attended_by_hand(model, real(x), real(y))
        assert row[: len(real(y))].tolist() == weights[:, :-1].argmax(axis=1).tolist()
        chosen += row[: len(real(y))].tolist()
    assert len(set(chosen)) > 2


def test_a_trained_teacher_aligns_what_it_translates(make_autoregressive):
    """Of sentences that are translated word by word from the end to the beginning."""
    size = TransformerConfig(dim=32, feedforward=64, heads=2, dropout=0.0)
    model = make_autoregressive(transformer=size, decoder_layers=1, label_smoothing=0.0)
    optimizer = make_optimizer(model, TrainingConfig(), bf16=False)
    for step in range(160):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / 160)
        source = torch.stack([torch.randperm(8)[:5] + 4 for _ in range(32)])
        optimizer.zero_grad()
        model(source, source.flip(1)).total.backward()
        optimizer.step()
    model.eval()
    found = model.align(source, source.flip(1))
    assert (found == torch.arange(4, -1, -1)).float().mean() > 0.9


# --- loss ------------------------------------------------------------------------------------


def test_loss_is_the_probability_of_fertilities_and_tokens(make_fertility, pairs):
    model = make_fertility(max_fertility=2).eval()  # longer runs count as 2
    model.align = in_order
    source, target = pairs
    losses = model(source, target)
    fertility = tokens = 0.0
    for x, y in zip(source, target, strict=True):
        x, y = torch.tensor([real(x)]), torch.tensor([real(y)])
        counts = np.bincount(in_order(x, y)[0].numpy(), minlength=x.shape[1])
        memory, mask = model.encode(x)
        log_p = model.fertility_log_probabilities(memory)[0]
        fertility -= sum(log_p[i, min(n, 2)].item() for i, n in enumerate(counts))
        state = model.decoder.start(memory, mask)
        states, _ = model.decode(x, torch.from_numpy(counts)[None], state)
        rows = model.log_probabilities(states[0])
        torch.testing.assert_close(rows.exp().sum(1), torch.ones(len(rows)))
        tokens -= sum(rows[i, t].item() for i, t in enumerate(y[0].tolist()))
    assert losses.tokens == int((target != PAD).sum())
    assert losses.terms["fertility"].item() * losses.tokens == pytest.approx(fertility, rel=1e-4)
    assert losses.terms["reconstruction"].item() * losses.tokens == pytest.approx(tokens, rel=1e-4)
    assert losses.total.item() * losses.tokens == pytest.approx(fertility + tokens, rel=1e-4)


def test_padding_does_not_change_the_loss(make_fertility, pairs):
    model = make_fertility().eval()
    model.align = in_order
    wider = [torch.nn.functional.pad(side, (0, 3)) for side in pairs]
    assert model(*wider).total.item() == pytest.approx(model(*pairs).total.item(), rel=1e-5)


def test_an_empty_target_costs_its_fertilities(make_fertility):
    model = make_fertility()
    model.align = in_order
    losses = model(torch.tensor([[5, 6]]), torch.tensor([[PAD]]))
    assert losses.terms["reconstruction"] == 0 and losses.total > 0
    losses.total.backward()


def test_many_positions_are_scored_in_parts(make_fertility, pairs, monkeypatch):
    model, (source, _) = make_fertility().eval(), pairs
    whole = generate(model, source)
    monkeypatch.setattr("vqnmt.models.fertility._POSITIONS", 2)
    for one, other in zip(whole, generate(model, source), strict=True):
        assert one.symbols == other.symbols
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)


# --- translation -----------------------------------------------------------------------------


def test_learns_eight_pairs_by_heart(make_fertility):
    size = TransformerConfig(dim=32, feedforward=64, heads=2, dropout=0.0)
    model = make_fertility(transformer=size, decoder_layers=1)
    model.align = in_order
    source, target = torch.randint(4, 12, (8, 5)), torch.randint(4, 12, (8, 6))
    source[1::2, 3:], target[::2, 4:] = PAD, PAD
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(120):
        optimizer.zero_grad()
        model(source, target).total.backward()
        optimizer.step()
    model.eval()
    found = generate(model, source)
    assert [hypothesis.symbols for hypothesis in found] == [real(row) for row in target]
    with torch.no_grad():
        likely = -model(source, target).total.item() * int((target != PAD).sum())
    assert sum(h.log_probability for h in found) == pytest.approx(likely, rel=1e-3)


def test_candidates_are_drawn_around_the_best(make_fertility, pairs):
    model, (source, _) = make_fertility(max_fertility=4).eval(), pairs
    found = find_translations(model, source, SearchSettings(candidates=20))
    best = generate(model, source)
    assert [len(row) for row in found] == [20] * 4
    for first, row in zip(best, found, strict=True):
        assert row[0].symbols == first.symbols
        assert row[0].log_probability == pytest.approx(first.log_probability, rel=1e-4)
    assert len({len(h.symbols) for h in found[0]}) > 3
    # Almost no temperature: nothing but the best is drawn.
    cold = find_translations(model, source, SearchSettings(candidates=5, temperature=1e-4))
    assert all(h.symbols == row[0].symbols for row in cold for h in row)


def test_a_sentence_alone_translates_as_in_a_batch(make_fertility, pairs):
    model, (source, _) = make_fertility().eval(), pairs
    for x, together in zip(source, generate(model, source), strict=True):
        alone = generate(model, torch.tensor([real(x)]))[0]
        assert alone.symbols == together.symbols
        assert alone.log_probability == pytest.approx(together.log_probability, rel=1e-4)


def test_length_has_a_limit(make_fertility, pairs):
    model, (source, _) = make_fertility().eval(), pairs
    with torch.no_grad():
        model.fertility.bias[50] += 100.0
    found = generate(model, source)
    assert [len(h.symbols) for h in found] == length_limits(source).tolist()


def test_positions_move_words(make_fertility):
    """Attention over positions reads the states of other positions, but takes none of padding."""
    layer = make_fertility().decoder.positional[0].eval()
    x, table = torch.randn(1, 4, 16), torch.randn(4, 16)
    moved = x.clone()
    moved[0, 3, :8] += 1.0
    mask = torch.tensor([True, True, True, False])[None, None, None]
    seen, hidden = (layer(x, table, m)[0, 0] for m in (None, mask))
    assert not torch.allclose(layer(moved, table, None)[0, 0], seen, atol=1e-4)
    assert torch.equal(layer(moved, table, mask)[0, 0], hidden)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(VqnmtError, match="max_fertility is 0"):
        FertilityConfig(max_fertility=0)
