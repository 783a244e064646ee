"""The benchmark of engines and the profile on the toy run: records, tables, picture."""

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from vqnmt.evaluation.scores import score
from vqnmt.translate.pytorch import Translator

pytest.importorskip("ctranslate2")


@pytest.mark.slow
def test_benchmark_of_a_run(finished_run, tmp_path: Path, script: Callable) -> None:
    footprint = {"load_seconds": 1.0, "peak_memory_bytes": 2**20}
    with mock.patch("vqnmt.experiments.engines.measure_footprint", return_value=footprint):
        outcome = script(
            "benchmark_latency",
            "--run",
            finished_run.folder,
            "--sentences",
            12,
            "--deep-shallow",
            finished_run.folder / "teacher",
            "--threads",
            1,
            "--results",
            tmp_path,
        )
    assert outcome.status == 0, outcome.err
    (file,) = tmp_path.glob("*.json")
    records = {record["system"]: record for record in json.loads(file.read_text())}
    searches = [f"{p}_{s}" for p in ("fp32", "int8") for s in ("greedy", "beam4")]
    assert list(records) == [
        "ar_greedy",
        "ar_beam4",
        *(f"ctranslate2_{name}" for name in searches),
        "student",
        "student_rescored",
        "student_onnx_fp32",
        "student_onnx_fp32_rescored",
        "student_onnx_int8",
        "student_onnx_int8_rescored",
        "deep_shallow_greedy",
        "deep_shallow_beam4",
        *(f"deep_shallow_ctranslate2_{name}" for name in searches),
    ]
    assert file.with_suffix(".png").stat().st_size > 5000
    assert file.with_name(f"{file.stem}-lengths.png").stat().st_size > 5000
    sources, references = (
        finished_run.lines(f"corpus/test.test.{code}")[:12] for code in ("en", "de")
    )
    teacher = Translator.from_pretrained(finished_run.folder / "teacher").translate(sources)
    bleu = score([t.text for t in teacher], references, "de").bleu
    for name in ("ar_greedy", "ctranslate2_fp32_greedy", "deep_shallow_greedy"):
        assert records[name]["metrics"]["bleu.test"] == pytest.approx(bleu)
    students = [records[f"student{engine}"]["metrics"] for engine in ("", "_onnx_fp32")]
    assert len({metrics["bleu.test"] for metrics in students}) == 1
    assert [metrics["differing_translations"] for metrics in students] == [0, 0]
    assert records["ctranslate2_fp32_greedy"]["metrics"]["differing_translations"] == 0
    rescored = [records[f"student{engine}_rescored"]["metrics"] for engine in ("", "_onnx_fp32")]
    assert len({metrics["bleu.test"] for metrics in rescored}) == 1
    assert rescored[0]["bleu.test"] != students[0]["bleu.test"]
    assert [metrics["differing_translations"] for metrics in rescored] == [0, 0]
    sizes = {name: record["metrics"]["model_bytes"] for name, record in records.items()}
    assert sizes["student_onnx_int8_rescored"] == (
        sizes["student_onnx_int8"] + sizes["ctranslate2_int8_greedy"]
    )
    for record in records.values():
        metrics = record["metrics"]
        assert 0 < metrics["latency_ms.median"] <= metrics["latency_ms.p90"]
        assert metrics["latency_ms.tokens_1"] > 0
        assert metrics["latency_ms.p90"] <= metrics["latency_ms.p99"]
        assert all(metrics[f"sentences_per_second.batch_{size}"] > 0 for size in (8, 32, 128))
        assert metrics["ratio_to_ctranslate2_greedy"] > 0 and metrics["model_bytes"] > 10_000
    assert "student_onnx_int8" in outcome.out


@pytest.mark.slow
def test_profile_of_a_run(finished_run, tmp_path: Path, script: Callable) -> None:
    arguments = ("benchmark_latency", "--run", finished_run.folder, "--profile", "--threads", 1)
    with mock.patch("vqnmt.experiments.profile._RUNS", 10):
        outcome = script(*arguments, "--results", tmp_path)
    assert outcome.status == 0, outcome.err
    (record,) = json.loads(next(tmp_path.glob("*-profile.json")).read_text())
    metrics = record["metrics"]
    for part in ("encoder", "codes", "predictor", "decompressor", "decoder", "pieces"):
        assert metrics[f"ms.engine.{part}"] > 0 and metrics[f"operators.{part}"] > 3
    assert metrics["floor_ms.arithmetic"] > 0 and metrics["floor_ms.bandwidth"] > 0
    assert "· decoder" in outcome.out


@pytest.mark.slow
def test_some_systems_on_some_test_sets(finished_run, tmp_path: Path, script: Callable) -> None:
    footprint = {"load_seconds": 1.0, "peak_memory_bytes": 2**20}
    names = ["ctranslate2_int8_greedy", "student_onnx_int8"]
    with mock.patch("vqnmt.experiments.engines.measure_footprint", return_value=footprint):
        outcome = script(
            "benchmark_latency",
            "--run",
            finished_run.folder,
            "--results",
            tmp_path,
            "--threads",
            1,
            "--sentences",
            6,
            "--test-sets",
            "test",
            "--systems",
            *names,
        )
    assert outcome.status == 0, outcome.err
    (file,) = tmp_path.glob("*-test-threads-1.json")
    records = json.loads(file.read_text())
    assert [record["system"] for record in records] == names
    for record in records:
        assert record["metrics"]["latency_ms.p90"] > 0 and "bleu.test" in record["metrics"]
        assert "differing_translations" not in record["metrics"]


def test_wrong_options_are_named(finished_run, script: Callable) -> None:
    outcome = script("benchmark_latency", "--run", finished_run.folder, "--rounds", 0)
    assert outcome.status == 2 and "--rounds: 0 is not" in outcome.err
    for wrong, fault in (
        (("--test-sets", "tset"), "--test-sets: tset is not a test set of the run: test"),
        (("--systems", "studnet"), "there is no system studnet: choose among ar_greedy, ar_beam4"),
        (("--systems", "student_rescored"), "student_rescored needs ar_greedy: name it too"),
    ):
        outcome = script("benchmark_latency", "--run", finished_run.folder, *wrong)
        assert outcome.status == 2 and fault in outcome.err
