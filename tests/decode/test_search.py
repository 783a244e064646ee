"""Greedy and beam search against exhaustive enumeration on tiny Markov models."""

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vqnmt.decode.search import Hypothesis, SearchSettings, find_candidates
from vqnmt.errors import VqnmtError

END = 0
BEGIN = 1


@dataclass
class Markov:
    """Logits depend on the sentence, the step and the last symbol: `table` (B, steps, V, V).

    The state carries each row's sentence and its whole past, so that a wrong reordering shows.
    """

    table: Tensor
    sentences: Tensor = field(init=False)
    past: Tensor = field(init=False)
    rows: list[int] = field(default_factory=list)  # rows of the state at each step

    def __post_init__(self) -> None:
        self.sentences = torch.arange(len(self.table))
        self.past = torch.zeros(len(self.table), 0, dtype=torch.long)

    def expand(self, hypotheses: int) -> None:
        self.select(torch.arange(len(self.table)).repeat_interleave(hypotheses))

    def select(self, index: Tensor) -> None:
        self.sentences = self.sentences[index]
        self.past = self.past[index]

    def reorder(self, index: Tensor) -> None:
        assert torch.equal(self.sentences[index], self.sentences), "rows left their sentence"
        self.past = self.past[index]


def step(symbols: Tensor, state: Markov) -> Tensor:
    state.rows.append(len(symbols))
    state.past = torch.cat([state.past, symbols[:, None]], 1)
    # Also of the symbol before the last: history and state must move together.
    before = state.past[:, -2] if state.past.shape[1] > 1 else torch.zeros_like(symbols)
    at = state.past.shape[1] - 1
    return state.table[state.sentences, at, symbols] + 0.7 * state.table[state.sentences, 0, before]


