"""The benchmark of the quantizers: what it measures, prints and records."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from vqnmt.evaluation.records import read_records
from vqnmt.evaluation.speed import median_ratio, peak_memory, time_in_turn
from vqnmt.experiments.tables import quantizer_speed_table

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


def test_peak_memory_counts_what_is_held_at_once():
    before = torch.zeros(1000)
    kept = []

    def work() -> None:
        first = torch.zeros(1000, 250)  # 1 MB
        second = first + 1  # 2 MB at once
        del first, second
        kept.append(torch.zeros(1000, 125))  # 0.5 MB
        before.add_(1)

    assert peak_memory(work) == pytest.approx(2_000_000, abs=1000)
    assert peak_memory(lambda: kept.append(torch.zeros(250))) == pytest.approx(1000, abs=100)


def test_systems_take_turns_in_changing_order():
    calls: list[str] = []
    times = time_in_turn({name: lambda name=name: calls.append(name) for name in "abc"}, 4)
    assert "".join(calls) == "abccbabcaacb"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_ratio_is_taken_within_each_round():
    # the machine is ten times slower in the last two rounds
    assert median_ratio([1, 1, 10, 10], [2, 2, 20, 20]) == 0.5
    assert median_ratio([1, 4, 1], [2, 2, 2]) == 0.5


def test_records_of_a_small_run(script, tmp_path, monkeypatch):
    pytest.importorskip("vector_quantize_pytorch")
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(importlib.import_module("benchmark_quantizers"), "PEER_LIMIT", 2000)
    path = tmp_path / "speed.json"
    command = ["--pairs", 2, "--sizes", "64x8x16", "64x8x64", "--device", "cpu"]
    outcome = script("benchmark_quantizers", *command, "--records", path)
    assert outcome.status == 0, outcome.err
    records = read_records(path)
    names = ["ema", "soft_em", "hard_em", "gradient"]
    assert [record.system for record in records] == names + names
    assert quantizer_speed_table(records) in outcome.out
    for record in records:
        metrics = record.metrics
        assert record.overrides == ["pairs=2"] and record.seed == 1
        assert record.hardware["threads"] == torch.get_num_threads()
        assert record.parameters == (
            metrics["K"] * metrics["d"] if record.system == "gradient" else 0
        )
        assert ("time_ratio_to_ema" in metrics) == (record.system != "ema")
        assert all(math.isfinite(value) and value > 0 for value in metrics.values())
        # 64 x 64 distances are too many for the peer
        assert ("time_ratio" in metrics) == (metrics["K"] == 16)
        if "time_ratio" in metrics:
            assert metrics["peak_memory_ratio"] == pytest.approx(
                metrics["peak_memory_bytes"] / metrics["peer_peak_memory_bytes"]
            )
    # measured again: replaced in their place
    outcome = script("benchmark_quantizers", *command[:3], "64x8x16", "--records", path)
    assert outcome.status == 0, outcome.err
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "64x8"], "--sizes has 64x8: write vectors x dimension x codes"),
        (["--sizes", "0x8x4"], "--sizes has 0x8x4"),
        (["--pairs", "0"], "--pairs: 0 is not a whole number from 1"),
    ],
)
def test_mistakes_are_named(script, tmp_path, arguments, message):
    path = tmp_path / "speed.json"
    outcome = script("benchmark_quantizers", *arguments, "--records", path)
    assert outcome.status == 2 and message in outcome.err
    assert not path.exists()
