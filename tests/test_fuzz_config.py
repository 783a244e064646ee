"""Any settings: refused in one sentence that names the key, or what they describe works."""

import copy
import dataclasses
import re
from typing import Any

from vqnmt.commands.command_line import load_config

import pytest
import torch
from accelerate.utils import set_seed
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.fuzzing import VALUES, attempt, fuzz, like
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.models import (
    AutoregressiveConfig,
    AutoregressiveTransformer,
    CtcConfig,
    CtcTransformer,
    FertilityConfig,
    FertilityTransformer,
    LatentConfig,
    LatentTransformer,
)
from vqnmt.pipeline import PipelineConfig
from vqnmt.quantizers.config import CONFIGS
from vqnmt.settings import from_mapping, to_flat
from vqnmt.training.config import TrainingConfig
from vqnmt.training.optimizer import learning_rate, make_optimizer
from vqnmt.translate.generation import find_translations

PIECES = 40


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return load_config("train_nmt", [])


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings."""
    *groups, last = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[last] = value


@fuzz(500)
@given(data=st.data())
def test_values_of_any_kind(defaults: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(to_flat(defaults))))
    value = data.draw(like(to_flat(defaults)[key]))
    values = copy.deepcopy(defaults)
    put(values, key, value)
    found = attempt(from_mapping, PipelineConfig, values)
    if isinstance(found, VqnmtError):
        assert any(name in str(found) for name in (key, key.rpartition(".")[2])), found
        return
    before = to_flat(defaults)[key]
    # distill takes both: true, false or selected.
    if key != "distill" and (isinstance(before, bool) or isinstance(value, bool)):
        assert type(value) is type(before), "a bool is no number"
    if isinstance(value, dict | list):
        assert isinstance(before, list), "a scalar takes no list"
    set_seed(found.seed)


@fuzz(200)
@given(data=st.data())
def test_misspelt_and_missing_keys_and_groups(
    defaults: dict[str, Any], data: st.DataObject
) -> None:
    keys = sorted(to_flat(defaults))
    groups = sorted({key.rpartition(".")[0] for key in keys} - {""})
    values = copy.deepcopy(defaults)
    kind = data.draw(st.sampled_from(["misspelt", "group", "unknown"]))
    unknown = st.text(st.characters(exclude_characters="."))
    if kind == "group":
        name = data.draw(st.sampled_from(groups))
        value = data.draw(VALUES)
        put(values, name, value)
        found = attempt(from_mapping, PipelineConfig, values)
        assert value == {} or name.partition(".")[0] in str(found)
    else:
        name = data.draw(st.sampled_from(keys))
        place = data.draw(st.integers(1, len(name)))
        letter = data.draw(st.sampled_from("xz_")) if kind == "misspelt" else data.draw(unknown)
        wrong = f"{name[:place]}{letter}{name[place:]}"
        put(values, wrong, 1)
        found = attempt(from_mapping, PipelineConfig, values)
        if kind == "misspelt":
            assert isinstance(found, VqnmtError)


WORDS = [
    "corpus=x",
    "seed=",
    "seed",
    "=",
    "seed=[1",
    "seed={a:1}",
    "a.b.c=1",
    "~seed",
    "+seed=1",
    "seed=${x}",
    "seed=${oc.env:NO}",
    "++x.y=1",
    "corpus@seed=x",
    "run=???",
    "seed=1e3",
    "corpus=multi30k",
    "quantizer=soft_em",
    "model=tiny",
    "corpus=[a,b]",
    "run='a b'",
    "corpus.name=${seed}",
    "evaluation=null",
    "corpus=null",
    "hydra.x=1",
    "--cfg",
    "-h x",
    "seed=2",
    "beam=1",
    "run=x",
    "student=latent",
    "teacher=a b",
    "decoding.beam=${beam}",
    "seed=1,2",
    "seed=range(1,3)",
    "~corpus",
    "defaults=1",
    "teacher_model.x@y=1",
]
OVERRIDES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.text(max_size=12),
    st.tuples(st.text("abcdeqrs._@+~", max_size=8), st.text(max_size=6)).map("=".join),
)


@fuzz(40)
@given(overrides=st.lists(OVERRIDES, min_size=1, max_size=2))
def test_command_lines(overrides: list[str]) -> None:
    """From the words of a command to settings, through Hydra."""
    values = attempt(load_config, "train_nmt", overrides)
    if not isinstance(values, VqnmtError):
        attempt(from_mapping, PipelineConfig, values)
    else:
        assert not re.search(r"[a-z](Error|Exception)\b", str(values)), "no library's names"


SMALL = {
    "transformer": {"dim": 8, "feedforward": 8, "heads": 2, "dropout": 0.1},
    "encoder_layers": 1,
    "decoder_layers": 1,
}
QUANTIZER = {
    field.name: field.default
    for field in dataclasses.fields(LatentConfig().quantizer)
    if field.default is not dataclasses.MISSING
} | {"levels": [4, 4], "codebook_size": 16}
MODELS: dict[str, tuple[type, type[nn.Module], dict[str, Any]]] = {
    "autoregressive": (AutoregressiveConfig, AutoregressiveTransformer, {}),
    "ctc": (CtcConfig, CtcTransformer, {"stretch": 1.5, "upsampling": 2, "glancing": True}),
    "fertility": (FertilityConfig, FertilityTransformer, {"max_fertility": 5}),
    "latent": (
        LatentConfig,
        LatentTransformer,
        {
            field.name: field.default
            for field in dataclasses.fields(LatentConfig)
            if field.default is not dataclasses.MISSING
        }
        | {"quantizer": QUANTIZER},
    ),
}
CHOICES = {
    "quantizer.name": list(CONFIGS),
    "quantizer.part": [name for name, kind in CONFIGS.items() if kind.can_be_part],
    "quantizer.projection": ["none", "random", "learnt"],
    "quantizer.initialisation": ["kmeans", "normal", "reference"],
    "quantizer.distance_scale": ["none", "sqrt_dim", "dim"],
    "output": ["ctc", "cross_entropy"],
}
# Sizes that a test can afford.
NUMBERS = st.integers(-2, 20) | st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-30, 1e30]) | st.floats()


@fuzz(100)
@given(data=st.data(), name=st.sampled_from([*MODELS, "latent", "latent"]))
def test_a_model_of_accepted_settings_trains_and_translates(data: st.DataObject, name: str) -> None:
    kind, architecture, further = MODELS[name]
    values = copy.deepcopy(SMALL | further)
    fitting = {key: options for key, options in CHOICES.items() if key in to_flat(values)}
    for key in data.draw(st.lists(st.sampled_from(sorted(fitting) or [""]), max_size=3)):
        if key:
            put(values, key, data.draw(st.sampled_from(fitting[key])))
    keys = sorted(set(to_flat(values)) - set(CHOICES))
    for key in data.draw(st.lists(st.sampled_from(keys), max_size=2)):
        put(values, key, data.draw(NUMBERS | st.booleans() | st.none()))
    if name == "latent" and values["output"] == "cross_entropy" and data.draw(st.booleans()):
        values["upsampling"] = 1
    config = attempt(from_mapping, kind, values)
    if isinstance(config, VqnmtError):
        return
    torch.manual_seed(1)
    model = attempt(architecture, config, PIECES)
    if isinstance(model, VqnmtError):
        return
    source = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    target = torch.tensor([[12, 13, 0, 0, 0], [14, 15, 16, 17, 18]])
    if isinstance(model, FertilityTransformer):
        model.align = lambda source, target: torch.zeros_like(target)
    for _ in range(2):
        losses = attempt(model, source, target)
        if isinstance(losses, VqnmtError):
            return
        losses.total.backward()
        attempt(getattr(model, "after_optimizer_step", lambda: None))
    model.eval()
    found = attempt(find_translations, model, source, SearchSettings())
    if not isinstance(found, VqnmtError):
        assert len(found) == len(source)


@fuzz(125)
@given(data=st.data())
def test_accepted_training_settings_make_an_optimiser_step(data: st.DataObject) -> None:
    values = dataclasses.asdict(TrainingConfig())
    choices = {
        "optimizer": st.sampled_from(["adamw", "muon"]),
        "schedule": st.sampled_from(["cosine", "inverse_sqrt"]),
        "precision": st.sampled_from(["auto", "bf16", "fp32"]),
    }
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), max_size=4)):
        number = st.integers(0, 9) if isinstance(values[key], int) else st.floats(0, 2)
        fitting = choices.get(key, number)
        values[key] = data.draw(fitting if data.draw(st.integers(0, 4)) else like(values[key]))
    config = attempt(from_mapping, TrainingConfig, values, "training")
    if isinstance(config, VqnmtError):
        return
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    optimizer = make_optimizer(model, config, bf16=False)
    for step in range(3):
        assert isinstance(learning_rate(config, step), float)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
