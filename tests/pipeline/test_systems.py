"""What is measured of a system, and how a teacher chooses among its candidates."""

import dataclasses

import pytest
import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.experiments.reproduction import Reproduction, Row
from vqnmt.models import CtcConfig, FertilityConfig, FertilityTransformer, LatentConfig
from vqnmt.pipeline import PipelineConfig
from vqnmt.pipeline.config import DecodingConfig, EvaluationConfig
from vqnmt.pipeline.systems import (
    BASELINE,
    System,
    quality_metrics,
    speed_metrics,
    system_name,
)
from vqnmt.translate.generation import find_translations
from vqnmt.translate.pytorch import Translator

POSITIONS = LatentConfig(output="cross_entropy", upsampling=1)
SENTENCES = ["ba do fi", "gu ka", "le ba gu do"]


@pytest.fixture
def teacher(finished_run) -> Translator:
    return Translator.from_pretrained(finished_run.folder / "teacher", device="cpu")


def test_noisy_parallel_decoding_takes_what_the_teacher_scores_best(teacher) -> None:
    torch.manual_seed(0)
    size = teacher.model.config.transformer
    config = FertilityConfig(transformer=size, max_fertility=3)
    model = FertilityTransformer(config, len(teacher.vocabulary)).eval()
    student = Translator(model, teacher.vocabulary, "en", "de")
    chosen = []
    for sentence in SENTENCES:
        row = torch.tensor(teacher.vocabulary.encode([sentence]))
        torch.manual_seed(7)
        (drawn,) = find_translations(model, row, SearchSettings(candidates=10))
        values = {}
        for text in teacher.vocabulary.decode([hypothesis.symbols for hypothesis in drawn]):
            tokens = teacher.vocabulary.encode([text])
            log_p = teacher.model.score(row, torch.tensor(tokens)).item()
            values[text] = log_p / (len(tokens[0]) + 1)
        assert len(values) > 3
        torch.manual_seed(7)
        system = System(student, DecodingConfig(candidates=10), teacher)
        chosen.append(system.one(sentence))
        assert values[chosen[-1]] == pytest.approx(max(values.values()), rel=1e-4)
    assert chosen != [System(student).one(sentence) for sentence in SENTENCES]


def test_beam_is_that_of_the_decoding(teacher) -> None:
    found = System(teacher, DecodingConfig(beam=4)).translate(SENTENCES)
    assert [t.text for t in found] == [t.text for t in teacher.translate(SENTENCES, beam=4)]


def test_language_model_is_that_of_the_decoding(finished_run) -> None:
    student = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    model = student.language_model
    model.fusion = model.fusion._replace(weight=3.0)
    found = System(student, DecodingConfig(language_model=False)).translate(SENTENCES)
    assert found == student.translate(SENTENCES, language_model=False)
    assert found != System(student).translate(SENTENCES) == student.translate(SENTENCES)


def test_all_systems_are_timed_alike(teacher) -> None:
    systems = {BASELINE: System(teacher, DecodingConfig(beam=4)), "ar_greedy": System(teacher)}
    settings = EvaluationConfig(
        latency_sentences=2, latency_rounds=1, latency_warmup=1, throughput_batches=[2]
    )
    found = speed_metrics(systems, SENTENCES, settings)
    assert set(found) == set(systems)
    for metrics in found.values():
        assert metrics["latency_sentences"] == 2
        assert metrics["sentences_per_second.batch_2"] > 0
    assert found[BASELINE]["speedup_over_ar_beam4"] == 1
    assert speed_metrics(systems, SENTENCES, EvaluationConfig(latency_sentences=0)) == {
        name: {} for name in systems
    }


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "vq_ctc_kd_nc3_lm"),
        ({"distill": "selected"}, "vq_ctc_skd_nc3_lm"),
        ({"distill": False, "decoding": DecodingConfig(beam=4)}, "vq_ctc_nc3_beam4_lm"),
        ({"decoding": DecodingConfig(candidates=10)}, "vq_ctc_kd_nc3_lm_rescored10"),
        ({"decoding": DecodingConfig(language_model=False)}, "vq_ctc_kd_nc3"),
        ({"student_model": POSITIONS}, "vq_kd_nc3"),
        ({"student": "fertility"}, "nat_kd"),
        ({"student": "ctc"}, "ctc_nat_kd_lm"),
        ({"student": "ctc", "ctc_student": CtcConfig(glancing=True)}, "glat_ctc_kd_lm"),
        ({"student": "autoregressive"}, "ar_5_1_kd"),
        ({"student": "teacher"}, "ar_greedy"),
        ({"student": "teacher", "decoding": DecodingConfig(beam=4)}, "ar_beam4"),
    ],
)
def test_a_system_is_named_by_its_settings(settings, name) -> None:
    assert system_name(PipelineConfig(run="run", **({"distill": True} | settings))) == name


def test_what_systems_share_must_not_differ() -> None:
    config = PipelineConfig(run="run", student="teacher")
    other = dataclasses.replace(config, beam=2)
    with pytest.raises(VqnmtError, match=r"system b sets beam=2, but all systems share beam=4"):
        Reproduction({"a": Row(config, []), "b": Row(other, [])}, seeds=[1])


def test_unknown_student_is_named() -> None:
    with pytest.raises(VqnmtError, match="student is 'nat'; choose one of latent, autoregressive"):
        PipelineConfig(run="run", student="nat")


def test_labels_are_scored_by_exact_match() -> None:
    sentences = ParallelText(["a b c d"], ["e f g h"])
    labels = ParallelText(["On", "Off"], ["An", "Aus"], references=[["An", "Ein"], ["Aus"]])
    sets = {"test": sentences, "labels": labels}
    found = quality_metrics({"test": ["e f g h"], "labels": ["Ein", "aus"]}, sets, "de")
    assert found["exact_match.labels"] == 50.0
    assert found["bleu.test"] == pytest.approx(100.0)
    assert not any(key in found for key in ("bleu.labels", "chrf.labels", "exact_match.test"))
