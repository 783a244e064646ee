"""The image pipeline from a folder of images to a report, on synthetic images in seconds."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import read_records
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.images.evaluation import ImageEvaluation
from vqnmt.images.models import load_image_model
from vqnmt.images.pipeline import make_data, make_model, start_image_run
from vqnmt.settings import from_mapping
from vqnmt.training.loop import Trainer
from vqnmt.training.metrics import read_metrics

SIZE = 8


def smooth_images(folder: Path, count: int, seed: int) -> None:
    """Write images of one colour that runs into another."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    corners = torch.rand(count, 3, 2, 2)
    smooth = torch.nn.functional.interpolate(corners, (SIZE, SIZE), mode="bilinear")
    for i, image in enumerate((255 * smooth).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for seed, (part, count) in enumerate((("train", 40), ("valid", 8), ("test", 10))):
        smooth_images(root / part, count, seed)
    return root


def settings(folder: Path, run: Path, kind: str = "vqvae", **further) -> ImagePipelineConfig:
    training = {
        "steps": 8,
        "batch_images": 8,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "warmup": 2,
        "log_every": 2,
        "validate_every": 4,
        "ema": 0.5,
        "precision": "fp32",
    }
    prior = {"name": "transformer" if kind == "pixels" else "pixelcnn", "width": 8, "heads": 2}
    values = {
        "run": str(run),
        "system": kind,
        "budget": "test",
        "records": None,
        "data": {
            "name": "folder",
            "size": SIZE,
            **{part: str(folder / part) for part in ("train", "valid", "test")},
        },
        "model": {
            "kind": kind,
            "autoencoder": {"width": 8, "blocks": 1, "pixel_width": 8, "mixtures": 2},
            "latent_dim": 4,
            "codes": 1,
            "quantizer": {"name": "soft_em", "samples": 3, "codebook_size": 8, "decay": 0.9}
            | {"temperature": 1.0},
            "prior": prior | {"layers": 1, "dropout": 0.0},
        },
        "model_training": training,
        "prior_training": training,
        "evaluation": {"batch_images": 4, "samples": 2, "reconstructions": 8, "patches": 3},
    }
    for key, value in further.items():
        group, _, name = key.partition("__")
        if name:
            values[group] = values[group] | {name: value}
        else:
            values[group] = value
    return from_mapping(ImagePipelineConfig, values)


def run(config: ImagePipelineConfig):
    job = start_image_run(config)
    data = make_data(job)
    return ImageEvaluation(job, data, make_model(job, data), ["system=x"]).run()


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests must not change it."""
    path = tmp_path_factory.mktemp("runs") / "one"
    run(settings(folder, path))
    return path


def test_a_run_leaves_all_that_it_should(finished: Path):
    files = {path.name for path in finished.iterdir()}
    assert files >= {"data", "model", "prior", "results.json", "report.md"}
    pictures = {"reconstructions", "samples", "nearest_codes", "code_usage", "training_model"}
    assert files >= {f"{name}.png" for name in pictures | {"training_prior"}}
    report = (finished / "report.md").read_text()
    assert all(f"({name}.png)" in report for name in pictures)
    drawn = np.asarray(Image.open(finished / "reconstructions.png"))
    last = drawn[-len(drawn) // 6 :].reshape(-1, 3)
    assert len(np.unique(last, axis=0)) > 2, "also those of the second batch"
    facts = json.loads((finished / "data" / "data.json").read_text())
    assert facts["train"] == 40 and facts["test"] == 10


def test_the_record_is_the_bound_of_the_saved_model(finished: Path, folder: Path):
    (record,) = read_records(finished / "results.json")
    metrics = record.metrics
    images = [np.asarray(Image.open(path)) for path in sorted((folder / "test").iterdir())]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        bound = load_image_model(finished / "prior").bound(batch)
    scale = 3 * SIZE**2 * np.log(2)
    assert metrics["reconstruction_bits"] == pytest.approx(
        bound.reconstruction.mean().item() / scale, rel=1e-4
    )
    assert metrics["rate_bits"] == pytest.approx(bound.rate.mean().item() / scale, rel=1e-4)
    assert metrics["rate_bits_uniform"] == pytest.approx(16 * 3 / (3 * SIZE**2))
    assert metrics["bits_per_dim"] == pytest.approx(
        metrics["reconstruction_bits"] + metrics["rate_bits"]
    )
    assert 1 <= metrics["used_codes"] <= 8 and metrics["test_images"] == 10
    assert metrics["train_images_per_second"] > 0 and record.corpus == "folder"


def test_a_prior_of_its_own_leaves_the_model_as_it_is(finished: Path):
    model, whole = (load_image_model(finished / name) for name in ("model", "prior"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]) != name.startswith("prior.")


def test_what_is_done_is_skipped(finished: Path, folder: Path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "train", None)
    before = (finished / "results.json").stat().st_mtime_ns
    run(settings(folder, finished))
    assert (finished / "results.json").stat().st_mtime_ns == before
    assert "model: trained already" in capsys.readouterr().out


def test_another_prior_needs_no_other_model(finished: Path, folder: Path, capsys):
    prior = {"name": "transformer", "width": 8, "heads": 2, "layers": 1, "dropout": 0.0}
    with pytest.raises(VqnmtError, match=r"prior was made with prior\.name=pixelcnn"):
        run(settings(folder, finished, model__prior=prior))
    assert "model: trained already" in capsys.readouterr().out


def test_other_images_or_settings_in_the_same_folder_are_refused(finished: Path, folder: Path):
    with pytest.raises(VqnmtError, match="made with seed=1, now asked for is 2"):
        run(settings(folder, finished, seed=2))
    with pytest.raises(VqnmtError, match=r"data was made with .*max_train=null"):
        run(settings(folder, finished, data__max_train=3))


def test_moved_pictures_and_other_reports_are_the_same_run(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(Trainer, "train", None)
    shutil.copytree(folder, tmp_path / "moved")
    before = (finished / "results.json").read_bytes()
    run(settings(tmp_path / "moved", finished, model_training__log_every=1, prior_training__keep=5))
    assert (finished / "results.json").read_bytes() == before
    (tmp_path / "moved" / "train" / "0.png").unlink()
    with pytest.raises(VqnmtError, match=r"data was made with the images\."):
        run(settings(tmp_path / "moved", finished))


def test_changed_weights_are_not_used(finished: Path, folder: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    weights = tmp_path / "run" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(VqnmtError, match=r"model\.safetensors: changed or damaged since it was"):
        run(settings(folder, tmp_path / "run"))


@pytest.mark.parametrize("kind", ["vae", "integers", "pixels"])
def test_the_other_kinds_run(folder: Path, tmp_path: Path, kind: str):
    (record,) = run(settings(folder, tmp_path / kind, kind, evaluation__importance_samples=2))
    assert record.metrics["bits_per_dim"] > 0
    assert ("used_codes" in record.metrics) == (kind == "integers")
    assert ("bits_per_dim_importance_2" in record.metrics) == (kind == "vae")
    assert not (tmp_path / kind / "prior").exists()


def test_a_stopped_run_resumes_bit_for_bit(folder: Path, tmp_path: Path, finished, monkeypatch):
    """Stopped in the model's and in the prior's training, it ends as the one that was not."""
    config = settings(folder, tmp_path / "stopped")
    whole = Trainer._validate

    def stop(self):
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)
        return whole(self)

    monkeypatch.setattr(Trainer, "_validate", stop)
    for stage in ("model", "prior"):
        with pytest.raises(VqnmtError, match=rf"{stage}/training: interrupted at step 5"):
            run(config)
    monkeypatch.setattr(Trainer, "_validate", whole)
    (record,) = run(config)
    (expected,) = read_records(finished / "results.json")
    timeless = {key for key in expected.metrics if "per_second" not in key}
    assert {k: record.metrics[k] for k in timeless} == {k: expected.metrics[k] for k in timeless}
    for stage in ("model", "prior"):
        kept = []
        for path in (finished, tmp_path / "stopped"):
            rows = read_metrics(path / stage / "training" / "metrics.jsonl")
            kept.append([{k: v for k, v in row.items() if "per_second" not in k} for row in rows])
        assert kept[0] == kept[1]


def test_records_go_where_they_are_asked_for(finished: Path, folder: Path, tmp_path: Path):
    config = settings(folder, finished, records=str(tmp_path))
    run(config)
    assert read_records(tmp_path / "folder.json") == read_records(finished / "results.json")


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"system": " "}, "system is ' '"),
        ({"model_training": {"batch_images": 0}}, r"model_training\.batch_images is 0"),
        ({"model_training": {"ema": 1.0}}, r"model_training\.ema is 1\.0"),
        ({"model_training": {"batch_tokens": 5}}, r"batch_tokens is not a known key"),
        ({"prior_training": {"steps": 0}}, r"prior_training\.steps is 0"),
        ({"evaluation": {"patches": 0}}, r"evaluation\.patches is 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, further, message):
    with pytest.raises(VqnmtError, match=message):
        settings(tmp_path, tmp_path / "run", **further)
