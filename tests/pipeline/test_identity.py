"""What decides no number does not part a run from its folder; what is damaged is not trained on."""

import gzip
import lzma
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vqnmt.images.config import ImagePipelineConfig
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.settings import deciding, from_mapping, to_flat

SKIPPED = ("teacher: trained already", "student: trained already")


@pytest.fixture
def run(finished_run, tmp_path: Path) -> Path:
    """Return a copy of the finished run, which tests may change."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return tmp_path / "run"


def undecided(settings: object) -> list[str]:
    """List the dotted keys that a stage's settings lack."""
    return sorted(to_flat(asdict(settings)).keys() - to_flat(deciding(settings)).keys())


def test_every_setting_that_decides_no_number() -> None:
    """All others are compared: who adds a setting decides where it belongs."""
    text = from_mapping(PipelineConfig, {"run": "r"})
    training = ("skip_limit", "log_every", "trackers", "keep")
    kinds = (*FILES, "files")
    files = [f"corpus.{part}.{key}" for part in ("train", "valid", "test") for key in kinds]
    reading = [f"decoding.reading.{key}" for key in asdict(text.decoding.reading)]
    later = ("restart_until", "cosine", "rotation")
    assert undecided(text) == sorted(
        [
            *("plugins", "corpus.cache", *files, "corpus.max_line_bytes", *reading),
            *(f"{name}_training.{key}" for name in ("teacher", "student") for key in training),
            *(f"student_model.quantizer.{key}" for key in later),
        ]
    )
    image = from_mapping(ImagePipelineConfig, {"run": "r", "system": "s", "budget": "b"})
    assert undecided(image) == sorted(
        [
            "plugins",
            *(f"data.{key}" for key in ("dataset", "cache", "train", "valid", "test")),
            *(f"{name}_training.{key}" for name in ("model", "prior") for key in training),
            *(f"model.quantizer.{key}" for key in later),
        ]
    )
    other = replace(text.decoding, reading=replace(text.decoding.reading, beam=9))
    assert deciding(other) == asdict(other)


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


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize(
    "name",
    [
        "vocabulary/spm.model",
        "teacher/model.safetensors",
        "teacher/config.json",
        "distilled/train.de",
        "selected/train.de",
        "student/model.safetensors",
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
