"""The trigram model against the equations, in plain Python."""

import copy
import itertools
import math
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vqnmt.errors import VqnmtError
from vqnmt.language_model import TrigramModel, Use

SIZE, BOS, EOS = 9, 1, 2


def sentences() -> list[list[int]]:
    generator = random.Random(3)
    rows = [generator.choices(range(3, SIZE), [9, 5, 3, 2, 1, 1], k=n % 6) for n in range(60)]
    return [*rows, [7, 7, 8], [4]]


def counted(rows: list[list[int]]) -> TrigramModel:
    offsets = np.cumsum([0, *map(len, rows)])
    tokens = np.array(list(itertools.chain(*rows)), dtype=np.uint16)
    return TrigramModel.count(tokens, offsets, SIZE)


def kneser_ney(rows: list[list[int]]) -> Callable[[int, int, int], float]:
    """Chen and Goodman 1999, equations 24 to 27, but for trigrams that are seen once."""
    padded = [[BOS, BOS, *row, EOS] for row in rows]
    trigrams = Counter(tuple(r[i - 2 : i + 1]) for r in padded for i in range(2, len(r)))
    bigrams = Counter((b, c) for _, b, c in trigrams)
    pieces = Counter(c for _, c in bigrams)

    def discount(counts: Counter) -> float:
        once = 1 + sum(n == 1 for n in counts.values())
        return once / (once + 2 * (1 + sum(n == 2 for n in counts.values())))

    def mixed(share: dict, total: int, symbol: int, lower: Callable[[int], float]) -> float:
        if not total:
            return lower(symbol)
        share = {key: value / total for key, value in share.items()}
        return share.get(symbol, 0.0) + (1 - sum(share.values())) * lower(symbol)

    def p(a: int, b: int, c: int) -> float:
        d1, d2, d3 = discount(pieces), discount(bigrams), discount(trigrams)
        ones = {z: n - d1 for z, n in pieces.items()}
        twos = {z: n - d2 for (y, z), n in bigrams.items() if y == b}
        threes = {z: n - d3 for (x, y, z), n in trigrams.items() if (x, y) == (a, b) and n > 1}
        pairs = sum(n for (y, _), n in bigrams.items() if y == b)
        triples = sum(n for (x, y, _), n in trigrams.items() if (x, y) == (a, b))

        def one(z: int) -> float:
            return mixed(ones, sum(pieces.values()), z, lambda _: 1 / SIZE)

        def two(z: int) -> float:
            return mixed(twos, pairs, z, one)

        return mixed(threes, triples, c, two)

    return p


def test_probabilities_are_those_of_the_equations_and_sum_to_one() -> None:
    rows = sentences()
    model, expected = counted(rows), kneser_ney(rows)
    found = {abc: model.log_probability(*abc) for abc in itertools.product(range(SIZE), repeat=3)}
    for abc, log_p in found.items():
        assert math.exp(log_p) == pytest.approx(expected(*abc), rel=1e-5), abc
    for a, b in itertools.product(range(SIZE), repeat=2):
        assert sum(math.exp(found[a, b, c]) for c in range(SIZE)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rows", [[[]], [[5]], [[4, 4, 4, 4]]])
def test_texts_of_almost_nothing(rows) -> None:
    model, expected = counted(rows), kneser_ney(rows)
    for abc in itertools.product(range(SIZE), repeat=3):
        assert math.exp(model.log_probability(*abc)) == pytest.approx(expected(*abc), rel=1e-5)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    model, path = counted(sentences()), tmp_path / "model.npz"
    model.use = Use(0.25, 3.0, 0.5)
    model.save(path)
    loaded, copied = TrigramModel.load(path, SIZE), copy.deepcopy(model)
    for other in (loaded, copied, pickle.loads(pickle.dumps(model))):
        assert other.use == Use(0.25, 3.0, 0.5)
        for abc in itertools.product(range(SIZE), repeat=3):
            assert other.log_probability(*abc) == model.log_probability(*abc)
    with pytest.raises(VqnmtError, match=r"model.npz: is of 9 pieces, but the model has 8"):
        TrigramModel.load(path, 8)
    whole = path.read_bytes()
    for content in (whole[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(VqnmtError, match=r"model.npz: not a language model of vqnmt"):
            TrigramModel.load(path, SIZE)
    damaged = [whole[:i] + b"\xff" + whole[i + 1 :] for i in range(40, 400, 7)]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            TrigramModel.load(path, SIZE)
        except VqnmtError as error:
            assert "model.npz: not a language model of vqnmt" in str(error)
            refused += 1
    assert refused > len(damaged) / 2, "some bytes of the container say nothing"
