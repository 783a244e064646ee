"""Prefix beam search against all alignments there are, in Python and compiled."""

import itertools
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vqnmt.decode import prefix_search
from vqnmt.decode.ctc import read_likely
from vqnmt.decode.language_model import FusionWeights, Tables, TrigramModel
from vqnmt.decode.prefix_search import compiled_search, prefix_beam_search
from vqnmt.decode.settings import ReadingSettings
from vqnmt.errors import VqnmtError

ROOT = Path(__file__).parent.parent.parent
BLANK, BEGIN, END = 0, 1, 2  # as every vocabulary numbers them
PIECES = (0, 3, 4)
SIZE = 6


@pytest.fixture
def compiled():
    """The search in numba."""
    pytest.importorskip("numba")
    found = compiled_search()
    assert found is not None
    return found


def random_log_p(first: int, second: int, piece: int) -> float:
    return -2 * random.Random(str((first, second, piece))).random()


def language(weight: float = 0.5, bonus: float = 0.0, penalty: float = 0.0) -> TrigramModel:
    """A language model that knows every trigram, with random numbers."""
    every = list(itertools.product(range(SIZE), repeat=3))
    empty, none = np.empty(0, np.int64), np.empty(0, np.float32)
    found = TrigramModel(
        Tables(
            trigrams=np.arange(SIZE**3),
            trigram_values=np.array([random_log_p(*abc) for abc in every], np.float32),
            **{"pairs": empty, "pair_values": none, "bigrams": empty, "bigram_values": none},
            **{"single_values": np.zeros(SIZE, np.float32), "pieces": np.zeros(SIZE, np.float32)},
            use=np.zeros(3),
        )
    )
    found.fusion = FusionWeights(weight, penalty, bonus)
    return found


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
    total = Counter()
    for path in itertools.product(*positions):
        text = collapse(tuple(piece for piece, _ in path), repeatable)
        total[text] += math.exp(sum(score for _, score in path))

    def value(text: tuple[int, ...]) -> float:
        whole = (BEGIN, BEGIN, *text, END)
        log_p = [random_log_p(*whole[i : i + 3]) for i in range(len(text) + 1)]
        return math.log(total[text]) + weight * sum(log_p) + bonus * len(text)

    return {text: value(text) for text in total}


def arguments(positions, weight, repeatable, bonus=0.0, beam=1000, far=math.inf):
    """Arguments of the search in Python: lists."""
    pieces = [[piece for piece, _ in position] for position in positions]
    likelihoods = [[math.exp(score) for _, score in position] for position in positions]
    twice = [piece in repeatable for piece in range(SIZE)]
    return pieces, likelihoods, twice, VIEWS, weight, bonus, beam, 0.0, far


VIEWS = language().views


def as_arrays(pieces, likelihoods, twice, views, *further):
    """The same for compiled code; pieces that are left out have no likelihood."""
    widest = max(map(len, pieces), default=0)
    filled = [[*row, *[5] * (widest - len(row))] for row in pieces]
    shares = [[*row, *[0.0] * (widest - len(row))] for row in likelihoods]
    shape = len(pieces), widest
    return (
        np.array(filled, np.int64).reshape(shape),
        np.array(shares).reshape(shape),
        np.array(twice),
        tuple(np.asarray(view) for view in views),
        *further,
    )


def search(*problem, **settings):
    return prefix_beam_search(*arguments(*problem, **settings))


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
def test_a_wide_beam_finds_the_best_of_all_texts(seed, weight, bonus, repeatable) -> None:
    positions = random_problem(seed)
    tokens, places = search(positions, weight, repeatable, bonus)
    every = values(positions, weight, repeatable, bonus)
    assert tuple(tokens) == max(every, key=lambda text: every[text])
    assert places == sorted(set(places)) and len(places) == len(tokens)
    for token, place in zip(tokens, places, strict=True):
        assert token in [piece for piece, _ in positions[place]]


def test_how_often_a_narrow_beam_misses_the_best_of_all_texts() -> None:
    """The figures of docs/notebook/2026-11-23-reading-with-trigrams.md; 4 is the default."""
    assert ReadingSettings().beam == 4
    misses, lost = Counter[int](), 0.0
    for seed in range(400):
        positions = random_problem(seed)
        every = values(positions, 0.5, {3}, 0.5)
        for beam in (1, 4, 8):
            tokens, _ = search(positions, 0.5, {3}, 0.5, beam=beam, far=6.0)
            behind = max(every.values()) - every[tuple(tokens)]
            misses[beam] += behind > 1e-9
            lost += behind * (beam == 4)
    assert misses == {1: 158, 4: 16, 8: 1}
    assert lost / misses[4] == pytest.approx(0.134, abs=0.001)  # nats


