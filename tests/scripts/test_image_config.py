"""Every system composes with every budget, and builds its model."""

import copy
import dataclasses
import functools
import itertools
import operator
from pathlib import Path

from vqnmt.commands.command_line import load_config

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.images.models import build_image_model
from vqnmt.images.tables import PAPER, VARIANTS
from vqnmt.settings import from_mapping, to_flat

ROOT = Path(__file__).parent.parent.parent
SYSTEMS = sorted(path.stem for path in (ROOT / "configs" / "system").iterdir())
BUDGETS = ("cpu", "gpu", "tiny")


@pytest.fixture
def compose():
    return load_config


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_composes_with_a_budget(compose, system, budget):
    values = compose("train_image", [f"system={system}", f"budget={budget}"])
    config = from_mapping(ImagePipelineConfig, values)
    assert (config.system, config.budget) == (system, budget)
    assert config.run == f"runs/images/cifar10-{system}-{budget}"
    flat, given = to_flat(dataclasses.asdict(config)), to_flat(values)
    # The defaults are those of soft EM: another quantizer lacks some of their keys.
    assert given.keys() - flat.keys() <= {
        f"model.quantizer.{k}" for k in ("samples", "temperature", "decay")
    }
    assert {key: flat[key] for key in given if key in flat} == {
        key: value for key, value in given.items() if key in flat
    }
    if budget == "tiny":
        assert build_image_model(config.model, config.data.size).dimensions == 3072
    else:
        assert config.data.max_train is None and config.data.max_test is None


def test_the_image_table_has_all_systems_of_the_paper(compose):
    values = compose("reproduce_image", [])
    assert set(values["systems"]) == {*PAPER, "vae_integers", "vqvae_best"}
    compared = compose("reproduce_image", ["table=quantizers"])["systems"]
    assert {*values["systems"], *compared} == set(SYSTEMS)
    assert compose("reproduce_image", ["budget=gpu", "system=vqvae_best"])["budget"] == "gpu"


def test_a_table_sets_its_budget_and_a_command_another(compose):
    names = ("quantizers", "collapse")
    values = [compose("reproduce_image", [f"table={name}"]) for name in names]
    assert [v["budget"] for v in values] == ["comparison", "collapse"]
    assert [v["model"]["quantizer"].get("codebook_size") for v in values] == [None, 4096]
    assert compose("reproduce_image", ["table=collapse", "budget=tiny"])["budget"] == "tiny"
    assert set(values[1]["variants"]) == set(VARIANTS)


def test_the_em_system_is_that_of_document_002(compose):
    config = from_mapping(ImagePipelineConfig, compose("train_image", []))
    quantizer = config.model.quantizer
    assert (config.system, quantizer.name) == ("vqvae_em", "soft_em")
    assert (quantizer.samples, quantizer.codebook_size) == (5, 256)


def test_the_users_own_images_and_any_quantizer(compose):
    overrides = ["data=folder", "data.train=x", "model.quantizer.name=residual", "system=vqvae_ema"]
    config = from_mapping(ImagePipelineConfig, compose("train_image", overrides))
    assert config.data.train == "x" and config.model.quantizer.name == "residual"
    assert config.run == "runs/images/folder-vqvae_ema-cpu"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_every_key(compose, system):
    """So that `reproduce_image.py key=value` means the same for all of them."""
    names = (system, "vqvae_em")
    keys = [set(to_flat(compose("train_image", [f"system={name}"]))) for name in names]
    # Each quantizer has settings of its own.
    assert all(key.startswith("model.quantizer.") for key in keys[0] ^ keys[1])


COUNTS = [
    *(f"model.autoencoder.{key}" for key in ("width", "blocks", "halvings", "pixel_width")),
    *(f"model.autoencoder.{key}" for key in ("pixel_blocks", "mixtures")),
    *(f"model.prior.{key}" for key in ("width", "layers", "heads")),
    *(f"model.{key}" for key in ("latent_dim", "codes", "levels", "quantizer.codebook_size")),
    *(f"model.quantizer.{key}" for key in ("samples", "kmeans_vectors", "kmeans_iterations")),
    *(f"evaluation.{key}" for key in ("batch_images", "importance_samples", "reconstructions")),
    *(f"evaluation.{key}" for key in ("samples", "patches")),
    "data.size",
    "model_training.batch_images",
    "prior_training.batch_images",
]


def test_counts_without_reason_are_refused_before_anything_is_built(compose):
    composed = compose("train_image", ["data=folder", "data.train=x"])
    from_mapping(ImagePipelineConfig, composed)
    for key, value in itertools.product(COUNTS, [2**31 + 1, 10**15 + 1]):  # odd, as levels are
        values = copy.deepcopy(composed)
        *groups, last = key.split(".")
        functools.reduce(operator.getitem, groups, values)[last] = value
        with pytest.raises(VqnmtError, match=rf"{last} is {value}[;:] it must"):
            from_mapping(ImagePipelineConfig, values)


def test_a_wrong_key_is_named(compose):
    with pytest.raises(
        VqnmtError, match=r"system=vqvae_bset is not a known choice: did you mean vqvae_best"
    ):
        compose("train_image", ["system=vqvae_bset"])
