"""What decides no number does not part a run from its folder; what is damaged is not trained on."""

import gzip
import hashlib
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vqnmt.data.config import CorpusConfig
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.settings import from_mapping, undecided

SKIPPED = ("teacher: trained already", "student: trained already")


@pytest.fixture
def run(finished_run, tmp_path: Path) -> Path:
    """Return a copy of the finished run, which tests may change."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return tmp_path / "run"


def test_every_setting_that_decides_no_number() -> None:
    """All others are compared: who adds a setting decides where it belongs."""
    text = from_mapping(PipelineConfig, {"run": "r"})
    training = ("skip_limit", "log_every", "trackers", "keep")

    def ours(keys: list[str]) -> list[str]:
        """Leave out what former versions wrote for every quantizer."""
        return [key for key in keys if ".quantizer." not in key]

    kinds = (*FILES, "files")
    files = [f"corpus.{part}.{key}" for part in ("train", "valid", "test") for key in kinds]
    assert ours(undecided(text)) == [
        "plugins",
        "corpus.cache",
        *files,
        "corpus.max_line_bytes",
        *(f"teacher_training.{key}" for key in training),
        *(f"student_training.{key}" for key in training),
    ]
    image = from_mapping(ImagePipelineConfig, {"run": "r", "system": "s", "budget": "b"})
    assert ours(undecided(image)) == [
        "plugins",
        *(f"data.{key}" for key in ("dataset", "cache", "train", "valid", "test")),
        *(f"model_training.{key}" for key in training),
        *(f"prior_training.{key}" for key in training),
    ]


FILES = ("tsv", "source", "target")


def packed(path: Path, folder: Path, how: str) -> Path:
    """Return another file with the content of `path`."""
    folder.mkdir(exist_ok=True)
    made = folder / (path.name + how)
    opened = {".gz": gzip.open, ".xz": lzma.open, "": open}[how]
    with opened(made, "wb") as file:
        file.write(path.read_bytes())
    return made


@pytest.mark.parametrize("how", ["", ".gz", ".xz"])
def test_the_same_text_elsewhere_or_compressed_is_the_same_run(
    finished_run, run: Path, tmp_path: Path, toy_corpus: Path, script: Callable, how: str
) -> None:
    files = {
        key: packed(toy_corpus / f"train.{code}", tmp_path / "moved", how)
        for key, code in (("source", "en"), ("target", "de"))
    }
    moved = [f"corpus.train.{key}={path}" for key, path in files.items()]
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides, *moved)
    assert outcome.status == 0, outcome.err
    assert all(line in outcome.out for line in SKIPPED)
    files["target"].write_bytes(
        b"Haus\n" * 600
        if how == ""
        else packed(toy_corpus / "train.en", tmp_path / "other", how).read_bytes()
    )
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides, *moved)
    assert outcome.status == 2 and "digest of the text" in outcome.err


@pytest.mark.parametrize("key", ["log_every", "keep", "skip_limit"])
def test_how_a_training_reports_is_no_other_training(
    finished_run, run: Path, script: Callable, key: str
) -> None:
    changes = [f"{name}_training.{key}=7" for name in ("teacher", "student")]
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides, *changes)
    assert outcome.status == 0, outcome.err
    assert all(line in outcome.out for line in SKIPPED)


def as_older_versions(run: Path, config: CorpusConfig, trainings: dict[str, dict]) -> None:
    """Rewrite the stamps of a run as version 0.1 wrote them."""
    digests: dict[str, str] = {}
    fingerprint = config.older_fingerprint()
    report = json.loads((run / "corpus" / "corpus.json").read_text())
    report["fingerprint"] = fingerprint
    del report["digest"]  # reports had none at first
    (run / "corpus" / "corpus.json").write_text(json.dumps(report))
    for name in (
        "corpus",
        "vocabulary",
        "teacher",
        "distilled",
        "selected",
        "student",
        "evaluation",
    ):
        path = run / name / "stage.json"
        stamp = json.loads(path.read_text())
        settings = stamp["settings"]
        if name == "corpus":
            settings["digest of the text"] = fingerprint
            for part in ("train", "valid", "test"):
                files = getattr(config, part)
                settings["corpus"][part] = {key: getattr(files, key) for key in FILES}
        for key, values in trainings.items():
            if key in settings:
                settings[key] |= values
        for key in settings:
            if key.startswith("digest of ") and key.split()[-1] in digests:
                settings[key] = digests[key.split()[-1]]
        text = json.dumps(settings, sort_keys=True)
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
        stamp = {key: stamp[key] for key in ("settings", "complete", "seconds")}
        path.write_text(json.dumps(stamp))


def test_a_run_of_an_older_version_stays_valid(
    finished_run, run: Path, toy_corpus: Path, script: Callable
) -> None:
    files = {
        key: str(toy_corpus / f"train.{code}")
        for key, code in zip(FILES[1:], ("en", "de"), strict=True)
    }
    shares = {"valid_share": 0.05, "test_share": 0.05, "min_test_words": 3}
    config = from_mapping(CorpusConfig, {"name": "files", "train": files, **shares})
    reports = {"log_every": 10, "keep": 2, "skip_limit": 20}
    as_older_versions(run, config, {f"{n}_training": reports for n in ("teacher", "student")})
    changed = "student_training.log_every=7"
    for overrides in (finished_run.overrides, [*finished_run.overrides, changed]):
        outcome = script("train_nmt", f"run={run}", *overrides)
        assert outcome.status == 0, outcome.err
        assert all(line in outcome.out for line in SKIPPED)
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides, "student_training.steps=7")
    assert outcome.status == 2 and "student_training.steps=60, now asked for is 7" in outcome.err


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("vocabulary/spm.model", "flipped"),
        ("teacher/model.safetensors", "cut"),
        ("teacher/config.json", "flipped"),
        ("distilled/train.de", "cut"),
        ("selected/train.de", "flipped"),
        ("student/model.safetensors", "flipped"),
    ],
)
def test_damage_between_stages_is_named_and_can_be_mended(
    finished_run, run: Path, script: Callable, name: str, how: str
) -> None:
    damage(run / name, how)
    command = ["train_nmt", f"run={run}", *finished_run.overrides]
    outcome = script(*command)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"{run / name}: changed or damaged since it was made: remove this file" in outcome.err
    # What the sentence advises must work.
    (run / name).unlink()
    outcome = script(*command)
    assert outcome.status == 0, outcome.err
    assert (run / name).read_bytes() == (finished_run.folder / name).read_bytes()


def test_one_changed_letter_in_the_prepared_corpus_is_not_trained_on(
    finished_run, run: Path, script: Callable
) -> None:
    damage(run / "corpus" / "train.de", "flipped")
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides)
    assert outcome.status == 0 and "preparing the corpus again" in outcome.err
    assert (run / "corpus" / "train.de").read_bytes() == (
        finished_run.folder / "corpus" / "train.de"
    ).read_bytes()


def test_a_lost_language_model_is_made_again(finished_run, run: Path, script: Callable) -> None:
    lost = run / "student" / "language_model.npz"
    lost.unlink()
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides)
    assert outcome.status == 0, outcome.err
    assert lost.exists()


def test_a_text_of_an_older_version_that_lost_lines_is_named(
    finished_run, run: Path, script: Callable
) -> None:
    """Its stage has no checksums."""
    stamp = json.loads((run / "selected" / "stage.json").read_text())
    del stamp["checksums"], stamp["commits"]
    (run / "selected" / "stage.json").write_text(json.dumps(stamp))
    damage(run / "selected" / "train.de", "cut")
    shutil.rmtree(run / "student")
    outcome = script("train_nmt", f"run={run}", *finished_run.overrides)
    assert outcome.status == 2 and "selected/train.de: has " in outcome.err
    assert "instead of 546: remove this file" in outcome.err
