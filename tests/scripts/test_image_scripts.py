"""The scripts of the image track as a user calls them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(60):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def overrides(folder: Path) -> list[str]:
    training = ["steps=2", "batch_images=4", "warmup=1", "validate_every=2", "log_every=1"]
    return [
        *("budget=tiny", "data=folder", f"data.train={folder}", "data.size=8", "records=null"),
        *(f"{name}_training.{key}" for name in ("model", "prior") for key in training),
        *("evaluation.samples=1", "model.autoencoder.width=8"),
        *("model.quantizer.codebook_size=8", "model.prior.width=8"),
    ]


def test_train_image_prints_the_table(script: Callable, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = script("train_image", "system=vqvae_ema", f"run={run}", *overrides(folder))
    assert outcome.status == 0, outcome.err
    assert f"report: {run / 'report.md'}" in outcome.out
    assert "| vqvae_ema | tiny   |  4.83 |" in outcome.out


def test_reproduce_image_runs_every_system(
    script: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["systems=[vae_gaussian,best]", *overrides(folder)]
    outcome = script("reproduce_image", *arguments)
    assert outcome.status == 0, outcome.err
    systems = [line.split("|")[1].strip() for line in outcome.out.splitlines()[-2:]]
    assert systems == ["vae_gaussian", "best"]
    for system in systems:
        assert (tmp_path / "runs" / "images" / f"folder-{system}-tiny" / "report.md").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.train=none", "none: no such folder of images: correct data.train"),
        ("data.size=32", "pixels instead of 32x32: set data.size, or data.resize=true"),
        ("data.size=7", "data.size is 7; it must be a multiple of 2"),
        ("model.kind=gan", "model.kind is 'gan'; choose one of vqvae"),
    ],
)
def test_faults_are_one_sentence(
    script: Callable, folder: Path, tmp_path: Path, change: str, message: str
) -> None:
    outcome = script("train_image", f"run={tmp_path / 'run'}", *overrides(folder), change)
    assert outcome.status == 2
    assert message in outcome.err and outcome.err.count("\n") <= 2
    assert not (tmp_path / "run").exists()
