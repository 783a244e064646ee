"""The comparison of quantizers on a toy run: what it reuses, what it records, what it skips."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from vqnmt.commands.command_line import load_config

import pytest
import torch
from PIL import Image

from vqnmt.data.corpus import load_corpus
from vqnmt.evaluation.records import read_records
from vqnmt.experiments.comparison import latent_metrics
from vqnmt.translate.pytorch import Translator

SYSTEMS = ["ema_reference_start", "vq_pytorch_defaults", "ema", "soft_em", "soft_em_sqrt_dim"]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def command(finished_run, tmp_path_factory) -> list[str]:
    """Return the arguments that compare on a copy of the finished run."""
    folder = tmp_path_factory.mktemp("comparison")
    shutil.copytree(finished_run.folder, folder / "run")
    kept = [x for x in finished_run.overrides if not x.startswith(("records=", "student_training"))]
    return [
        *kept,
        f"run={folder / 'run'}",
        f"records={folder / 'records'}",
        "students=[ema,semhash]",
        "student_training.steps=4",
        "student_training.batch_tokens=256",
        "student_training.validate_every=4",
        "collapse.codebook_size=16",
        "collapse.steps=20",
        "collapse.batch=64",
        "collapse.vectors=300",
        "collapse.dim=4",
    ]


@pytest.fixture(scope="module")
def compared(command, script: Callable):
    pytest.importorskip("vector_quantize_pytorch")
    outcome = script("compare_quantizers", *command)
    assert outcome.status == 0, outcome.err
    run, records = (
        Path(next(x for x in command if x.startswith(key)).split("=")[1])
        for key in ("run=", "records=")
    )
    return outcome, run, records


def test_the_run_is_used_and_left_as_it_was(finished_run, compared) -> None:
    _, run, _ = compared
    for path in finished_run.folder.rglob("*"):
        if path.is_file():
            assert (run / path.relative_to(finished_run.folder)).read_bytes() == path.read_bytes()
    # No student has stages of its own before the student.
    assert {path.name for path in (run / "quantizers" / "ema").iterdir()} == {
        "student",
        "evaluation",
    }


def test_collapse_records_and_pictures(compared) -> None:
    outcome, _, folder = compared
    records = read_records(folder / "collapse.json")
    found = [(r.system, r.corpus) for r in records]
    assert found == [(s, c) for c in ("gaussian", "files-en-de") for s in SYSTEMS]
    for record in records:
        assert 1 <= record.metrics["perplexity"] <= record.metrics["used_codes"] <= 16
        assert record.metrics["used_codes"] == record.metrics["used_codes.step_20"]
        assert record.parameters == 16 * record.metrics["dim"]
        # Where things stand is no part of a record.
        assert not any(x.startswith(("run=", "records=", "students=")) for x in record.overrides)
        assert "collapse.steps=20" in record.overrides
        assert f"| {record.system} " in outcome.out
    assert [path.name for path in folder.glob("*.png")] == ["collapse.png"]
    with Image.open(folder / "collapse.png") as image:
        image.verify()
    drawn = (folder / "collapse.svg").read_text(encoding="utf-8")
    # One panel for each codebook and stream, and the settings of the codebook that is not ours.
    for record in records:
        stream = "gaussian" if record.corpus == "gaussian" else "encoder"
        assert f"<!-- {record.system} on {stream} " in drawn
    assert "decay=0.8, kmeans_init=False, threshold_ema_dead_code=0" in drawn


def test_students_records_are_those_of_the_saved_students(compared) -> None:
    outcome, run, folder = compared
    records = read_records(folder / "students.json")
    assert [record.system for record in records] == ["ema", "semhash"]
    valid = load_corpus(run / "corpus").valid
    for record in records:
        student = Translator.from_pretrained(run / "quantizers" / record.system / "student")
        assert student.model.config.quantizer.name == record.system
        expected = latent_metrics(student, valid)
        assert {key: record.metrics[key] for key in expected} == expected
        rows = [
            json.loads(line)
            for line in (run / "quantizers" / record.system / "student/training/metrics.jsonl")
            .read_text()
            .splitlines()
        ]
        assert max(row["step"] for row in rows) == record.metrics["steps"] == 4
        assert f"| {record.system} " in outcome.out


def test_what_is_done_is_skipped_and_further_students_are_added(
    compared, command, script: Callable
) -> None:
    _, _, folder = compared
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        mock.patch("vqnmt.training.loop.Trainer.train", side_effect=AssertionError),
        mock.patch("vqnmt.experiments.comparison.train_codebook", side_effect=AssertionError),
    ):
        outcome = script("compare_quantizers", *command)
    assert outcome.status == 0, outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    further = [x for x in command if not x.startswith("students=")]
    students = "students=[ema,soft_em,semhash,residual]"
    outcome = script("compare_quantizers", *further, students, "collapse.steps=0")
    assert outcome.status == 0, outcome.err
    systems = [record.system for record in read_records(folder / "students.json")]
    assert systems == ["ema", "semhash", "soft_em", "residual"]


def test_every_student_of_the_default_composes() -> None:
    students = load_config("compare_quantizers", [])["students"]
    assert len(set(students)) == len(students) > 4
    for name in students:
        values = load_config("compare_quantizers", [f"quantizer={name}"])
        assert values["student_model"]["quantizer"]["name"] == name


def test_latent_metrics_are_exact_means(finished_run) -> None:
    """Against one sentence at a time, without padding."""
    student = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    valid = load_corpus(finished_run.folder / "corpus").valid
    found = latent_metrics(student, valid)
    model, codes = student.model, []
    ends = 0 if model.config.joint_end else 1  # symbols of a sentence beside its codes
    reconstruction = prediction = tokens = 0.0
    with torch.no_grad():
        for source, target in zip(
            *(student.vocabulary.encode(side) for side in (valid.sources, valid.targets)),
            strict=True,
        ):
            x, y = torch.tensor([source]), torch.tensor([target])
            losses = model(x, y)
            z_e, _ = model.compress(y, *model.encode(x))
            codes += model.quantizer.nearest(z_e).flatten().tolist()
            reconstruction += float(losses.terms["reconstruction"]) * len(target)
            prediction += float(losses.terms["prediction"]) * (z_e.shape[1] + ends)
            tokens += len(target)
    assert found["used_codes.valid"] == len(set(codes))
    assert found["reconstruction_loss.valid"] == pytest.approx(reconstruction / tokens, rel=1e-4)
    expected = prediction / (len(codes) + ends * len(valid.sources))
    assert found["predictor_loss.valid"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["students=[emma]"], "quantizer=emma is not a known choice: did you mean ema?"),
        (["collapse.batch=0"], "collapse.batch is 0; it must be 1 or more"),
        (["collapse.stepz=1"], "collapse.stepz is not a known key"),
        (["run={tmp}/none", "teacher_training.steps=1"], "student: no such model folder"),
    ],
)
def test_mistakes_are_named_in_the_last_line(
    command, tmp_path: Path, script: Callable, changes, part: str
) -> None:
    changes = [change.format(tmp=tmp_path) for change in changes]
    keys = tuple(change.split("=")[0] + "=" for change in changes)
    kept = [x for x in command if not x.startswith(keys)]
    outcome = script("compare_quantizers", *kept, *changes)
    assert outcome.status == 2
    assert part in outcome.err.rstrip("\n").splitlines()[-1]


def test_pieces_that_the_student_cannot_write_are_measured_too(finished_run) -> None:
    """As where validation has words that no target of the training has."""
    student = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    valid = load_corpus(finished_run.folder / "corpus").valid
    pieces = [piece for row in student.vocabulary.encode(valid.targets) for piece in row]
    student.model.embedding.written = max(pieces)  # all but the last of them
    found = latent_metrics(student, valid)
    assert all(math.isfinite(value) for value in found.values())
