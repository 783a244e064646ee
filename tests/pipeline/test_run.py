"""One run from text to report: its outputs, a second start, changed settings, interruptions."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml
from sacrebleu import corpus_bleu, sentence_chrf

from tests.conftest import call_script
from tests.processes import run_processes
from vqnmt.evaluation.report import results_table
from vqnmt.progress import Progress
from vqnmt.training.metrics import read_metrics

PNG = b"\x89PNG\r\n\x1a\n"
MODELS = ("teacher", "student")
MODEL_FILES = ("config.json", "model.safetensors", "spm.model", "README.md")
RECORD_KEYS = {
    "system",
    "corpus",
    "overrides",
    "seed",
    "commit",
    "training_commit",
    "hardware",
    "wall_seconds",
    "parameters",
    "metrics",
}
METRIC_KEYS = {
    "bleu.test",
    "bleu.valid",
    "bleu_signature",
    "chrf.test",
    "chrf.valid",
    "chrf_signature",
    "latency_ms.median",
    "latency_ms.p90",
    "speedup_over_ar_beam4",
    "train_tokens_per_second",
}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and content of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_run_folder_is_complete(finished_run) -> None:
    folder = finished_run.folder
    for model in ("teacher", "student"):
        for name in MODEL_FILES:
            assert (folder / model / name).stat().st_size > 0, f"{model}/{name}"
        mode = (folder / model / "model.safetensors").stat().st_mode
        assert mode == (folder / model / "config.json").stat().st_mode, "weights others can read"
        assert list((folder / model / "training").glob("events.out.tfevents.*"))
    for name in ("corpus/train.en", "corpus/train.de", "vocabulary/spm.model", "report.md"):
        assert (folder / name).stat().st_size > 0, name
    distilled = finished_run.lines("distilled/train.de")
    assert len(distilled) == len(finished_run.lines("corpus/train.en"))
    assert len(set(distilled)) > 10
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("tmp*"))


def test_cards_have_the_tags_of_the_method(finished_run) -> None:
    cards = ((finished_run.folder / name / "README.md").read_text() for name in MODELS)
    of_teacher, of_student = (yaml.safe_load(card.split("---")[1])["tags"] for card in cards)
    assert of_teacher == ["translation", "vqnmt"]
    assert of_student == ["translation", "vqnmt", "non-autoregressive", "vq-vae"]


def test_selected_text_is_the_teachers_or_the_references(finished_run) -> None:
    distilled, raw = finished_run.lines("distilled/train.de"), finished_run.lines("corpus/train.de")
    selected = finished_run.lines("selected/train.de")
    close = [sentence_chrf(d, [r]).score >= 70 for d, r in zip(distilled, raw, strict=True)]
    assert selected == [d if near else r for d, r, near in zip(distilled, raw, close, strict=True)]


def test_records_have_every_key(finished_run) -> None:
    records = finished_run.records
    assert [record["system"] for record in records] == [
        "ar_beam4",
        "ar_greedy",
        "vq_ctc_skd_nc3",
        "vq_ctc_skd_nc3_lm",
    ]
    for record in records:
        assert set(record) == RECORD_KEYS
        assert set(record["metrics"]) >= METRIC_KEYS, METRIC_KEYS - set(record["metrics"])
        # The places (run=, records=) are left out: they decide no number.
        places = ("run=", "records=")
        kept = [o for o in finished_run.overrides if not o.startswith(places)]
        assert record["overrides"] == kept and kept
        assert record["corpus"] == "files-en-de" and record["seed"] == 1
        assert {"processor", "threads", "torch"} <= set(record["hardware"])
        assert record["wall_seconds"] > 0 and record["parameters"] > 10_000
        assert len(record["commit"].removesuffix("-dirty")) == 40 or record["commit"] == "unknown"
    student = records[-1]["metrics"]
    assert {"bleu_oracle.valid", "used_codes", "codebook_perplexity"} <= set(student)
    assert {"bleu_random.valid", "target_bits_constant.valid", "code_bits.valid"} <= set(student)
    assert records[0]["metrics"]["speedup_over_ar_beam4"] == 1


def test_the_hypotheses_of_every_system_and_set_are_kept(finished_run) -> None:
    """Anybody can score them again: they give the BLEU of the records."""
    files = {"valid": "valid.de", "test": "test.test.de"}
    expected = set()
    for record in finished_run.records:
        for name, file in files.items():
            expected.add(f"{record['system']}.{name}.txt")
            lines = finished_run.lines(f"hypotheses/{record['system']}.{name}.txt")
            bleu = corpus_bleu(lines, [finished_run.lines(f"corpus/{file}")]).score
            assert bleu == pytest.approx(record["metrics"][f"bleu.{name}"])
    found = {path.name for path in (finished_run.folder / "hypotheses").iterdir()}
    assert found == expected


def test_report_shows_table_pictures_and_ten_translations(finished_run) -> None:
    report = (finished_run.folder / "report.md").read_text(encoding="utf-8")
    table = printed_table(finished_run.outcome.out)
    assert table in report
    pictures = ["training_teacher", "training_student", "code_usage", "bleu_latency"]
    for picture in pictures:
        assert f"({picture}.png)" in report
        assert (finished_run.folder / f"{picture}.png").read_bytes().startswith(PNG)
    assert "## 10 translations side by side" in report
    assert "## What the codes carry" in report and "bits of codes" in report
    report = re.sub(" +", " ", report)  # columns are padded
    assert report.count("| codes | ") == 10
    for key in ("student_model.quantizer.codebook_size | 16", "vocabulary.size | 318", "## Corpus"):
        assert key in report
    # Values as one writes them, and a test set by its own name.
    for row in ("| records | null |", "| distill | selected |", "| seed | 1 |", "| test | 27 |"):
        assert row in report
    assert "test.test" not in report + finished_run.outcome.out
    assert "corpus: test has 27 pairs" in finished_run.outcome.out


def printed_table(out: str) -> str:
    """Everything from the last empty line on."""
    return out.rstrip("\n").rsplit("\n\n", 1)[1]


def test_last_thing_printed_is_the_table(finished_run) -> None:
    from vqnmt.evaluation.records import read_records

    table = printed_table(finished_run.outcome.out)
    assert table == results_table(read_records(finished_run.folder / "results.json"))
    assert max(map(len, table.splitlines())) < 100


def test_progress_lines_show_rate_and_time_left(finished_run) -> None:
    for work in ("teacher: 90 of 90 steps", "distillation: 546 of 546 sentences", "latency: "):
        line = next(x for x in finished_run.outcome.err.splitlines() if x.startswith(work))
        assert "/s · 0:00 left" in line


def test_losses_are_logged_by_name(finished_run) -> None:
    rows = read_metrics(finished_run.folder / "student" / "training" / "metrics.jsonl")
    names = {name for row in rows for name in row}
    for name in ("reconstruction", "prediction", "commitment", "total", "tokens_per_second"):
        assert f"train/{name}" in names
    assert {"valid/bleu_predicted", "valid/bleu_oracle"} <= names
    assert {"epoch/used_codes", "epoch/perplexity", "epoch/code_usage"} <= names


def test_validation_in_training_scores_as_the_saved_model(finished_run) -> None:
    """The student's average is over one snapshot: the weights that the last validation saw.

    A predictor that training for reward has made better on the same sentences takes its place.
    """
    folder = finished_run.folder / "student"
    rows = read_metrics(folder / "training" / "metrics.jsonl")
    last = [row for row in rows if "valid/bleu_predicted" in row][-1]
    (place,) = (folder / "reward").rglob("metrics.jsonl")
    rewarded = [row["valid/bleu"] for row in read_metrics(place) if "valid/bleu" in row][-1]
    best_path, metrics = (record["metrics"] for record in finished_run.records[-2:])
    assert max(last["valid/bleu_predicted"], rewarded) == best_path["bleu.valid"] > 0
    assert last["valid/bleu_oracle"] == metrics["bleu_oracle.valid"]


def test_second_start_skips_every_stage(finished_run, script: Callable) -> None:
    before = contents(finished_run.folder)
    builds = ("AutoregressiveTransformer", "copy_weights", "distill", "ParallelBatches")
    with contextlib.ExitStack() as stack:
        for name in (
            "translate.pytorch.Translator.translate",
            *(f"pipeline.translation.{b}" for b in builds),
        ):
            stack.enter_context(mock.patch(f"vqnmt.{name}", side_effect=AssertionError("worked")))
        again = script("train_nmt", f"run={finished_run.folder}", *finished_run.overrides)
    assert again.status == 0, again.err
    assert printed_table(again.out) == printed_table(finished_run.outcome.out)
    for line in ("teacher: trained already\n", "student: trained already\n"):
        assert line in again.out and line not in finished_run.outcome.out
    after = contents(finished_run.folder)
    assert [name for name in after if after[name] != before.get(name)] == []
    assert after.keys() == before.keys()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("corpus.max_words=90", "corpus.max_words=100"),
        ("vocabulary.size=305", "vocabulary.size=318"),
        ("seed=2", "seed=1"),
        ("teacher_training.steps=91", "teacher_training.steps=90"),
        ("teacher_model.label_smoothing=0.2", "teacher_model.label_smoothing=0.1"),
        ("max_source_tokens=70", "max_source_tokens=60"),
        ("beam=2", "beam=4"),
        ("student_model.output=cross_entropy student_model.upsampling=1", "student_model.output"),
        ("student_model.quantizer.codebook_size=8", "student_model.quantizer.codebook_size=16"),
        ("evaluation.examples=3", "evaluation.examples=10"),
    ],
)
def test_changed_settings_are_refused_by_key(
    finished_run, script: Callable, change: str, key: str
) -> None:
    before = contents(finished_run.folder)
    outcome = script(
        "train_nmt", f"run={finished_run.folder}", *finished_run.overrides, *change.split()
    )
    assert outcome.status == 2
    assert key in outcome.err and f"now asked for is {change.split()[0].split('=')[1]}" in (
        outcome.err
    )
    assert "name another run=" in outcome.err
    assert contents(finished_run.folder) == before


def test_changed_text_is_noticed(
    finished_run, toy_corpus: Path, tmp_path: Path, script: Callable
) -> None:
    """The same file names with other content are other settings."""
    text = (toy_corpus / "train.en").read_bytes()
    try:
        (toy_corpus / "train.en").write_bytes(text.replace(b"ba", b"bo", 1))
        outcome = script("train_nmt", f"run={finished_run.folder}", *finished_run.overrides)
    finally:
        (toy_corpus / "train.en").write_bytes(text)
    assert outcome.status == 2 and "digest of the text" in outcome.err


def ctrl_c(description: str, done: int) -> mock._patch:
    """Patch the progress of a training so that Ctrl-C comes with its step number `done`."""
    original = Progress.update

    def update(self: Progress, amount: int = 1, note: str = "") -> None:
        original(self, amount, note)
        if (self.description, self.done) == (description, done):
            os.kill(os.getpid(), signal.SIGINT)

    return mock.patch.object(Progress, "update", update)


def stop_in_teacher(command: list[str]) -> int:
    with ctrl_c("teacher", 33):
        outcome = call_script("train_nmt", *command)
    sys.stderr.write(outcome.err)
    return outcome.status


def test_interrupted_run_goes_on_and_ends_the_same(
    finished_run, tmp_path: Path, script: Callable
) -> None:
    """Ctrl-C in the teacher, then in the student; the third start ends as if there were none."""
    run = tmp_path / "run"
    command = [f"run={run}", *finished_run.overrides, "evaluation.latency_sentences=0"]
    # In another process, whose hashes are other ones.
    place = tmp_path / "errors"
    ((status, errors),) = run_processes(stop_in_teacher, command, folder=place, number=1)
    assert status == 130
    last = errors.rstrip("\n").splitlines()[-1]
    # The signal came once step 33 was counted: the loop stops after the step that it comes in.
    assert "interrupted at step 34" in last and "start the same command again" in last
    assert "Traceback" not in errors
    assert not (run / "teacher" / "config.json").exists()

    with ctrl_c("student", 25):
        stopped_again = script("train_nmt", *command)
    assert stopped_again.status == 130 and "interrupted at step 26" in stopped_again.err

    finished = script("train_nmt", *command)
    assert finished.status == 0, finished.err
    for name in ("teacher/model.safetensors", "distilled/train.de", "student/model.safetensors"):
        assert (run / name).read_bytes() == (finished_run.folder / name).read_bytes(), name
    for model in ("teacher", "student"):
        found, expected = (
            [
                {key: value for key, value in row.items() if "per_second" not in key}
                for row in read_metrics(folder / model / "training" / "metrics.jsonl")
                # The rows of losses begin anew where a run begins: compare what follows.
                if not any(key.startswith("train/") for key in row) or row["step"] > 40
            ]
            for folder in (run, finished_run.folder)
        )
        assert found == expected


def test_advice_after_a_diverged_training_works(
    tmp_path: Path, overrides, script: Callable
) -> None:
    few = [*overrides, "teacher_training.steps=8", "teacher_training.skip_limit=3"]
    wild = [f"run={tmp_path / 'run'}", *few, "teacher_training.learning_rate=1e30"]
    stopped = script("distill", *wild)
    assert stopped.status == 2
    assert "lower teacher_training.learning_rate and name another run=" in stopped.err
    assert script("distill", f"run={tmp_path / 'run'}", *few).status == 2, "the advice has a reason"
    assert script("distill", f"run={tmp_path / 'other'}", *few).status == 0


def test_interrupt_elsewhere_is_one_sentence(tmp_path: Path, overrides, script: Callable) -> None:
    with mock.patch("vqnmt.pipeline.translation.prepare_corpus", side_effect=KeyboardInterrupt):
        outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides)
    assert outcome.status == 130
    assert outcome.err.startswith("interrupted: ") and outcome.err.count("\n") == 1
    assert not (tmp_path / "run" / "corpus").exists(), "nothing half-written is left"


def test_vocabulary_too_large_can_be_mended_in_the_same_folder(
    tmp_path: Path, overrides, script: Callable
) -> None:
    few = [f"run={tmp_path / 'run'}", *overrides, "teacher_training.steps=2"]
    outcome = script("distill", *few, "vocabulary.size=5000")
    assert outcome.status == 2
    assert "vocabulary.size is 5000" in outcome.err and "at most 322" in outcome.err
    # What the message advises must work.
    assert script("distill", *few, "vocabulary.size=322").status == 0


def test_long_test_sentence_is_refused_before_training(
    tmp_path: Path, overrides, script: Callable
) -> None:
    outcome = script("train_nmt", f"run={tmp_path / 'run'}", *overrides, "max_source_tokens=12")
    assert outcome.status == 2
    assert "max_source_tokens is 12" in outcome.err and "set max_source_tokens=" in outcome.err
    assert not (tmp_path / "run" / "teacher").exists()


def test_records_folder_gets_the_records(
    finished_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable
) -> None:
    """A fresh evaluation replaces results.json and adds to the folder of records."""
    run = tmp_path / "run"
    shutil.copytree(finished_run.folder, run)
    shutil.rmtree(run / "evaluation")
    records = tmp_path / "records"
    values = [x for x in finished_run.overrides if not x.startswith("records=")]
    outcome = script("train_nmt", f"run={run}", *values, f"records={records}")
    assert outcome.status == 0, outcome.err
    (file,) = records.iterdir()
    assert file.name == "files-en-de.json"
    assert json.loads(file.read_text()) == json.loads((run / "results.json").read_text())
    assert len(json.loads(file.read_text())) == 4
