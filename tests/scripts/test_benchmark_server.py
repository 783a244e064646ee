"""The benchmark of the server, for a second of each measurement."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PRETRAINED = Path(__file__).parent.parent.parent / "pretrained" / "en-de"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs Debian's package wrk")
def test_benchmark_of_a_server(tmp_path: Path, script: Callable) -> None:
    outcome = script(
        "benchmark_server",
        "--model",
        PRETRAINED,
        "--seconds",
        1,
        "--connections",
        16,
        "--requests",
        40,
        "--warmup",
        10,
        "--results",
        tmp_path / "server.json",
    )
    assert outcome.status == 0, outcome.err
    records = json.loads((tmp_path / "server.json").read_text("utf-8"))
    batches, alone, short = (record["metrics"] for record in records)
    for metrics in (batches, alone):
        assert metrics["answered"] > 0 == metrics["refused"]
    assert short["refused"] > 0, "only 2 sentences may wait"
    for metrics in (batches, alone, short):
        assert metrics["other_statuses"] == metrics["socket_errors"] == 0
        assert metrics["latency_ms.median"] <= metrics["latency_ms.p99"]
    ratio = batches["requests_per_second"] / alone["requests_per_second"]
    assert batches["speedup_over_no_batches"] == pytest.approx(ratio)
    assert batches["rss_mb.0"] > 20 and batches["rss_mb.40"] > 20
    assert batches["stop.status"] == 0
    assert [line.split()[1] for line in outcome.out.splitlines()[2:]] == [
        "batches",
        "no_batches",
        "short_queue",
    ]
