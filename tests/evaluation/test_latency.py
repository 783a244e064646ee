import gc
import itertools
import statistics
import time

import pytest

import vqnmt.evaluation.latency as latency_module
from vqnmt.evaluation.latency import measure_latency, speedup

MILLISECOND = 1_000_000  # nanoseconds


class FakeMachine:
    """A clock that only the systems move, so that every number is known in advance."""

    def __init__(self, monkeypatch):
        self.now = 0
        self.calls = []
        self.pending = 0
        monkeypatch.setattr(latency_module, "perf_counter_ns", lambda: self.now)

    def system(self, name, milliseconds):
        """Take `milliseconds(sentence)` of the clock."""

        def translate(sentence):
            self.calls.append((name, sentence))
            self.now += int(milliseconds(sentence) * MILLISECOND)
            return sentence.upper()

        return translate


def test_statistics_of_a_known_clock(monkeypatch):
    machine = FakeMachine(monkeypatch)
    sentences = [str(number) for number in range(1, 11)]
    slow = machine.system("slow", lambda sentence: 4 * int(sentence))
    fast = machine.system("fast", lambda sentence: int(sentence))
    result = measure_latency({"slow": slow, "fast": fast}, sentences, warmup=3, rounds=2)
    times = [float(number) for number in range(1, 11)]
    assert result["fast"].median_ms == pytest.approx(statistics.median(times))
    assert result["fast"].mean_ms == pytest.approx(5.5)
    assert result["fast"].p90_ms == pytest.approx(9.1)  # nine tenths of the way from 1 to 10
    assert result["fast"].p99_ms == pytest.approx(9.91)
    assert (result["fast"].sentences, result["fast"].rounds) == (10, 2)
    assert speedup(result["slow"], result["fast"]) == pytest.approx(4)


def test_the_timed_calls_own_outputs_are_kept():
    calls = iter(range(100))
    result = measure_latency({"s": lambda text: f"{text}{next(calls)}"}, ["a", "b"], warmup=2)
    assert result["s"].translations == ("a6", "b7"), "those of the last of three rounds"


def test_a_sentence_counts_by_its_median_over_the_rounds(monkeypatch):
    machine = FakeMachine(monkeypatch)
    times = iter([1, 2, 100, 3, 2, 100])  # three rounds of sentences a and b
    result = measure_latency(
        {"system": machine.system("system", lambda _: next(times))}, ["a", "b"], warmup=0, rounds=3
    )
    # a: 1, 100, 2 -> 2; b: 2, 3, 100 -> 3
    assert result["system"].mean_ms == pytest.approx(2.5)


def test_systems_take_turns_and_each_comes_first_and_after_each_other(monkeypatch):
    monkeypatch.setattr(latency_module, "TURN", 1)
    machine = FakeMachine(monkeypatch)
    names = ["a", "b", "c"]
    systems = {name: machine.system(name, lambda _: 1) for name in names}
    sentences = [str(number) for number in range(12)]
    measure_latency(systems, sentences, warmup=0, rounds=1)
    turns = [machine.calls[start : start + 3] for start in range(0, 36, 3)]
    orders = []
    for sentence, turn in zip(sentences, turns, strict=True):
        assert {call[1] for call in turn} == {sentence}
        orders.append([call[0] for call in turn])
        assert sorted(orders[-1]) == names
    firsts = [order[0] for order in orders]
    assert {name: firsts.count(name) for name in names} == {"a": 4, "b": 4, "c": 4}
    neighbours = {pair for order in orders for pair in itertools.pairwise(order)}
    assert len(neighbours) == 6


def test_a_turn_is_of_several_sentences(monkeypatch):
    monkeypatch.setattr(latency_module, "TURN", 3)
    machine = FakeMachine(monkeypatch)
    systems = {name: machine.system(name, lambda _: 1) for name in "ab"}
    measure_latency(systems, "12345", warmup=0, rounds=1)
    first = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2"), ("b", "3")]
    assert machine.calls == [*first, ("b", "4"), ("b", "5"), ("a", "4"), ("a", "5")]


def test_drift_hurts_all_alike(monkeypatch):
    machine = FakeMachine(monkeypatch)
    # The machine becomes ten times slower on the way; both systems are equally fast.
    systems = {
        name: machine.system(name, lambda _: 1 + 9 * len(machine.calls) / 400) for name in "ab"
    }
    result = measure_latency(systems, ["x"] * 200, warmup=0, rounds=1)
    assert speedup(result["a"], result["b"]) == pytest.approx(1, abs=0.01)


def test_warmup_is_not_counted(monkeypatch):
    machine = FakeMachine(monkeypatch)
    system = machine.system("system", lambda _: 1000 if len(machine.calls) <= 4 else 1)
    result = measure_latency({"system": system}, ["a", "b", "c"], warmup=4, rounds=1)
    assert result["system"].mean_ms == pytest.approx(1)
    assert [sentence for _, sentence in machine.calls] == ["a", "b", "c", "a", "a", "b", "c"]


def test_synchronize_charges_asynchronous_work_to_the_system_that_caused_it(monkeypatch):
    machine = FakeMachine(monkeypatch)

    def launch(milliseconds):
        def translate(sentence):
            machine.pending += milliseconds * MILLISECOND  # returns at once, the device works on
            return sentence

        return translate

    def synchronize():
        machine.now += machine.pending
        machine.pending = 0

    systems = {"long": launch(50), "short": launch(5)}
    result = measure_latency(systems, ["a", "b"], warmup=1, rounds=2, synchronize=synchronize)
    assert result["long"].median_ms == pytest.approx(50)
    assert result["short"].median_ms == pytest.approx(5)


def test_garbage_collection_is_off_while_timing_and_restored():
    seen = []
    measure_latency({"s": lambda text: seen.append(gc.isenabled()) or text}, ["a"], warmup=0)
    assert seen == [False] * 3
    assert gc.isenabled()

    def fail(_):
        raise RuntimeError("broken system")

    with pytest.raises(RuntimeError, match="broken system"):
        measure_latency({"s": fail}, ["a"], warmup=0)
    assert gc.isenabled()


def test_real_clock():
    def sleeper(seconds):
        return lambda text: time.sleep(seconds) or text

    result = measure_latency(
        {"slow": sleeper(0.012), "fast": sleeper(0.003)}, ["a", "b", "c"], warmup=1, rounds=3
    )
    assert result["slow"].median_ms >= 12
    assert 3 <= result["fast"].median_ms < result["slow"].median_ms
    assert result["slow"].median_ms <= result["slow"].p90_ms


@pytest.mark.parametrize(
    ("systems", "sentences", "options"),
    [
        ({}, ["a"], {}),
        ({"s": str}, [], {}),
        ({"s": str}, ["a"], {"rounds": 0}),
        ({"s": str}, ["a"], {"warmup": -1}),
    ],
)
def test_nothing_to_measure(systems, sentences, options):
    with pytest.raises(ValueError, match="latency needs"):
        measure_latency(systems, sentences, **options)
