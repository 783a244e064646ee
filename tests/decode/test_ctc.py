"""Prefix beam search against all alignments there are."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from vqnmt.decode.ctc import _PREFIXES, prefix_beam_search, read_likely
from vqnmt.decode.language_model import FusionWeights
from vqnmt.errors import VqnmtError

BLANK, BEGIN, END = 0, 1, 2  # as every vocabulary numbers them
PIECES = (0, 3, 4)


class Language:
    """A language model out of a table of random numbers."""

    size = 6

    def __init__(self, weight: float, bonus: float = 0.0) -> None:
        self.fusion, self.asked = FusionWeights(weight, piece_bonus=bonus), 0

    def log_probability(self, first: int, second: int, piece: int) -> float:
        self.asked += 1
        return -2 * random.Random(str((first, second, piece))).random()


def collapse(path: tuple[int, ...], repeatable: set[int]) -> tuple[int, ...]:
    """Read a path as `vqnmt.models.outputs.Ctc.starts` does, but one piece after the other."""
    read: list[int] = []
    for before, piece in itertools.pairwise((BLANK, *path)):
        if piece in (BLANK, before):
            continue
        if read and read[-1] == piece and piece not in repeatable:
            continue
        read.append(piece)
    return tuple(read)


def values(
    positions: list[list[tuple[int, float]]], weight: float, repeatable: set[int], bonus: float
) -> dict[tuple[int, ...], float]:
    """Sum over all paths, for every text that they spell; the highest value is the best."""
    language, total = Language(weight), Counter()
    for path in itertools.product(*positions):
        text = collapse(tuple(piece for piece, _ in path), repeatable)
        total[text] += math.exp(sum(score for _, score in path))

    def value(text: tuple[int, ...]) -> float:
        whole = (BEGIN, BEGIN, *text, END)
        log_p = [language.log_probability(*whole[i : i + 3]) for i in range(len(text) + 1)]
        return math.log(total[text]) + weight * sum(log_p) + bonus * len(text)

    return {text: value(text) for text in total}


def search(positions, weight, repeatable, bonus=0.0):
    likely = [[(piece, math.exp(score)) for piece, score in position] for position in positions]
    return prefix_beam_search(likely, Language(weight, bonus), repeatable, beam=1000)


def random_problem(seed: int) -> list[list[tuple[int, float]]]:
    """Six positions, each with one to three likely pieces."""
    generator = random.Random(seed)
    return [
        [(piece, -3 * generator.random()) for piece in generator.sample(PIECES, count)]
        for count in (generator.choice([1, 2, 3, 3]) for _ in range(6))
    ]


@pytest.mark.parametrize("repeatable", [set(), {3}, {3, 4}])
@pytest.mark.parametrize(("weight", "bonus"), [(0.0, 0.0), (0.7, 0.0), (0.7, 0.9)])
@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_best_of_all_texts(
    seed, weight, bonus, repeatable, monkeypatch
) -> None:
    monkeypatch.setattr("vqnmt.decode.ctc._TOO_FAR", math.inf)
    positions = random_problem(seed)
    tokens, places = search(positions, weight, repeatable, bonus)
    every = values(positions, weight, repeatable, bonus)
    assert tuple(tokens) == max(every, key=lambda text: every[text])
    assert places == sorted(set(places)) and len(places) == len(tokens)
    for token, place in zip(tokens, places, strict=True):
        assert token in [piece for piece, _ in positions[place]]


def test_how_often_a_narrow_beam_misses_the_best_of_all_texts() -> None:
    """The figures of docs/training.md; 4 is the default."""
    assert _PREFIXES == 4
    misses, lost = Counter[int](), 0.0
    for seed in range(400):
        positions = random_problem(seed)
        every = values(positions, 0.5, {3}, 0.5)
        likely = [[(piece, math.exp(score)) for piece, score in position] for position in positions]
        for beam in (1, 4, 8):
            tokens, _ = prefix_beam_search(likely, Language(0.5, 0.5), {3}, beam)
            behind = max(every.values()) - every[tuple(tokens)]
            misses[beam] += behind > 1e-9
            lost += behind * (beam == 4)
    assert misses == {1: 158, 4: 16, 8: 1}
    assert lost / misses[4] == pytest.approx(0.134, abs=0.001)  # nats


def test_the_language_model_decides_between_readings() -> None:
    positions = [[(3, 0.0), (4, -0.1)], [(0, 0.0)], [(3, 0.0), (4, -0.1)]]
    found = {tuple(search(positions, weight, {3, 4})[0]) for weight in (0.0, 5.0)}
    assert len(found) == 2 and (3, 3) in found
    assert search([], 1.0, set()) == ([], [])
    assert search([[(0, 0.0)]] * 3, 1.0, set()) == ([], [])


def test_a_narrow_beam_asks_the_language_model_less() -> None:
    generator = random.Random(0)
    positions = [[(piece, generator.random()) for piece in PIECES] for _ in range(12)]
    asked = []
    for beam in (1, 4, 1000):
        language = Language(0.5)
        prefix_beam_search(positions, language, {3, 4}, beam)
        asked.append(language.asked)
    assert asked[0] < asked[1] < asked[2] / 10


def test_a_long_text_is_read_too() -> None:
    positions = 3000 * [[(3, 0.06), (4, 0.06), (5, 0.06)], [(0, 0.06)]]
    tokens, places = prefix_beam_search(positions, Language(0.5), {3, 4, 5}, beam=4)
    assert places == list(range(0, 6000, 2)) and len(tokens) == 3000


def test_scores_that_are_no_numbers_are_refused() -> None:
    logits, pieces = np.array([[[1.0, 0.5]], [[np.nan, np.nan]]]), np.array([[[3, 0]], [[0, 3]]])
    assert read_likely(logits[:1], pieces[:1], [1], 1, Language(0.0), {3}) == [([3], [1])]
    with pytest.raises(VqnmtError, match="scores are not finite: translate with dtype=fp32"):
        read_likely(logits, pieces, [1, 1], 1, Language(0.5), {3})
