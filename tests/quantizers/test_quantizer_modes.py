"""Dtypes that a module is cast to, and the modes of autograd, in any order."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import build_quantizer
from vqnmt.quantizers.registry import QUANTIZERS

NAMES = list(QUANTIZERS)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def build(name: str):
    config = fitting_config(name=name, codebook_size=16, levels=[4, 4], kmeans_vectors=40)
    return build_quantizer(config, 8)


def train(quantizer, z):
    """One step of everything; returns the output."""
    out = quantizer.train()(z)
    loss = out.quantized.float().sum() + sum(out.losses.values())
    if loss.requires_grad:
        loss.backward()
    quantizer.step()
    for parameter in quantizer.parameters():
        if parameter.grad is not None:
            parameter.data.add_(parameter.grad, alpha=-0.01)
            parameter.grad = None
    return out


def train_on_inference_tensors(quantizer, z):
    with torch.inference_mode():
        z = z * 1.0
    return train(quantizer, z)


def forward(quantizer, z):
    return quantizer.train()(z)  # what it accumulates waits for another mode's step


def evaluate(quantizer, z):
    out = quantizer.eval()(z)
    assert torch.equal(out.codes, quantizer.nearest(z))
    assert quantizer.epoch_statistics().positions > 0
    return out


def cast(quantizer, z):
    quantizer.to(z.dtype)


def exchange(quantizer, z):
    """Copies load each other's state, and go on from each other's statistics."""
    copied, pickled = copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))
    copied.load_state_dict(pickled.state_dict())
    quantizer.load_state_dict(copied.state_dict())
    quantizer.load_running_state(copied.running_state())
    with torch.inference_mode(False), torch.enable_grad():
        train(copied, torch.randn(20, 8))  # a copy lives by itself


ACTIONS = [train, train_on_inference_tensors, forward, evaluate, cast, exchange]
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_dtypes_and_modes_in_any_order(name, seed):
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    with MODES[random.integers(3)]():
        quantizer = build(name)
    for _ in range(12):
        dtype = DTYPES[random.integers(4)]
        z = torch.randn(20, 8).to(dtype).requires_grad_(bool(random.integers(2)))
        with MODES[random.integers(3)]():
            out = ACTIONS[random.integers(len(ACTIONS))](quantizer, z)
        if out is not None:
            assert out.quantized.dtype == dtype
            assert all(loss.dtype == torch.float32 for loss in out.losses.values())
        for value in quantizer.state_dict().values():
            assert value.dtype == torch.float32 or not value.is_floating_point()
    train(quantizer, torch.randn(20, 8, requires_grad=True))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_loaded_in_any_mode_is_gone_on_from(mode):
    quantizer, other = build("ema"), build("ema")
    train(quantizer, torch.randn(20, 8))
    with mode():
        other.load_state_dict(quantizer.state_dict())
        other.load_running_state(quantizer.running_state())
    train(other, torch.randn(20, 8))
    assert other.epoch_statistics().positions == 40
    assert quantizer.epoch_statistics().positions == 20


@pytest.mark.parametrize("name", NAMES)
def test_a_cast_rounds_nothing(name):
    quantizer = build(name)
    train(quantizer, torch.randn(20, 8))
    holder = nn.ModuleDict({"quantizer": quantizer, "layer": nn.Linear(8, 8)})
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    identities = [id(parameter) for parameter in quantizer.parameters()]
    for dtype in [*DTYPES, torch.float32]:
        for move in (lambda dtype=dtype: holder.to(dtype), lambda dtype=dtype: holder.type(dtype)):
            move()
            assert holder["layer"].weight.dtype == dtype
            after = quantizer.state_dict()
            assert all(torch.equal(after[key], value) for key, value in before.items())
            assert all(after[key].dtype == value.dtype for key, value in before.items())
    assert [id(parameter) for parameter in quantizer.parameters()] == identities
    moved = copy.deepcopy(holder).to("meta", torch.bfloat16)["quantizer"]
    assert all(value.is_meta for value in moved.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_default_dtype_changes_nothing(name, dtype):
    """transformers sets it while it builds a model that is loaded in bf16."""
    standard = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        quantizer = build(name)
        for _ in range(3):
            assert train(quantizer, torch.randn(20, 8)).quantized.dtype == dtype
    finally:
        torch.set_default_dtype(standard)
    for value in quantizer.state_dict().values():
        assert value.dtype == torch.float32 or not value.is_floating_point()
