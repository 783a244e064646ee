"""Runs and models made when one dataclass held the settings of all quantizers go on."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.images.models import ImageModelConfig
from vqnmt.models import LatentConfig
from vqnmt.quantizers import EMAConfig, FSQConfig, ProductConfig, SemanticHashingConfig
from vqnmt.settings import deciding, from_mapping, undecided
from vqnmt.training.stage import Stage

# What every config.json and stage.json held, whatever the quantizer.
FORMER = {
    **{"name": "ema", "codebook_size": 64, "beta": 0.25, "decay": 0.99, "epsilon": 1e-5},
    **{"samples": 10, "samples_end": None, "temperature": 1.0, "temperature_end": None},
    **{"distance_scale": "none", "initialisation": "kmeans", "kmeans_vectors": None},
    **{"kmeans_iterations": 10, "restart_threshold": 0.1, "hard_samples": False},
    **{"prior_weight": 0.1, "noise": 1.0, "part": "ema", "parts": 2, "projection": "none"},
    **{"levels": [8, 8, 4], "entropy_weight": 0.1},
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, EMAConfig(codebook_size=64, decay=0.99)),
        ({"name": "semhash", "decay": 0.5}, SemanticHashingConfig(codebook_size=64)),
        ({"name": "fsq", "codebook_size": 256, "samples": 7}, FSQConfig()),
        ({"name": "product", "noise": 2.0}, ProductConfig(codebook_size=64, decay=0.99, noise=2.0)),
    ],
)
def test_models_load(changes: dict, expected: object) -> None:
    values = {"quantizer": FORMER | changes}
    assert from_mapping(LatentConfig, values).quantizer == expected
    assert from_mapping(ImageModelConfig, values).quantizer == expected


def test_runs_go_on_but_only_with_their_settings(tmp_path: Path) -> None:
    before = dataclasses.asdict(LatentConfig()) | {"quantizer": FORMER}
    with Stage(tmp_path, {"student_model": before}).work():
        (tmp_path / "output").write_text("x")

    def again(**changes: object) -> Stage:
        quantizer = dataclasses.replace(EMAConfig(codebook_size=64, decay=0.99), **changes)
        model = LatentConfig(quantizer=quantizer)
        ignored = undecided(model, "student_model")
        return Stage(tmp_path, {"student_model": deciding(model)}, ignored)

    digest = Stage(tmp_path, {"student_model": before}).digest
    assert again().has("output") and again().digest == digest
    for change in ({"beta": 0.5}, {"cosine": True}, {"codebook_dim": 8}):
        with pytest.raises(VqnmtError, match=rf"quantizer\.{next(iter(change))}="):
            again(**change)


@pytest.mark.slow
def test_a_former_run_goes_on_with_the_end_of_its_codes(
    finished_run, tmp_path: Path, script
) -> None:
    """Whether its student is finished or has only begun."""
    folder, student = tmp_path / "run", tmp_path / "run" / "student"
    shutil.copytree(finished_run.folder, folder)
    shutil.rmtree(folder / "evaluation")  # its stage knows the digest of the student's
    values = json.loads((student / "stage.json").read_text())
    assert values["settings"]["student_model"].pop("joint_end") is True
    (student / "stage.json").write_text(json.dumps(values))
    outcome = script("train_nmt", f"run={folder}", *finished_run.overrides)
    assert outcome.status == 0 and "student: trained already" in outcome.out
    values["complete"] = False
    shutil.rmtree(student)
    student.mkdir()
    (student / "stage.json").write_text(json.dumps(values))
    outcome = script("train_nmt", f"run={folder}", *finished_run.overrides)
    assert outcome.status == 0, outcome.err
    config = json.loads((student / "config.json").read_text())
    assert config["settings"]["joint_end"] is False
