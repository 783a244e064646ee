"""The trigram model against the equations, in plain Python."""

import copy
import io
import itertools
import math
import pickle
import random
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.errors import VqnmtError

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
    model.fusion = FusionWeights(0.25, 3.0, 0.5)
    model.save(path)
    loaded, copied = TrigramModel.load(path, SIZE), copy.deepcopy(model)
    for other in (loaded, copied, pickle.loads(pickle.dumps(model))):
        assert other.fusion == FusionWeights(0.25, 3.0, 0.5)
        for abc in itertools.product(range(SIZE), repeat=3):
            assert other.log_probability(*abc) == model.log_probability(*abc)
    with pytest.raises(
        VqnmtError, match=r"for 8 pieces \(pieces are float32 \(9,\), not float32 \(8"
    ):
        TrigramModel.load(path, 8)


def damaged_arrays() -> dict[str, Callable[[dict[str, np.ndarray]], object]]:
    """Ways to spoil the arrays of a file that numpy itself reads without a word."""

    def put(name: str, place: int, value: float) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda arrays: arrays[name].__setitem__(place, value)

    def change(name: str, function: Callable) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda arrays: arrays.__setitem__(name, function(arrays[name]))

    ways: dict[str, Callable[[dict[str, np.ndarray]], object]] = {}
    keys, values = ("trigrams", "pairs", "bigrams"), ("trigram_values", "pair_values")
    for name in keys:
        ways |= {
            f"{name} fall": change(name, lambda x: x[::-1].copy()),
            f"{name} twice": change(name, lambda x: np.repeat(x, 2)),
            f"{name} below 0": put(name, 0, -1),
            f"{name} too high": put(name, -1, SIZE**3),
        }
    for name in (*values, "bigram_values", "single_values", "pieces", "use"):
        ways |= {f"{name} {value}": put(name, 0, value) for value in (np.nan, np.inf, -np.inf)}
    for name in (*values, "pieces"):
        ways[f"{name} positive"] = put(name, 0, 0.5)
    for name in (*keys, *values, "single_values", "pieces", "use"):
        ways |= {
            f"{name} in two dimensions": change(name, lambda x: x[:, None]),
            f"{name} without a dimension": change(name, lambda x: x[0]),
            f"{name} too short": change(name, lambda x: x[:-1]),
            f"{name} as bytes": change(name, lambda x: x.astype(np.int8)),
            f"{name} as text": change(name, lambda x: x.astype(str)),
            f"{name} of the other order": change(name, lambda x: x.astype(x.dtype.newbyteorder())),
            f"no {name}": lambda arrays, name=name: arrays.pop(name),  # type: ignore[misc]
        }
    ways["another array"] = lambda arrays: arrays.setdefault("others", np.zeros(1))
    ways["objects"] = change("pieces", lambda x: x.astype(object))
    return ways


WAYS = damaged_arrays()


@pytest.mark.parametrize("way", WAYS)
def test_arrays_that_are_no_model_are_refused_by_name(tmp_path: Path, way: str) -> None:
    path = tmp_path / "model.npz"
    counted(sentences()).save(path)
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file}
    WAYS[way](arrays)
    np.savez_compressed(path, **arrays)
    with pytest.raises(VqnmtError, match="not a language model of vqnmt") as caught:
        TrigramModel.load(path, SIZE)
    assert "\n" not in str(caught.value)
    if not way.startswith(("no ", "another", "objects")):
        assert way.split()[0].removesuffix("_values")[:-1] in str(caught.value)


@pytest.mark.parametrize("content", ["nothing", "zeros"])
@pytest.mark.parametrize("name", ["trigrams", "pieces"])
def test_what_a_file_claims_takes_no_memory(tmp_path: Path, name: str, content: str) -> None:
    """A header of 10^15 numbers, and a small file that unpacks to 64 MB."""
    path, kind = tmp_path / "model.npz", np.int64 if name == "trigrams" else np.float32
    counted(sentences()).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    count = 10**15 if content == "nothing" else 1 << 23
    header = io.BytesIO()
    described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            if member != f"{name}.npy":
                archive.writestr(member, data)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            for _ in range(0 if content == "nothing" else 64):
                file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(VqnmtError, match=f"not a language model of vqnmt .*{name} (are|end)"):
        TrigramModel.load(path, SIZE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_damaged_containers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    counted(sentences()).save(path)
    whole = path.read_bytes()
    damaged = [whole[:i] + b"\xff" + whole[i + 1 :] for i in range(40, 400, 7)]
    refused = 0
    for content in (whole[:-9], b"", whole[:900], *damaged):
        path.write_bytes(content)
        try:
            TrigramModel.load(path, SIZE)
        except VqnmtError as error:
            assert "model.npz: not a language model of vqnmt" in str(error)
            refused += 1
    assert refused > len(damaged) / 2, "some bytes of the container say nothing"
