"""The plan of batches."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqnmt.data import batches as module
from vqnmt.data.batches import ParallelBatches, pad, plan_batches
from vqnmt.data.tokenized import TokenizedText
from vqnmt.errors import VqnmtError
from vqnmt.tokens import UNK


def texts(rows: list[int]) -> TokenizedText:
    """Sentences of these lengths, all tokens different."""
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return TokenizedText(np.arange(4, 4 + offsets[-1], dtype=np.int32), offsets)


pairs_of_lengths = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60
)


@settings(max_examples=60)
@given(lengths=pairs_of_lengths, budget=st.integers(1, 120), epoch=st.integers(0, 3))
def test_each_pair_stands_in_one_batch_within_the_budget(lengths, budget, epoch):
    source, target = np.array(lengths, dtype=np.int64).T
    plan = plan_batches(source, target, budget, 1, epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) > 0
        width = max(source[batch].max(), target[batch].max())
        assert width * len(batch) <= budget or len(batch) == 1


def test_the_plan_follows_from_seed_and_epoch():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 300), generator.integers(1, 9, 300)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan_batches(*lengths, 64, seed, epoch)]

    assert plan(1, 0) == plan(1, 0)
    for other in (plan(1, 1), plan(2, 0)):
        assert other != plan(1, 0)
        assert sorted(map(sorted, other)) != sorted(map(sorted, plan(1, 0)))  # not the order alone


def test_batches_are_of_similar_lengths_and_in_random_order():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 40, 2000)
    plan = plan_batches(lengths, lengths, 400, 1, 0)
    padding = sum(lengths[b].max() * len(b) - lengths[b].sum() for b in plan)
    assert padding < 0.05 * lengths.sum()
    means = np.array([lengths[b].mean() for b in plan])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_rows_are_padded_to_the_longest():
    found = pad([[1, 2], np.array([3], dtype=np.int32), []])
    assert found.dtype == torch.int64
    assert found.tolist() == [[1, 2], [3, 0], [0, 0]]
    assert pad([]).shape == (0, 0)


def test_parallel_batches_collate_what_they_plan():
    sources, targets = texts([3, 1, 4, 9, 2]), texts([2, 5, 1, 1, 2])
    batches = ParallelBatches(sources, targets, 8, seed=1, max_tokens=5)
    assert len(batches) == 4  # pair 3 has 9 tokens
    seen = []
    for indices in batches.plan(0):
        source, target = batches.collate(indices)
        assert source.shape[0] == target.shape[0] == len(indices)
        for row, index in enumerate(indices):
            seen.append(int(index))
            assert [t for t in source[row].tolist() if t] == sources[index].tolist()
            assert [t for t in target[row].tolist() if t] == targets[index].tolist()
    assert sorted(seen) == [0, 1, 2, 4]


def test_repeatable_pieces_follow_themselves_often_enough():
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, size=n % 9).tolist() for n in range(200)]
    rows += [[5], [], [5]]  # 5 again, but in the next sentence
    rows += [[6, 6], *[[6, 7]] * 200]  # 6 again, but too seldom
    tokens = np.concatenate([np.array(row, dtype=np.uint16) for row in rows])
    targets = TokenizedText(tokens, np.cumsum([0, *map(len, rows)]))
    again = Counter(a for row in rows for a, b in pairwise(row) if a == b)
    count = Counter(piece for row in rows for piece in row)
    expected = [again[piece] > 0 and again[piece] >= 0.01 * count[piece] for piece in range(10)]
    assert expected == [True] * 5 + [False] * 5 and again[6] == 1
    batches = ParallelBatches(targets, targets, 64, seed=0, max_tokens=16)
    assert batches.repeatable(10).tolist() == expected


def batches_of(targets: list[list[int]]) -> ParallelBatches:
    tokens = np.concatenate([np.array(row, dtype=np.uint16) for row in targets])
    text = TokenizedText(tokens, np.cumsum([0, *map(len, targets)]))
    return ParallelBatches(text, text, 64, seed=0, max_tokens=60_000)


def test_targets_are_made_of_the_first_pieces(monkeypatch):
    monkeypatch.setattr(module, "_TOKENS", 7)  # counted in many parts
    assert batches_of([[3]]).written == batches_of([[]]).written == UNK + 1
    assert batches_of([[9, 4], [], [6]]).written == 10


def test_stray_pieces_count_as_unknown():
    few = batches_of([[5] * 49_998, [12, 20]])  # two in 50,000
    assert few.written == 13
    source, target = few.collate(np.array([1]))
    assert source.tolist() == [[12, 20]] and target.tolist() == [[12, UNK]]
    assert batches_of([[5] * 49_997, [12, 20]]).written == 21


def test_no_pair_within_the_limit_is_an_error():
    with pytest.raises(VqnmtError, match=r"max_train_tokens is 2.*shortest of 2 pairs has 3"):
        ParallelBatches(texts([3, 4]), texts([1, 5]), 8, seed=1, max_tokens=2)
