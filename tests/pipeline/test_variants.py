"""The switches of the main job, each run for a few steps; and a teacher from elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import read_records
from vqnmt.translate.seq2seq import TransformersTranslator

FEW_STEPS = [
    "teacher_training.steps=3",
    "student_training.steps=3",
    "teacher_training.validate_every=3",
    "student_training.validate_every=3",
    "evaluation.latency_sentences=0",
]


@pytest.mark.parametrize(
    ("changes", "system"),
    [
        pytest.param(["distill=false", "warm_start=false"], "vq_ctc_nc3", id="raw-text"),
        pytest.param(
            ["quantizer=soft_em", "distill=false", "student_model.compression=2"],
            "vq_em_ctc_nc2",
            id="soft-em",
        ),
        pytest.param(
            [
                "student_model.output=cross_entropy",
                "student_model.upsampling=1",
                "student_model.gold_mixing=true",
                "student_model.causal_decoder=true",
                "student_model.source_in_compressor=false",
                "distill=false",
            ],
            "vq_nc3",
            id="as-in-the-reference-code",
        ),
        pytest.param(
            ["experiment=nat_kd_npd10", "distill=false"], "nat_rescored10", id="fertility-nat"
        ),
        pytest.param(["experiment=glat_ctc_kd", "distill=false"], "glat_ctc", id="without-codes"),
        pytest.param(
            ["experiment=ar_deep_shallow", "distill=false"], "ar_2_1", id="deep-and-shallow"
        ),
    ],
)
def test_variant_runs(
    tmp_path: Path, overrides: list[str], script: Callable, changes: list[str], system: str
) -> None:
    run = tmp_path / "run"
    outcome = script("train_nmt", f"run={run}", *overrides, *FEW_STEPS, *changes)
    assert outcome.status == 0, outcome.err
    assert f"| {system} " in outcome.out
    assert not (run / "distilled").exists()
    assert (run / "student" / "model.safetensors").exists()


def test_the_teacher_can_be_measured_alone(
    tmp_path: Path, overrides: list[str], script: Callable
) -> None:
    run = tmp_path / "run"
    outcome = script("train_nmt", f"run={run}", *overrides, *FEW_STEPS, "experiment=ar_greedy")
    assert outcome.status == 0, outcome.err
    assert not (run / "distilled").exists() and not (run / "student").exists()
    assert f" model: {run / 'teacher'}\n" in outcome.out
    records = read_records(run / "results.json")
    assert [record.system for record in records] == ["ar_beam4", "ar_greedy"]
    assert all(record.wall_seconds > 0 for record in records)


def test_ctranslate2_distils_what_pytorch_does_but_for_rounding(
    tmp_path: Path, overrides: list[str], script: Callable, finished_run
) -> None:
    run = tmp_path / "run"
    outcome = script(
        "train_nmt",
        f"run={run}",
        f"teacher={finished_run.folder / 'teacher'}",
        *overrides,
        *FEW_STEPS,
        "distillation_engine=ctranslate2",
    )
    assert outcome.status == 0, outcome.err
    here, there = ((f / "distilled/train.de") for f in (run, finished_run.folder))
    pairs = list(zip(here.read_text().splitlines(), there.read_text().splitlines(), strict=True))
    assert sum(a == b for a, b in pairs) > 0.6 * len(pairs)
    settings = json.loads((run / "distilled/stage.json").read_text())["settings"]
    assert settings["distillation_engine"] == "ctranslate2"


@pytest.fixture(scope="module")
def foreign_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random T5 with a tokenizer that needs no vocabulary file."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(1)
    config = T5Config(
        **{"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1},
        **{"num_heads": 2, "decoder_start_token_id": 0},
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config.max_length = 5  # the caller's own limit must win
    model.save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("change", ["student=fertility", "decoding.candidates=10"])
def test_foreign_teacher_has_no_alignments_and_no_scores(
    tmp_path: Path, overrides: list[str], script: Callable, foreign_checkpoint: Path, change: str
) -> None:
    settings = [f"run={tmp_path / 'run'}", f"teacher={foreign_checkpoint}", change]
    outcome = script("distill", *overrides, *settings)
    assert outcome.status == 2
    assert f"{change} needs a teacher of ours" in outcome.err


def test_foreign_teacher_distils_and_is_measured(
    tmp_path: Path, overrides: list[str], script: Callable, foreign_checkpoint: Path, toy_corpus
) -> None:
    for language in ("en", "de"):
        lines = (toy_corpus / f"train.{language}").read_text().splitlines(keepends=True)
        (tmp_path / f"few.{language}").write_text("".join(lines[:60]))
    run = tmp_path / "run"
    outcome = script(
        "train_nmt",
        f"run={run}",
        *overrides,
        *FEW_STEPS,
        f"teacher={foreign_checkpoint}",
        "beam=2",
        f"corpus.train.source={tmp_path / 'few.en'}",
        f"corpus.train.target={tmp_path / 'few.de'}",
        "corpus.valid_share=0.1",
        "corpus.test_share=0.1",
        "vocabulary.size=300",
        "corpus.max_ratio=50",
    )
    assert outcome.status == 0, outcome.err
    assert not (run / "teacher").exists()
    sources, texts = (
        (run / path).read_text(encoding="utf-8").split("\n")[:-1]
        for path in ("corpus/train.en", "distilled/train.de")
    )
    assert len(texts) == len(sources) and any(texts)
    teacher = TransformersTranslator(str(foreign_checkpoint), "en", "de")
    assert teacher.translate(sources[:1], beam=2)[0].text == texts[0]


def test_foreign_translator_keeps_order_and_empty_lines(foreign_checkpoint: Path) -> None:
    teacher = TransformersTranslator(str(foreign_checkpoint), "en", "de", batch_size=2)
    sentences = ["eins zwei drei", "", "vier", "  ", "fuenf sechs"]
    together = [translation.text for translation in teacher.translate(sentences, beam=2)]
    assert together == [teacher.translate([s], beam=2)[0].text for s in sentences]
    assert together[1] == together[3] == ""


@pytest.mark.parametrize("name", ["missing", "no-model"])
def test_teacher_that_cannot_be_loaded_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "no-model").mkdir()
    with pytest.raises(VqnmtError, match=f"teacher={tmp_path / name}: .*own, a folder or a name"):
        TransformersTranslator(str(tmp_path / name), "en", "de")
