"""Ratios to CTranslate2, and footprints of processes."""

import pytest

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.experiments.engines import ratios_to_peers, sources_of_length
from vqnmt.experiments.footprint import measure_footprint

METRICS = {
    "ar_beam4": {"latency_ms.median": 40.0, "sentences_per_second.batch_32": 50.0},
    "ctranslate2_fp32_greedy": {"latency_ms.median": 8.0, "sentences_per_second.batch_32": 300.0},
    "ctranslate2_int8_greedy": {"latency_ms.median": 6.0, "sentences_per_second.batch_32": 200.0},
    "ctranslate2_int8_beam4": {"latency_ms.median": 12.0, "sentences_per_second.batch_32": 100.0},
    "deep_shallow_ctranslate2_int8_greedy": {"latency_ms.median": 1.0},
    "student_onnx_int8": {"latency_ms.median": 2.0, "sentences_per_second.batch_32": 600.0},
}


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


@pytest.mark.slow
def test_a_process_is_measured_alone(finished_run):
    sentences = finished_run.lines("corpus/test.test.en")[:2]
    found = measure_footprint(finished_run.folder / "student", sentences, beam=1, threads=1)
    assert 0.1 < found["load_seconds"] < 120
    assert 50e6 < found["peak_memory_bytes"] < 2e9


def test_sources_of_a_length_are_the_text_in_its_order(finished_run) -> None:
    vocabulary = Vocabulary.load(finished_run.folder / "student" / "spm.model")
    text = finished_run.lines("corpus/train.en")
    for length in (1, 2, 7):
        found = sources_of_length(text, vocabulary, length)
        assert len(found) == 10
        assert "".join(text).replace(" ", "").startswith("".join(found).replace(" ", ""))
    assert len(sources_of_length(text[:1], vocabulary, 1000)) == 1
