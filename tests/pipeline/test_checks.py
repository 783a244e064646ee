"""All settings and places are checked before the first stage; the run's own files come first."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vqnmt.evaluation.records import read_records

FSQ = ["quantizer=fsq", "student_model.quantizer.codebook_size=64"]
FIVE_PARTS = ["++student_model.quantizer.parts=5", "student_model.quantizer.codebook_size=32"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["student_model.transformer.dim=30", "student_model.transformer.heads=2"], "shape"),
        (["student_model.decoder_layers=100000"], "cannot have 100000"),
        (["quantizer=product", *FIVE_PARTS], "quantizer.parts is 5: it must divide 32"),
        (["student=fertility", "fertility_student.transformer.dim=16"], "warm_start is true"),
        (["student=autoregressive", "autoregressive_student.transformer.dim=16"], "warm_start"),
        (
            ["teacher=nowhere/at/all"],
            "teacher=nowhere/at/all: it cannot be loaded as a sequence-to-sequence model",
        ),
        (
            ["vocabulary.formality=true", "corpus.target_language=it"],
            "vocabulary.formality is true, but the words that show it in 'it' are not known",
        ),
        (["records={file}"], "records={file}: {file} cannot be written (Not a directory)"),
        (["records={file}/below"], "records={file}/below: {file} cannot be written"),
        (["records=/proc/none"], "records=/proc/none: /proc cannot be written"),
        (["records={damaged}"], "files-en-de.json: line 1 is not valid JSON"),
    ],
)
def test_what_a_later_stage_cannot_do_is_refused_and_nothing_made(
    tmp_path: Path, overrides: list[str], script: Callable, changes: list[str], part: str
) -> None:
    places = {"file": tmp_path / "file", "damaged": tmp_path / "damaged"}
    places["file"].write_text("x")
    places["damaged"].mkdir()
    (places["damaged"] / "files-en-de.json").write_text("[")
    before = sorted(tmp_path.rglob("*"))
    changes = [change.format(**places) for change in changes]
    for name in ("train_nmt", "distill", "reproduce_translation"):
        few = ["systems=[nat_kd]"] if name == "reproduce_translation" else []
        if few and not changes[0].startswith("records"):
            continue  # its systems have students of their own
        outcome = script(name, f"run={tmp_path / 'run'}", *overrides, *changes, *few)
        assert outcome.status == 2, outcome.out
        assert part.format(**places) in outcome.err and outcome.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_told_before_the_corpus(
    tmp_path: Path, overrides: list[str], script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vector_quantize_pytorch", None)
    outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides, *FSQ)
    assert outcome.status == 2 and "needs the package vector-quantize-pytorch" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_every_quantizer_and_system_is_checked_before_the_first(
    tmp_path: Path, overrides: list[str], script: Callable
) -> None:
    run = f"run={tmp_path / 'run'}"
    odd = "student_model.quantizer.codebook_size=33"
    outcome = script("compare_quantizers", run, *overrides, "students=[ema,product]", odd)
    assert outcome.status == 2 and "quantizer.codebook_size is 33" in outcome.err
    wide = "student_model.transformer.dim=16"
    outcome = script("reproduce_translation", run, *overrides, "systems=[nat_kd,best]", wide)
    assert outcome.status == 2 and "warm_start is true" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_image_track_checks_too(tmp_path: Path, script: Callable) -> None:
    (tmp_path / "file").write_text("x")
    folder = ["data=folder", f"data.train={tmp_path}", "budget=tiny"]
    for name, change, part in (
        ("train_image", "data.size=33", "data.size is 33"),
        ("reproduce_image", "data.size=33", "data.size is 33"),
        ("train_image", f"records={tmp_path / 'file'}", "cannot be written (Not a directory)"),
    ):
        run = [] if name == "reproduce_image" else [f"run={tmp_path / 'run'}"]
        outcome = script(name, *run, *folder, change)
        assert outcome.status == 2 and part in outcome.err, outcome.err
    run = script("train_image", f"run={tmp_path / 'file'}", *folder)
    assert run.status == 2 and f"run={tmp_path / 'file'}: " in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_as_run_folder_is_one_sentence(
    tmp_path: Path, overrides: list[str], script: Callable, below: str
) -> None:
    (tmp_path / "file").write_text("x")
    outcome = script("train_nmt", f"run={tmp_path / 'file'}{below}", *overrides)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"run={tmp_path / 'file'}{below}: {tmp_path / 'file'} cannot be written" in outcome.err
    assert (tmp_path / "file").read_text() == "x"


def test_records_that_cannot_be_added_cost_neither_report_nor_card(
    finished_run, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes bad while the run works, so that no probe can tell."""
    run, records = tmp_path / "run", tmp_path / "records"
    shutil.copytree(finished_run.folder, run)
    shutil.rmtree(run / "evaluation")
    for name in ("results.json", "report.md", "student/README.md"):
        (run / name).unlink()
    (run / ".report.md.99.abcdefgh.tmp").write_text("left by a killed run")
    records.write_text("a file")
    monkeypatch.setattr("vqnmt.pipeline.run.check_places", lambda *_: None)
    values = [value for value in finished_run.overrides if not value.startswith("records=")]
    command = ["train_nmt", f"run={run}", *values, f"records={records}"]
    for _ in range(2):
        outcome = script(*command)
        assert outcome.status == 0, outcome.err
        assert outcome.err.splitlines()[-1].startswith("warning: the records stand in the run")
        assert len(read_records(run / "results.json")) == 4
        assert (run / "report.md").exists() and not list(run.glob(".*.tmp"))
        assert "vq_ctc_skd_nc3_lm" in (run / "student" / "README.md").read_text()
    records.unlink()
    outcome = script(*command)
    assert outcome.status == 0 and "warning" not in outcome.err
    found = json.loads((records / "files-en-de.json").read_text())
    assert found == json.loads((run / "results.json").read_text())


def test_records_name_the_commit_of_the_training(
    finished_run, tmp_path: Path, script: Callable
) -> None:
    assert all(record["training_commit"] for record in finished_run.records)
    run = tmp_path / "run"
    shutil.copytree(finished_run.folder, run)
    shutil.rmtree(run / "evaluation")
    stamp = json.loads((run / "student" / "stage.json").read_text())
    stamp |= {"commits": ["aaa", "bbb"], "seconds": 1234.5}
    (run / "student" / "stage.json").write_text(json.dumps(stamp))
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides)
    assert outcome.status == 0, outcome.err
    student = read_records(run / "results.json")[-1]
    assert (student.training_commit, student.wall_seconds) == ("aaa, bbb", 1234.5)
    assert "(of the training: aaa, bbb)" in (run / "report.md").read_text()
