"""The scripts of the image track as a user calls them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vqnmt.evaluation.records import read_records


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
        "budget=tiny",
        "data=folder",
        f"data.train={folder}",
        "data.size=8",
        "records=null",
        *(f"{name}_training.{key}" for name in ("model", "prior") for key in training),
        "evaluation.samples=1",
        "model.autoencoder.width=8",
        "model.quantizer.codebook_size=8",
        "model.prior.width=8",
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
    arguments = ["tables=[systems]", "systems=[vae_gaussian,vae_integers]", *overrides(folder)]
    outcome = script("reproduce_image", *arguments)
    assert outcome.status == 0, outcome.err
    systems = [line.split("|")[1].strip() for line in outcome.out.splitlines()[-2:]]
    assert systems == ["vae_gaussian", "vae_integers"]
    for system in systems:
        assert (tmp_path / "runs" / "images" / f"folder-{system}-tiny" / "report.md").exists()


@pytest.mark.slow
def test_seeds_are_compared_image_by_image(
    script: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    systems = "systems=[vqvae_ema,vqvae_gradient]"
    arguments = ["tables=[quantizers]", systems, "seeds=[1,2]", *overrides(folder)]
    outcome = script("reproduce_image", *arguments)
    assert outcome.status == 0, outcome.err
    runs = tmp_path / "runs" / "images"
    records = read_records(runs / "folder_quantizers.json")
    assert [(record.system, record.seed) for record in records] == [
        ("vqvae_ema", 1),
        ("vqvae_ema", 2),
        ("vqvae_gradient", 1),
        ("vqvae_gradient", 2),
    ]
    assert all("table=quantizers" in record.overrides for record in records)
    for ours, theirs, end in ((records[2], records[0], ""), (records[3], records[1], "-seed2")):
        names = ("vqvae_gradient", "vqvae_ema")
        bits = [load_file(runs / f"folder-{x}-tiny{end}" / "test_bits.safetensors") for x in names]
        gaps = torch.stack([x["reconstruction"] + x["rate"] for x in bits]).diff(dim=0)[0]
        found = ours.metrics["bits_per_dim_difference"]
        assert found == pytest.approx(-gaps.mean().item(), abs=1e-9)
        expected = float(ours.metrics["bits_per_dim"]) - float(theirs.metrics["bits_per_dim"])
        assert found == pytest.approx(expected, abs=1e-9)
        assert "reference" not in theirs.metrics and ours.metrics["reference"] == "vqvae_ema"
    before = (runs / "folder_quantizers.json").read_bytes()
    again = script("reproduce_image", *arguments)
    assert again.status == 0 and (runs / "folder_quantizers.json").read_bytes() == before
    assert again.out.splitlines()[-1].startswith("| vqvae_gradient |")


@pytest.mark.slow
def test_the_collapse_table_has_every_variant_and_a_picture(
    script: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["tables=[collapse]", "systems=[vqvae_ema]", "seeds=[1]", *overrides(folder)]
    outcome = script("reproduce_image", *arguments, "records=kept")
    assert outcome.status == 0, outcome.err
    variants = [record.metrics["variant"] for record in read_records("kept/folder_collapse.json")]
    assert variants == ["both", "k-means", "restarts", "neither"]
    assert all(Path(f"kept/folder_collapse.{kind}").exists() for kind in ("md", "png", "svg"))
    assert not Path("kept/folder.json").exists()
    assert Path("runs/images/folder-vqvae_ema-tiny-neither/report.md").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["tables=[best]"], "tables names 'best'; choose among systems, quantizers, collapse"),
        (["seeds=[]"], "seeds is []; give one whole number or more"),
        (["systems=[]"], "systems is empty"),
        (["systems=[vqvae_ema,vqvae_em]", "run=one"], "run=one would be the folder of two runs"),
    ],
)
def test_faults_of_a_table_are_one_sentence(
    script: Callable, folder: Path, changes: list[str], message: str
) -> None:
    outcome = script("reproduce_image", *overrides(folder), *changes)
    assert outcome.status == 2
    assert message in outcome.err and outcome.err.count("\n") <= 2


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
