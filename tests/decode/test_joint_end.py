"""Search where the last symbol says that it is the last, against enumeration and plain Python."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from tests.decode.test_search import Markov, step, table
from vqnmt.decode.search import Hypothesis, SearchSettings, find_candidates

K = 3
"""Symbols; K + s is s as the last, and K as an input the begin."""


def log_probabilities(table: Tensor, past: list[int]) -> Tensor:
    """(2K,) after `past` for `table` (steps, 2K, 2K), as `test_search.step` has them."""
    symbols = [0, K, *past]
    logits = table[len(past), symbols[-1]] + 0.7 * table[0, symbols[-2]]
    return logits.log_softmax(-1)


def enumerate_all(table: Tensor, limit: int, penalty: float) -> list[tuple[float, float, list]]:
    """Every sequence with its score and log-probability, the best first."""
    found = []
    for length in range(1, limit + 1):
        for sequence in itertools.product(range(K), repeat=length):
            symbols = [*sequence[:-1], sequence[-1] + K]
            total = sum(
                log_probabilities(table, symbols[:i])[symbol].item()
                for i, symbol in enumerate(symbols)
            )
            found.append((total / length**penalty, total, list(sequence)))
    return sorted(found, reverse=True)


def find(tables: Tensor, limits: list[int], **settings) -> list[list[Hypothesis]]:
    return find_candidates(
        step,
        Markov(tables),
        torch.tensor(limits),
        begin=K,
        end=K,
        settings=SearchSettings(**settings),
        joint=True,
    )


def run(tables: Tensor, limits: list[int], **settings) -> list[Hypothesis]:
    return [hypotheses[0] for hypotheses in find(tables, limits, **settings)]


def same(found: Hypothesis, symbols: list[int], total: float) -> None:
    assert found.symbols == symbols and not found.ended
    assert found.log_probability == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_all_sequences_finds_them_in_order(seed, penalty):
    tables, limits = table(sentences=3, vocabulary=2 * K, seed=seed), [3, 1, 4]
    found = find(tables, limits, candidates=130, length_penalty=penalty)
    for hypotheses, one, limit in zip(found, tables, limits, strict=True):
        expected = enumerate_all(one, limit, penalty)
        assert len(hypotheses) == len(expected) == sum(K**n for n in range(1, limit + 1))
        for hypothesis, (_, total, symbols) in zip(hypotheses, expected, strict=True):
            same(hypothesis, symbols, total)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_takes_the_best_symbol_of_each_step(seed):
    tables, limits = table(sentences=3, vocabulary=2 * K, seed=seed), [6, 1, 3]
    for hypothesis, one, limit in zip(run(tables, limits), tables, limits, strict=True):
        past: list[int] = []
        total = 0.0
        while not past or past[-1] < K:
            log_p = log_probabilities(one, past)
            if len(past) == limit - 1:  # it must end
                log_p[:K] = -torch.inf
            value, symbol = log_p.max(0)
            total += value.item()
            past.append(symbol.item())
        same(hypothesis, [symbol % K for symbol in past], total)


def plain_beam(table: Tensor, limit: int, beam: int) -> tuple[float, list[int]]:
    """Beam search in plain Python; returns log-probability and symbols."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, float, list[int]]] = []
    for length in range(1, limit + 1):
        grown = [
            (total + value, [*past, symbol])
            for total, past in alive
            for symbol, value in enumerate(log_probabilities(table, past).tolist())
            if symbol >= K or length < limit
        ]
        grown.sort(key=lambda c: -c[0])
        finished += [(t / length, t, s) for t, s in grown[:beam] if s[-1] >= K]
        alive = [c for c in grown if c[1][-1] < K][:beam]
        best = max((value for value, _, _ in finished), default=-math.inf)
        if not alive or (len(finished) >= beam and best >= alive[0][0] / length):
            break
    _, total, symbols = max(finished, key=lambda c: c[0])
    return total, [symbol % K for symbol in symbols]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("beam", [2, 4])
def test_a_narrow_beam_is_that_of_plain_python(seed, beam):
    limits = [6, 2, 5, 1]
    tables = table(sentences=4, vocabulary=2 * K, seed=seed)
    for hypothesis, one, limit in zip(run(tables, limits, beam=beam), tables, limits, strict=True):
        total, symbols = plain_beam(one, limit, beam)
        same(hypothesis, symbols, total)


def test_samples_come_as_often_as_their_probability_says():
    torch.manual_seed(0)
    tables, count = table(vocabulary=2 * K), 1000
    (drawn,) = find(tables, [6], candidates=count, temperature=1.0)
    found = Counter(tuple(one.symbols) for one in drawn)
    short = enumerate_all(tables[0], 2, 0.0)
    assert sum(found[tuple(symbols)] for *_, symbols in short) > count / 4
    for _, total, symbols in short:
        p = math.exp(total)
        assert abs(found[tuple(symbols)] / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-3