def table(sentences: int = 1, vocabulary: int = 4, steps: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(sentences, steps, vocabulary, vocabulary, generator=generator)


def log_probabilities(table: Tensor, past: list[int], forbidden: tuple[int, ...] = ()) -> Tensor:
    """(V,) after `past` (without the begin) for `table` (steps, V, V)."""
    symbols = [END, BEGIN, *past]
    logits = table[len(past), symbols[-1]] + 0.7 * table[0, symbols[-2]]
    logits = logits.index_fill(0, torch.tensor(forbidden, dtype=torch.long), -torch.inf)
    return logits.log_softmax(-1)


def enumerate_all(table: Tensor, limit: int, penalty: float, forbidden: tuple[int, ...] = ()):
    """Every sequence with its score and log-probability, the best first."""
    allowed = [s for s in range(table.shape[-1]) if s != END and s not in forbidden]
    found = []
    for length in range(limit + 1):
        for sequence in itertools.product(allowed, repeat=length):
            total, past = 0.0, []
            for symbol in sequence:
                total += log_probabilities(table, past, forbidden)[symbol].item()
                past.append(symbol)
            steps = length
            if length < limit:
                total += log_probabilities(table, past, forbidden)[END].item()
                steps += 1
            found.append((total / steps**penalty, total, list(sequence)))
    return sorted(found, reverse=True)


def find(
    tables: Tensor, limits: list[int], *, forbidden: tuple[int, ...] = (), **settings
) -> list[list[Hypothesis]]:
    return find_candidates(
        step,
        Markov(tables),
        torch.tensor(limits),
        begin=BEGIN,
        end=END,
        settings=SearchSettings(**settings),
        forbidden=forbidden,
    )


def run(tables: Tensor, limits: list[int], **further) -> list[Hypothesis]:
    return [hypotheses[0] for hypotheses in find(tables, limits, **further)]


def plain_beam(table: Tensor, limit: int, beam: int, penalty: float) -> tuple[float, list[int]]:
    """Beam search in plain Python; returns log-probability and symbols."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, float, list[int]]] = []
    for length in range(1, limit + 1):
        grown = [
            (total + value, [*past, symbol])
            for total, past in alive
            for symbol, value in enumerate(log_probabilities(table, past).tolist())
        ]
        grown.sort(key=lambda c: -c[0])
        for total, symbols in grown[:beam]:
            if symbols[-1] == END:
                finished.append((total / length**penalty, total, symbols[:-1]))
        alive = [c for c in grown[: 2 * beam] if c[1][-1] != END][:beam]
        # Stop when nothing alive is better, at its present length, than the best that has ended.
        best = max((value for value, _, _ in finished), default=-float("inf"))
        if len(finished) >= beam and best >= alive[0][0] / length**penalty:
            break
        if length == limit:
            finished += [(total / length**penalty, total, symbols) for total, symbols in alive]
    _, total, symbols = max(finished, key=lambda c: c[0])
    return total, symbols


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_that_holds_all_sequences_finds_the_best(seed, penalty):
    tables = table(sentences=3, seed=seed)
    found = run(tables, [3, 1, 4], beam=130, length_penalty=penalty)  # 1 + 3 + 9 + 27 + 81
    for hypothesis, one, limit in zip(found, tables, [3, 1, 4], strict=True):
        _, total, symbols = enumerate_all(one, limit, penalty)[0]
        assert hypothesis.symbols == symbols
        assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beam", [2, 3, 5])
def test_a_narrow_beam_is_that_of_plain_python(seed, beam):
    limits = [6, 2, 5, 1]
    tables = table(sentences=4, seed=seed)
    found = run(tables, limits, beam=beam)
    for hypothesis, one, limit in zip(found, tables, limits, strict=True):
        total, symbols = plain_beam(one, limit, beam, 1.0)
        assert hypothesis.symbols == symbols
        assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("beam", [2, 3, 4])
def test_poor_ends_do_not_stop_a_beam_that_holds_a_better_hypothesis(beam):
    # The sequence 2, 3 has probability 0.98. One poor hypothesis ends at the first step, and as
    # many as are left of the beam at the second, before 2, 3 can end.
    tables = torch.full((1, 6, 6, 6), -20.0)
    tables[0, 0] = 0.0
    tables[0, 0, BEGIN] = first = torch.tensor([4.0, -20.0, 9.0, 3.0, 2.0, -20.0])
    tables[0, 1] -= 0.7 * first
    tables[0, 1, 2, [END, 3]] = torch.tensor([4.0, 9.0]) - 0.7 * first[[END, 3]]
    tables[0, 1, [3, 4], END] = 9.0
    tables[0, 2, 3, END] = 9.0
    (greedy,) = run(tables, [5])
    (found,) = run(tables, [5], beam=beam)
    assert greedy.symbols == [2, 3] and greedy.log_probability > -0.1
    assert found.symbols == greedy.symbols


@pytest.mark.parametrize("seed", range(8))
def test_greedy_takes_the_best_symbol_of_each_step(seed):
    tables = table(sentences=3, seed=seed)
    for hypothesis, one, limit in zip(run(tables, [6, 1, 4]), tables, [6, 1, 4], strict=True):
        symbols: list[int] = []
        total = 0.0
        while len(symbols) < limit:
            value, symbol = log_probabilities(one, symbols).max(0)
            total += value.item()
            if symbol == END:
                break
            symbols.append(symbol.item())
        assert hypothesis.symbols == symbols
        assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_a_batch_is_searched_as_its_sentences_are(beam):
    limits = [6, 1, 3, 6, 2]
    tables = table(sentences=5, seed=7)
    together = run(tables, limits, beam=beam)
    for i, hypothesis in enumerate(together):
        (alone,) = run(tables[i : i + 1], limits[i : i + 1], beam=beam)
        assert hypothesis.symbols == alone.symbols
        assert hypothesis.log_probability == pytest.approx(alone.log_probability, rel=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_no_sequence_is_longer_than_its_limit(beam):
    tables = table(sentences=4)
    tables[..., END] = -20.0
    found = run(tables, [1, 2, 5, 6], beam=beam)
    assert [len(hypothesis.symbols) for hypothesis in found] == [1, 2, 5, 6]


@pytest.mark.parametrize("beam", [1, 3, 130])
def test_forbidden_symbols_are_never_chosen(beam):
    tables = table(sentences=2, seed=3)
    tables[..., 2] = 20.0  # the favourite
    found = run(tables, [3, 3], beam=beam, forbidden=(1, 2), length_penalty=0.0)
    for hypothesis, one in zip(found, tables, strict=True):
        assert set(hypothesis.symbols) <= {3}
        if beam == 130:
            _, total, symbols = enumerate_all(one, 3, 0.0, (1, 2))[0]
            assert hypothesis.symbols == symbols
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_an_end_at_the_first_step_gives_an_empty_sequence(beam):
    tables = table(sentences=2)
    tables[1, ..., END] = 50.0
    found = run(tables, [4, 4], beam=beam)
    assert found[1].symbols == []
    assert found[1].log_probability == pytest.approx(0.0, abs=1e-4)


def test_everything_but_the_end_forbidden():
    for beam in (1, 2):
        (found,) = run(table(), [4], beam=beam, forbidden=(1, 2, 3))
        assert found == Hypothesis([], 0.0, ended=True)


# With a beam the first sentence stays until all its hypotheses have ended, a step later.
@pytest.mark.parametrize(("beam", "rows"), [(1, [3, 2, 1, 1]), (3, [9, 9, 3, 3])])
def test_finished_sentences_leave_the_batch(beam, rows):
    tables = table(sentences=3)
    tables[..., END] = -50.0
    tables[0, ..., END] = 50.0  # ends at once; the others at their limits
    state = Markov(tables)
    settings = SearchSettings(beam=beam)
    find_candidates(step, state, torch.tensor([6, 2, 4]), begin=BEGIN, end=END, settings=settings)
    assert state.rows == rows


@pytest.mark.parametrize("beam", [1, 2])
def test_an_empty_batch_gives_nothing(beam):
    assert run(table(sentences=0), [], beam=beam) == []


@pytest.mark.parametrize("beam", [1, 2])
def test_logits_in_half_precision(beam):
    tables = table(sentences=2).bfloat16()
    for hypothesis in run(tables, [4, 4], beam=beam):
        assert -30 < hypothesis.log_probability <= 0


@pytest.mark.parametrize("beam", [1, 2])
def test_the_step_functions_logits_are_left_alone(beam):
    logits = torch.randn(beam, 4)
    kept = logits.clone()

    class State:
        def expand(self, hypotheses: int) -> None: ...

        def select(self, index: Tensor) -> None: ...

        def reorder(self, index: Tensor) -> None: ...

    find_candidates(
        lambda _, __: logits,
        State(),
        torch.tensor([2]),
        begin=1,
        end=0,
        settings=SearchSettings(beam=beam),
        forbidden=(2,),
    )
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_n_best_are_the_best_of_all_sequences_in_order(penalty):
    tables = table(sentences=2)
    found = find(tables, [3, 2], candidates=50, length_penalty=penalty)
    for hypotheses, one, limit in zip(found, tables, [3, 2], strict=True):
        expected = enumerate_all(one, limit, penalty)
        for hypothesis, (_, total, symbols) in zip(hypotheses[:5], expected[:5], strict=True):
            assert hypothesis.symbols == symbols
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)
        # All that exist within the limit, none of probability 0.
        assert len(hypotheses) == min(50, len(expected))
        assert all(torch.isfinite(torch.tensor(h.log_probability)) for h in hypotheses)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_samples_come_as_often_as_their_probability_says(temperature):
    torch.manual_seed(0)
    tables, limits, count = table(sentences=2), [2, 1], 1000
    drawn = find(tables, limits, candidates=count, temperature=temperature, forbidden=(3,))
    for hypotheses, one, limit in zip(drawn, tables, limits, strict=True):
        totals = {tuple(s): total for _, total, s in enumerate_all(one, limit, 0.0, (3,))}
        expected: dict[tuple[int, ...], float] = {}
        for symbols in totals:  # p ** (1 / temperature), renormalised at every step
            p = 1.0
            for i, symbol in enumerate([*symbols, END][:limit]):
                log_p = log_probabilities(one, list(symbols[:i]), (3,))
                p *= (log_p / temperature).softmax(-1)[symbol].item()
            expected[symbols] = p
        assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
        found = Counter(tuple(h.symbols) for h in hypotheses)
        assert sum(found.values()) == count
        for symbols, p in expected.items():
            assert abs(found[symbols] / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-3
        for hypothesis in hypotheses[:20]:
            total = totals[tuple(hypothesis.symbols)]
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-4)


def test_candidates_by_settings():
    tables, limits = table(sentences=2), [4, 3]
    assert [len(row) for row in find(tables, limits)] == [1, 1]
    three = find(tables, limits, candidates=3)
    assert [len(row) for row in three] == [3, 3]
    assert [row[0] for row in three] == run(tables, limits, beam=3)
    drawn = find(tables, limits, candidates=3, temperature=1.0)
    assert [len(row) for row in drawn] == [3, 3]
    five = find(tables, limits, candidates=5)
    assert find(tables, limits, candidates=2, beam=5)[0] == five[0][:2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("inf")}, "temperature is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(VqnmtError, match=message):
        SearchSettings(**settings)
