"""CTC against the enumeration of all alignments, cross-entropy against NumPy."""

import itertools

import numpy as np
import pytest
import torch

from vqnmt.models.outputs import OUTPUTS, CrossEntropy, Ctc, Output, own_classes, read
from vqnmt.models.shared import append_eos, length_limits
from vqnmt.tokens import EOS, PAD

VOCABULARY, DIM = 5, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def collapse(path: tuple[int, ...], never_twice: tuple[int, ...] = ()) -> list[int]:
    merged = [t for i, t in enumerate(path) if i == 0 or t != path[i - 1]]
    words = [t for t in merged if t != PAD]
    return [t for i, t in enumerate(words) if i == 0 or t != words[i - 1] or t not in never_twice]


def enumerated_nll(logits: torch.Tensor, target: list[int]) -> torch.Tensor:
    """-log of the sum over all alignments; `logits` (P, V)."""
    log_p = logits.log_softmax(-1)
    paths = [
        log_p[range(len(path)), list(path)].sum()
        for path in itertools.product(range(logits.shape[1]), repeat=len(logits))
        if collapse(path) == target
    ]
    return -torch.stack(paths).logsumexp(0) if paths else logits.sum() * 0


def translated(
    output: Output, best: torch.Tensor, mask: torch.Tensor, never_twice: tuple[int, ...] = ()
) -> list[list[int]]:
    repeatable = torch.ones(10).bool()
    repeatable[list(never_twice)] = False
    return read(best, output.starts(best, mask, repeatable))


