"""The Transformer layers against torch.nn's own, and under padding, caching and reordering."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.layers import Decoder, Encoder, TransformerConfig
from vqnmt.layers.transformer import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    Positions,
    attention_mask,
    sinusoids,
)

CONFIG = TransformerConfig(dim=8, feedforward=12, heads=2, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def lengths_mask(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    weights = {
        "in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
        "in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]),
        "out_proj.weight": ours.output.weight,
        "out_proj.bias": ours.output.bias,
    }
    theirs.load_state_dict(weights)


def copy_pairs(*pairs: tuple[nn.Module, nn.Module]) -> None:
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, r"^transformer\.heads is 3, which does not divide transformer\.dim=8"),
        ({"heads": 0}, r"^transformer\.heads is 0; it must be 1 or more"),
        ({"dim": -8}, r"^transformer\.dim is -8; it must be 1 or more"),
        ({"dim": 9, "heads": 3}, r"^transformer\.dim is 9; it must be even"),
        ({"feedforward": 0}, r"^transformer\.feedforward is 0; it must be 1 or more"),
        ({"dropout": 1.0}, r"^transformer\.dropout is 1\.0; it must be 0 or more and below 1"),
        ({"dropout": -0.1}, r"^transformer\.dropout is -0\.1"),
        ({"dropout": float("nan")}, r"^transformer\.dropout is nan"),
    ],
)
def test_a_size_that_cannot_be_is_named(settings, message):
    with pytest.raises(VqnmtError, match=message):
        TransformerConfig(**({"dim": 8, "heads": 2} | settings))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_multi_head_attention(heads):
    ours = Attention(TransformerConfig(dim=8, heads=heads, dropout=0.0))
    theirs = nn.MultiheadAttention(8, heads, batch_first=True)
    copy_attention(ours, theirs)
    x, memory, mask = torch.randn(2, 3, 8), torch.randn(2, 5, 8), lengths_mask(5, 2)
    expected, _ = theirs(x, memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, *ours.project(memory), attention_mask(mask)), expected)


def test_causal_attention_is_multi_head_attention_under_a_triangle():
    ours, theirs = Attention(CONFIG), nn.MultiheadAttention(8, 2, batch_first=True)
    copy_attention(ours, theirs)
    x = torch.randn(2, 5, 8)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=later)
    torch.testing.assert_close(ours(x, *ours.project(x), None, causal=True), expected)


def test_encoder_layer_is_torchs_pre_norm_layer():
    ours = EncoderLayer(CONFIG)
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
    copy_attention(ours.attention, theirs.self_attn)
    copy_pairs(
        (ours.attention_norm, theirs.norm1),
        (ours.feedforward_norm, theirs.norm2),
        (ours.feedforward.inner, theirs.linear1),
        (ours.feedforward.outer, theirs.linear2),
    )
    x, mask = torch.randn(2, 5, 8), lengths_mask(3, 5)
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, attention_mask(mask))[mask], expected[mask])


@pytest.mark.parametrize("causal", [False, True])
def test_decoder_layer_is_torchs_pre_norm_layer(causal):
    ours = DecoderLayer(CONFIG)
    theirs = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
    copy_attention(ours.self_attention, theirs.self_attn)
    copy_attention(ours.source_attention, theirs.multihead_attn)
    copy_pairs(
        (ours.self_norm, theirs.norm1),
        (ours.source_norm, theirs.norm2),
        (ours.feedforward_norm, theirs.norm3),
        (ours.feedforward.inner, theirs.linear1),
        (ours.feedforward.outer, theirs.linear2),
    )
    x, memory, memory_mask = torch.randn(2, 4, 8), torch.randn(2, 5, 8), lengths_mask(3, 5)
    later = torch.ones(4, 4, dtype=torch.bool).triu(1) if causal else None
    expected = theirs(x, memory, tgt_mask=later, memory_key_padding_mask=~memory_mask)
    projected = ours.source_attention.project(memory)
    found, _ = ours(x, projected, attention_mask(memory_mask), None, causal, None)
    torch.testing.assert_close(found, expected)


def test_positions_are_the_papers_sinusoids():
    table = sinusoids(7, 6).numpy()
    for position in range(7):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[position, 3 + i] == pytest.approx(np.cos(angle), abs=1e-6)


def test_positions_grow_as_needed_and_are_not_saved():
    positions = Positions(CONFIG)
    x = torch.zeros(1, 1300, 8)
    torch.testing.assert_close(positions(x)[0], sinusoids(1300, 8))
    torch.testing.assert_close(positions(x[:, :2], start=1500)[0], sinusoids(1502, 8)[1500:])
    assert not positions.state_dict()


def test_positions_grow_in_several_threads_at_once(monkeypatch):
    """The shorter text's thread puts its table in the place of the longer one's, just made."""
    positions, found = Positions(CONFIG), {}
    shorter_grows, longer_has_grown = threading.Event(), threading.Event()

    def grow(length: int, dim: int) -> torch.Tensor:
        if length == 1024:
            shorter_grows.set()
            assert longer_has_grown.wait(10)
        return sinusoids(length, dim)

    def replace(self: Positions, name: str, value: object) -> None:
        nn.Module.__setattr__(self, name, value)
        if name == "table" and len(self.table) == 2048:
            longer_has_grown.set()
            shorter.join()

    monkeypatch.setattr("vqnmt.layers.transformer.sinusoids", grow)
    monkeypatch.setattr(Positions, "__setattr__", replace)

    def read(length: int) -> None:
        found[length] = positions(torch.zeros(1, length, 8))[0]

    shorter = threading.Thread(target=read, args=(600,))
    shorter.start()
    assert shorter_grows.wait(10)
    read(1300)
    for length, value in found.items():
        torch.testing.assert_close(value, sinusoids(length, 8))
    assert sorted(found) == [600, 1300]


def test_positions_that_grew_while_translating_can_be_trained():
    positions = Positions(CONFIG)
    with torch.inference_mode():
        positions(torch.zeros(1, 600, 8))
    x = torch.zeros(1, 600, 8, requires_grad=True)
    positions(x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_encoder_output_does_not_depend_on_padding():
    encoder, mask = Encoder(CONFIG, 2).eval(), lengths_mask(3, 6, 1)
    x = torch.randn(3, 6, 8)
    together = encoder(x, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = encoder(x[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0])
    torch.testing.assert_close(
        encoder(x.masked_fill(~mask[..., None], 1e4), mask)[mask], together[mask]
    )


@pytest.mark.parametrize("causal", [False, True])
def test_decoder_output_does_not_depend_on_padding(causal):
    decoder = Decoder(CONFIG, 2).eval()
    mask, memory_mask = lengths_mask(2, 5, 4), lengths_mask(4, 1, 6)
    x, memory = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    together = decoder(x, decoder.start(memory, memory_mask), mask, causal)
    sizes = zip(mask.sum(1).tolist(), memory_mask.sum(1).tolist(), strict=True)
    for row, (length, width) in enumerate(sizes):
        one = slice(row, row + 1)
        state = decoder.start(memory[one, :width], memory_mask[one, :width])
        alone = decoder(x[one, :length], state, mask[one, :length], causal)
        torch.testing.assert_close(together[row, :length], alone[0])


def test_causal_decoder_does_not_see_later_positions_and_the_other_does():
    decoder = Decoder(CONFIG, 2).eval()
    state = decoder.start(torch.randn(2, 3, 8), lengths_mask(3, 2))
    x = torch.randn(2, 5, 8)
    changed = torch.cat([x[:, :3], torch.randn(2, 2, 8)], 1)
    mask = lengths_mask(5, 5)
    before, after = (decoder(v, state, mask, True) for v in (x, changed))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    before, after = (decoder(v, state, mask, False) for v in (x, changed))
    assert (before[:, :3] - after[:, :3]).abs().max() > 1e-3


def test_cached_steps_are_the_causal_forward():
    decoder = Decoder(CONFIG, 3).eval()
    memory, memory_mask, x = torch.randn(3, 4, 8), lengths_mask(4, 2, 1), torch.randn(3, 6, 8)
    expected = decoder(x, decoder.start(memory, memory_mask), None, True)
    state = decoder.start(memory, memory_mask)
    found = torch.stack([decoder.step(x[:, i], state) for i in range(6)], 1)
    torch.testing.assert_close(found, expected)
    assert state.step == 6


def test_select_keeps_rows_and_reorder_moves_their_caches():
    decoder = Decoder(CONFIG, 2).eval()
    memory, memory_mask, x = torch.randn(3, 4, 8), lengths_mask(4, 2, 3), torch.randn(3, 4, 8)
    state = decoder.start(memory, memory_mask)
    decoder.step(x[:, 0], state)
    rows = torch.tensor([2, 0, 0])
    state.select(rows)
    decoder.step(x[rows, 1], state)  # rows now: sentences 2, 0, 0
    found = decoder.step(torch.stack([x[2, 2], x[0, 2], x[1, 2]]), state)
    full = torch.stack([x[2, :3], x[0, :3], torch.stack([x[0, 0], x[0, 1], x[1, 2]])])
    expected = decoder(full, decoder.start(memory[rows], memory_mask[rows]), None, True)[:, 2]
    torch.testing.assert_close(found, expected)
    # Swap the two hypotheses of sentence 0: their pasts follow.
    state.reorder(torch.tensor([0, 2, 1]))
    found = decoder.step(x[rows, 3], state)
    full = torch.cat([full[[0, 2, 1]], x[rows, 3:4]], 1)
    expected = decoder(full, decoder.start(memory[rows], memory_mask[rows]), None, True)[:, 3]
    torch.testing.assert_close(found, expected)


def test_hypotheses_of_a_source_attend_to_it_as_to_copies():
    decoder = Decoder(CONFIG, 2).eval()
    memory, memory_mask, x = torch.randn(3, 4, 8), lengths_mask(4, 2, 3), torch.randn(6, 3, 8)
    state = decoder.start(memory, memory_mask)
    state.expand(2)
    twice = torch.arange(3).repeat_interleave(2)  # the source of each row
    expected = decoder(x, decoder.start(memory[twice], memory_mask[twice]), None, True)
    torch.testing.assert_close(decoder.step(x[:, 0], state), expected[:, 0])
    # The first source is done; the hypotheses of the last one change places.
    rows = torch.tensor([2, 3, 5, 4])
    state.select(rows)
    found = torch.stack([decoder.step(x[rows, i], state) for i in (1, 2)], 1)
    torch.testing.assert_close(found, expected[rows, 1:])


def test_forward_leaves_the_state_as_it_was():
    decoder = Decoder(CONFIG, 1).eval()
    state = decoder.start(torch.randn(2, 3, 8), lengths_mask(3, 2))
    decoder(torch.randn(2, 4, 8), state, None, True)
    assert state.step == 0 and state.cache == [None]


def test_a_sequence_of_padding_only_gives_no_nan():
    encoder, mask = Encoder(CONFIG, 1).eval(), torch.tensor([[True, True], [False, False]])
    x = torch.randn(2, 2, 8, requires_grad=True)
    out = encoder(x, mask)
    out[0].sum().backward()
    assert out[0].isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
