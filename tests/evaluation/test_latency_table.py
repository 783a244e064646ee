"""Ratios to CTranslate2, the tables of engines and profiles, footprints of processes."""

import pytest

from vqnmt.evaluation.footprint import measure_footprint
from vqnmt.evaluation.latency_table import latency_table, profile_table, ratios_to_peers
from vqnmt.evaluation.records import Record

METRICS = {
    "ar_beam4": {"latency_ms.median": 40.0, "sentences_per_second.batch_32": 50.0},
    "ctranslate2_fp32_greedy": {"latency_ms.median": 8.0, "sentences_per_second.batch_32": 300.0},
    "ctranslate2_int8_greedy": {"latency_ms.median": 6.0, "sentences_per_second.batch_32": 200.0},
    "ctranslate2_int8_beam4": {"latency_ms.median": 12.0, "sentences_per_second.batch_32": 100.0},
    "deep_shallow_ctranslate2_int8_greedy": {"latency_ms.median": 1.0},
    "student_onnx_int8": {"latency_ms.median": 2.0, "sentences_per_second.batch_32": 600.0},
}


def record(system: str, metrics: dict) -> Record:
    return Record(
        system=system,
        corpus="toy-en-de",
        overrides=[],
        seed=1,
        commit="c",
        hardware={"processor": "p", "threads": 2},
        wall_seconds=1.0,
        parameters=1,
        metrics=metrics,
    )


def test_ratios_are_to_the_better_precision_of_the_same_weights():
    ratios = ratios_to_peers(METRICS)
    assert ratios["student_onnx_int8"] == {
        "ratio_to_ctranslate2_greedy": 3.0,
        "ratio_to_ctranslate2_beam4": 6.0,
        "throughput_ratio_to_ctranslate2_greedy": 2.0,
    }
    assert ratios["ar_beam4"]["ratio_to_ctranslate2_greedy"] == pytest.approx(0.15)
    assert ratios["ctranslate2_int8_greedy"]["ratio_to_ctranslate2_greedy"] == 1.0
    assert (
        "throughput_ratio_to_ctranslate2_greedy"
        not in ratios["deep_shallow_ctranslate2_int8_greedy"]
    )
    assert ratios_to_peers({"student": {"latency_ms.median": 1.0}}) == {"student": {}}


def test_the_table_of_engines():
    full = {
        **METRICS["student_onnx_int8"],
        **ratios_to_peers(METRICS)["student_onnx_int8"],
        "bleu.test": 31.234,
        "latency_ms.p90": 3.0,
        "latency_ms.p99": 4.5,
        "differing_translations": 7,
        "load_seconds": 0.25,
        "peak_memory_bytes": 100 * 2**20,
    }
    table = latency_table([record("student_onnx_int8", full), record("other", {})])
    header, _, row, other = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    cells = dict(zip(header, row, strict=True))
    assert (cells["BLEU"], cells["median ms"], cells["p99"]) == ("31.23", "2.00", "4.50")
    assert cells["differ"] == "7"
    assert (cells["over greedy"], cells["over beam 4"]) == ("3.00×", "6.00×")
    assert (cells["at 32"], cells["at 128"], cells["MiB"]) == ("600", "", "100")
    assert other == ["other"] + [""] * (len(header) - 1)


def test_the_table_of_a_profile():
    parts = ("encoder", "codes", "predictor", "decompressor", "decoder", "pieces")
    metrics = {f"ms.{part}": 0.5 for part in ("tokenise", "engine", "detokenise", "python")}
    metrics |= {f"ms.engine.{part}": 0.25 for part in parts} | {"ms.total": 2.0}
    metrics |= {f"operators.{part}": 7 for part in parts}
    metrics |= {"floor_ms.arithmetic": 0.1, "floor_ms.bandwidth": 0.2}
    lines = profile_table([record("student_onnx_int8", metrics)]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines]
    assert ["· decoder", "0.250", "12%", "7"] in rows
    assert ["engine", "0.500", "25%", ""] in rows


@pytest.mark.slow
def test_a_process_is_measured_alone(finished_run):
    sentences = finished_run.lines("corpus/test.test.en")[:2]
    found = measure_footprint(finished_run.folder / "student", sentences, beam=1, threads=1)
    assert 0.1 < found.load_seconds < 120
    assert 50e6 < found.peak_memory_bytes < 2e9