def lengths_mask(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


TARGETS = torch.tensor(
    [
        [3, 4, PAD],
        [4, 4, PAD],  # a repeat needs a blank between
        [3, 1, 3],  # a token that comes back
        [2, PAD, PAD],
        [3, 3, 3],  # needs 5 positions, has 4: no alignment
        [PAD, PAD, PAD],  # all blanks
    ]
)
POSITIONS = (4, 4, 4, 2, 4, 3)


def test_ctc_loss_and_gradient_are_those_of_all_alignments():
    weight = torch.randn(VOCABULARY, DIM, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(len(TARGETS), 4, DIM, dtype=torch.float64, requires_grad=True)
    loss, tokens = Ctc().loss(weight, hidden, lengths_mask(*POSITIONS), TARGETS)
    found = torch.autograd.grad(loss, [weight, hidden])
    rows = [
        enumerated_nll(hidden[i, :p] @ weight.T, [t for t in TARGETS[i].tolist() if t != PAD])
        for i, p in enumerate(POSITIONS)
    ]
    assert rows[4] == 0 and all(row > 0 for i, row in enumerate(rows) if i != 4)
    expected = torch.stack(rows).sum() / 11
    assert tokens == 2 + 2 + 3 + 1 + 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, torch.autograd.grad(expected, [weight, hidden]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_ctc_is_torchs_over_all_pieces():
    # A larger case than enumeration can reach.
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(1, 9, (4, 6), generator=generator)
    target[1, 4:] = target[3, 2:] = PAD
    positions = torch.tensor([16, 12, 14, 8])
    mask = torch.arange(16) < positions[:, None]
    weight = torch.randn(9, DIM, requires_grad=True)
    hidden = torch.randn(4, 16, DIM, requires_grad=True)
    loss, tokens = Ctc().loss(weight, hidden, mask, target)
    lengths = (target != PAD).sum(1)
    expected = torch.nn.functional.ctc_loss(
        (hidden @ weight.T).log_softmax(-1).transpose(0, 1),
        target,
        positions,
        lengths,
        blank=PAD,
        reduction="sum",
    ) / int(lengths.sum())
    assert tokens == int(lengths.sum())
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, [weight, hidden]),
        torch.autograd.grad(expected, [weight, hidden]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_ctc_ignores_masked_positions():
    weight, hidden = torch.randn(VOCABULARY, DIM), torch.randn(6, 4, DIM)
    mask = lengths_mask(*POSITIONS)
    loss, _ = Ctc().loss(weight, hidden, mask, TARGETS)
    other, _ = Ctc().loss(weight, hidden.masked_fill(~mask[..., None], 30.0), mask, TARGETS)
    torch.testing.assert_close(loss, other)


@pytest.mark.parametrize("name", ["ctc", "cross_entropy"])
def test_loss_of_a_batch_is_the_token_weighted_mean(name):
    output, weight = OUTPUTS[name](), torch.randn(VOCABULARY, DIM)
    hidden, mask = torch.randn(6, 4, DIM), lengths_mask(*POSITIONS)
    loss, tokens = output.loss(weight, hidden, mask, TARGETS)
    total, count = 0.0, 0
    for i in range(5):  # each by itself, without its padding
        row, width = TARGETS[i : i + 1], int((TARGETS[i] != PAD).sum())
        end = POSITIONS[i] if name == "ctc" else 4
        one, n = output.loss(weight, hidden[i : i + 1, :end], mask[i : i + 1, :end], row[:, :width])
        total, count = total + one.item() * n, count + n
    if name == "ctc":  # the empty target: no token, but all its positions must be blank
        total += enumerated_nll(hidden[5, :3] @ weight.T, []).item()
    else:
        total += -(hidden[5, 0] @ weight.T).log_softmax(-1)[EOS].item()
        count += 1
    assert tokens == count
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("length", [0, 2])
def test_ctc_loss_of_targets_without_pieces_is_that_of_blanks(length):
    weight, hidden = torch.randn(VOCABULARY, DIM), torch.randn(2, 4, DIM, requires_grad=True)
    loss, tokens = Ctc().loss(weight, hidden, lengths_mask(4, 2), torch.full((2, length), PAD))
    blanks = -(hidden @ weight.T).log_softmax(-1)[..., PAD]  # (2, 4)
    expected = blanks[0].sum() + blanks[1, :2].sum()
    assert tokens == 1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(*(torch.autograd.grad(x, hidden) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_own_classes_renumber_within_the_sentence():
    tokens, classes = own_classes(torch.tensor([[7, 9, 7, 7], [4, 4, PAD, PAD]]))
    assert tokens.tolist() == [[PAD, 7, 9, 7, 7], [PAD, 4, 4, PAD, PAD]]
    assert classes.tolist() == [[1, 2, 1, 1], [1, 1, 0, 0]]


def test_ctc_reads_repeats_once_and_no_blanks():
    best = torch.tensor([[5, 5, 0, 5, 6, 6], [0, 7, 7, 0, 9, 9], [0, 0, 0, 0, 0, 0], [1] * 6])
    mask = lengths_mask(6, 4, 6, 0)
    mask = torch.nn.functional.pad(mask, (0, 6 - mask.shape[1]))
    assert translated(Ctc(), best, mask) == [[5, 5, 6], [7], [], []]
    for path in itertools.product(range(3), repeat=4):
        assert translated(Ctc(), torch.tensor([path]), torch.ones(1, 4).bool()) == [collapse(path)]


@pytest.mark.parametrize("never_twice", [(1,), (2,), (1, 2)])
def test_ctc_reads_what_may_not_stand_twice_once_across_blanks(never_twice):
    paths = torch.tensor(list(itertools.product(range(3), repeat=6)))
    found = translated(Ctc(), paths, torch.ones(paths.shape).bool(), never_twice)
    assert found == [collapse(tuple(path), never_twice) for path in paths.tolist()]
    assert collapse((1, 0, 1, 2, 0, 2), (1,)) == [1, 2, 2]


def test_cross_entropy_keeps_repeats():
    best = torch.tensor([[5, 5, 6, EOS]])
    assert translated(CrossEntropy(), best, best > 0, (5, 6)) == [[5, 5, 6]]


def test_cross_entropy_is_numpys():
    weight, hidden = torch.randn(VOCABULARY, DIM), torch.randn(2, 4, DIM)
    target = torch.tensor([[3, 4, 1], [4, PAD, PAD]])
    loss, tokens = CrossEntropy().loss(weight, hidden, torch.ones(2, 4).bool(), target)
    scores = hidden.numpy() @ weight.numpy().T
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = [log_p[0, i, t] for i, t in enumerate([3, 4, 1, EOS])]
    expected += [log_p[1, i, t] for i, t in enumerate([4, EOS])]
    assert tokens == 6
    assert loss.item() == pytest.approx(-np.mean(expected), rel=1e-5)


def test_cross_entropy_reads_up_to_the_first_end():
    best = torch.tensor([[5, EOS, 6, EOS], [EOS, 5, 5, 5], [5, 5, 7, 8], [5, 6, EOS, 8]])
    mask = lengths_mask(4, 4, 4, 2)
    assert translated(CrossEntropy(), best, mask) == [[5], [], [5, 5, 7, 8], [5, 6]]


def test_labels_carry_the_end_where_positions_are_fixed():
    target = torch.tensor([[5, 6], [7, PAD]])
    assert CrossEntropy().labels(target).tolist() == [[5, 6, EOS], [7, EOS, PAD]]
    assert Ctc().labels(target) is target


def test_append_eos_stands_behind_the_last_token():
    rows = torch.tensor([[5, 6, 7], [8, PAD, PAD], [PAD, PAD, PAD]])
    expected = [[5, 6, 7, EOS], [8, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]
    assert append_eos(rows).tolist() == expected
    assert append_eos(torch.zeros(2, 0, dtype=torch.long)).tolist() == [[EOS], [EOS]]


def test_length_limits_do_not_count_padding():
    assert length_limits(torch.tensor([[5, 6, PAD], [5, 5, 5]])).tolist() == [14, 16]