def test_compiled_code_finds_the_same(compiled) -> None:
    """Every kind of beam, ties (scores of two values only), and empty sentences, to the last bit.

    Values are compared by their texts: 1,200 problems whose best texts are often close.
    """
    differ = 0
    for seed in range(400):
        generator = random.Random(seed)
        scores = [-0.1, -2.0] if seed % 2 else None
        positions = [
            [
                (piece, generator.choice(scores) if scores else -3 * generator.random())
                for piece in generator.sample((0, 3, 4, 5), generator.randint(1, 4))
            ]
            for _ in range(generator.randint(0, 30))
        ]
        repeatable = set(generator.sample((3, 4, 5), generator.randint(0, 3)))
        weight, bonus = generator.choice([(0.0, 0.0), (0.3, 0.0), (2.0, 1.5)])
        found = []
        for beam in (1, 4, 16):
            given = arguments(positions, weight, repeatable, bonus, beam, far=6.0)
            given = (*given[:7], generator.choice([0.0, 0.05, 0.3]), 6.0)
            found.append(prefix_beam_search(*given))
            assert compiled(*as_arrays(*given)) == found[-1]
        differ += len(set(map(str, found))) > 1
    assert differ > 50, "the beams hardly matter, so that nothing is compared"


@pytest.mark.parametrize("seed", range(3))
def test_compiled_code_looks_up_the_same(seed: int, compiled) -> None:
    """A model with all orders: a text whose trigrams, pairs and bigrams are often unknown."""
    rng = np.random.default_rng(seed)
    model = TrigramModel.count(rng.integers(3, 40, 600) // 2, np.arange(0, 601, 6), 40)
    for _ in range(40):
        pieces = rng.permuted(np.tile(np.arange(20), (25, 1)), axis=1)[:, :5].copy()
        pieces[:, 0] = BLANK
        shares, twice = rng.random((25, 5)), rng.random(40) < 0.5
        further = 0.7, 0.2, 8, 0.05, 6.0
        expected = prefix_beam_search(
            pieces.tolist(), shares.tolist(), twice.tolist(), model.views, *further
        )
        assert compiled(pieces, shares, twice, model.arrays, *further) == expected


def test_the_language_model_decides_between_readings() -> None:
    positions = [[(3, 0.0), (4, -0.1)], [(0, 0.0)], [(3, 0.0), (4, -0.1)]]
    found = {tuple(search(positions, weight, {3, 4})[0]) for weight in (0.0, 5.0)}
    assert len(found) == 2 and (3, 3) in found
    assert search([], 1.0, set()) == ([], [])
    assert search([[(0, 0.0)]] * 3, 1.0, set()) == ([], [])


def test_a_narrow_beam_asks_the_language_model_less(monkeypatch) -> None:
    generator = random.Random(0)
    positions = [[(piece, generator.random()) for piece in PIECES] for _ in range(12)]
    asked = []
    look_up = prefix_search.look_up
    monkeypatch.setattr(prefix_search, "look_up", lambda *a: asked.append(0) or look_up(*a))
    counts = []
    for beam in (1, 4, 1000):
        asked.clear()
        search(positions, 0.5, {3, 4}, beam=beam)
        counts.append(len(asked))
    assert counts[0] < counts[1] < counts[2] / 10


def test_a_long_text_is_read_too(compiled) -> None:
    positions = 3000 * [[(piece, math.log(0.06)) for piece in (3, 4, 5)], [(0, math.log(0.06))]]
    given = arguments(positions, 0.5, {3, 4, 5}, beam=4, far=6.0)
    tokens, places = prefix_beam_search(*given)
    assert places == list(range(0, 6000, 2)) and len(tokens) == 3000
    assert compiled(*as_arrays(*given)) == (tokens, places)


def test_probabilities_too_small_for_a_number() -> None:
    """A weight from a file may be any: nothing overflows into an exception."""
    positions = 40 * [[(3, 0.0), (4, -2.0)], [(0, 0.0), (5, -2.0)]]
    for weight in (1e3, 1e300, -1e300):
        tokens, places = search(positions, weight, {3}, beam=4, far=6.0)
        assert len(tokens) == len(places)


TWICE = np.arange(SIZE) == 3


def test_scores_that_are_no_numbers_are_refused() -> None:
    logits, pieces = np.array([[[1.0, 0.5]], [[np.nan, np.nan]]]), np.array([[[3, 0]], [[0, 3]]])
    assert read_likely(logits[:1], pieces[:1], [1], 1, language(0.0), TWICE) == [([3], [1])]
    with pytest.raises(VqnmtError, match="scores are not finite: translate with dtype=fp32"):
        read_likely(logits, pieces, [1, 1], 1, language(), TWICE)


def test_pieces_outside_of_the_vocabulary_are_refused() -> None:
    """Compiled code would read memory that is not its own."""
    for piece in (SIZE, -1):
        pieces = np.array([[[3, piece]]])
        with pytest.raises(VqnmtError, match="the vocabulary has 6: copy the model folder again"):
            read_likely(np.array([[[1.0, 0.5]]]), pieces, [1], 1, language(), TWICE)


def batch() -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(0)
    logits = np.sort(2 * rng.standard_normal((300, 16, 3)).astype(np.float32), axis=2)[..., ::-1]
    pieces = rng.permuted(np.tile([0, 3, 4], (300, 16, 1)), axis=2)
    return logits, pieces, [16 - 4 * (i % 3) for i in range(300)]


def test_a_batch_is_read_alike_by_python_and_compiled(monkeypatch, compiled) -> None:
    wide = ReadingSettings(beam=16, pieces=2, least_likely=0)
    found = []
    for search_ in (None, compiled):
        monkeypatch.setattr("vqnmt.decode.ctc.compiled_search", lambda _, s=search_: s)
        model = language(0.5, 0.3, penalty=0.4)
        found.append([read_likely(*batch(), 4, model, TWICE, r) for r in (None, wide)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
    assert [len(spans) for _, spans in found[0][0][:3]] == [4, 3, 2]


def test_python_reads_until_compiled_code_pays(monkeypatch, compiled) -> None:
    monkeypatch.setattr(prefix_search, "_asked", 0)
    given = [compiled_search(100) for _ in range(12)]
    first = given.index(compiled)
    assert (first + 1) * 100 >= 256 and given[:first] == [None] * first
    assert given[first:] == [compiled] * (12 - first)
    monkeypatch.setattr(prefix_search, "_asked", 0)
    assert (compiled_search(), compiled_search(1)) == (compiled, compiled)


SCRIPT = """
import sys
import numpy as np
if "no-numba" in sys.argv:
    sys.modules["numba"] = None
from vqnmt.decode.prefix_search import compiled_search
search = compiled_search()
if search is None:
    print("python")
else:
    tables = 3 * (np.empty(0, np.int64), np.empty(0, np.float32)) + 2 * (np.zeros(6, np.float32),)
    rows = np.array([[3], [4]]), np.array([[1.0], [1.0]]), np.zeros(6, bool)
    print(*search(*rows, tables, 0.0, 0.0, 4, 0.0, 6.0), sum(search.stats.cache_hits.values()))
"""


def outcome(package: Path, *arguments: str, **environment: str) -> str:
    """Run `SCRIPT` with the package in the folder `package`; returns all it says."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(package), "PYTHONPATH": str(package)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**variables, **environment},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    return (result.stdout + result.stderr).strip()


@pytest.mark.slow
def test_where_compiled_code_is_kept(tmp_path: Path, compiled) -> None:
    """Beside the module, as bytecode; it is made anew if damaged, and Python searches without."""
    shutil.copytree(
        ROOT / "vqnmt", tmp_path / "vqnmt", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert outcome(tmp_path) == "[3, 4] [0, 1] 0"
    kept = list(tmp_path.rglob("*.nb?"))
    assert {path.parent.name for path in kept} == {"__pycache__"} and len(kept) == 2
    assert outcome(tmp_path) == "[3, 4] [0, 1] 1"
    for path in kept:
        path.write_bytes(b"damaged")
    assert outcome(tmp_path) == "[3, 4] [0, 1] 0"
    assert outcome(tmp_path, NUMBA_DISABLE_JIT="1") == "python"
    assert outcome(tmp_path, "no-numba") == "python"


def test_where_nothing_may_be_kept(monkeypatch) -> None:
    can_cache = prefix_search._can_cache.__wrapped__
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert can_cache()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert not can_cache()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert not can_cache()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
    assert can_cache()


@pytest.mark.parametrize(
    ("key", "value"),
    [("beam", 0), ("beam", 1001), ("pieces", 1.5), ("least_likely", 1.0), ("least_likely", -0.1)],
)
def test_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(VqnmtError, match=rf"reading\.{key} is {value}.* it must be"):
        ReadingSettings(**{key: value})
