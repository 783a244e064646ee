"""A model folder of ours as the teacher of another run, instead of training one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from vqnmt.checksums import CHECKSUMS

FEW_STEPS = [
    "student_training.steps=3",
    "student_training.validate_every=3",
    "evaluation.latency_sentences=0",
]


def test_own_model_folder_is_the_teacher(
    finished_run, tmp_path: Path, overrides: list[str], script: Callable
) -> None:
    run, teacher = tmp_path / "run", finished_run.folder / "teacher"
    command = ["train_nmt", f"run={run}", *overrides, *FEW_STEPS, f"teacher={teacher}"]
    outcome = script(*command)
    assert outcome.status == 0, outcome.err
    assert not (run / "teacher").exists(), "none is trained"
    assert "weights start as the teacher's" in outcome.out
    # The same teacher as in the run that trained it.
    text = (run / "distilled" / "train.de").read_bytes()
    assert text == (finished_run.folder / "distilled" / "train.de").read_bytes()
    records = json.loads((run / "results.json").read_text())
    for record, before in zip(records[:2], finished_run.records, strict=False):
        assert record["system"] == before["system"]
        assert record["metrics"]["bleu.test"] == before["metrics"]["bleu.test"]
        assert record["parameters"] == before["parameters"]
    again = script(*command)
    assert again.status == 0 and "student: trained already" in again.out


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("student", [], "teacher={}: a latent model: give the folder of an autoregressive one"),
        ("teacher", ["teacher_prefix=x"], "teacher_prefix is 'x', but teacher={} is a model of"),
        (
            "teacher",
            ["corpus.source_language=fr"],
            "teacher={}: translates from en to de, but the corpus is from fr to de",
        ),
        (
            "teacher",
            ["vocabulary.size=305"],
            "warm_start is true, but teacher={} has another vocabulary than this run: set warm_st",
        ),
        (
            "teacher",
            ["vocabulary.size=305", "warm_start=false", "student=fertility"],
            "student=fertility, but teacher={} has another vocabulary",
        ),
        (
            "teacher",
            ["student_model.transformer.dim=16"],
            "warm_start is true, but embedding.weight has shape (318, 32) in the teacher",
        ),
    ],
    ids=["latent", "prefix", "languages", "vocabulary", "alignments", "width"],
)
def test_teacher_that_does_not_fit_is_refused_before_any_work(
    *, finished_run, tmp_path: Path, script: Callable, model: str, changes: list[str], message: str
) -> None:
    run, folder = tmp_path / "run", finished_run.folder / model
    settings = [f"run={run}", *finished_run.overrides, f"teacher={folder}", *changes]
    outcome = script("distill", *settings)
    assert outcome.status == 2
    assert message.format(folder) in outcome.err
    assert not (run / "distilled").exists()


def test_teacher_of_another_vocabulary_distils_and_its_changes_are_noticed(
    finished_run, tmp_path: Path, script: Callable
) -> None:
    folder, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(finished_run.folder / "teacher", folder)
    settings = ["vocabulary.size=305", "warm_start=false", f"teacher={folder}"]
    command = ["distill", f"run={run}", *finished_run.overrides, *settings]
    assert script(*command).status == 0
    text = (run / "distilled" / "train.de").read_bytes()
    assert text == (finished_run.folder / "distilled" / "train.de").read_bytes()
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.norm.weight"] *= 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / CHECKSUMS).unlink()  # the change is meant
    changed = script(*command)
    assert changed.status == 2
    assert "distilled was made with digest of the teacher=" in changed.err
