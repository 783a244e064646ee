"""Trainings that are large enough for several threads to share a step come out the same again.

PyTorch splits work of fewer than about 32,768 numbers over no threads, so that the other tests
would not notice sums in an order of chance. What takes two threads runs in a child: a process that
has started threads of its own can no longer be forked.
"""

import copy
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.quantizers.fitting import fitting_config
from vqnmt.images.models import (
    AutoencoderConfig,
    ImageModelConfig,
    PriorConfig,
    build_image_model,
)
from vqnmt.layers import TransformerConfig
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
from vqnmt.quantizers import Quantizer, QuantizerConfig, build_quantizer
from vqnmt.quantizers.config import CONFIGS
from vqnmt.training.loop import Trainer
from vqnmt.training.metrics import read_metrics
from vqnmt.training.process import one_order

from .conftest import TinyBatches, Watcher
from .test_killing import ended_by, in_child, newest_step
from .test_loop import Unwatched

pytestmark = [
    pytest.mark.forks,
    pytest.mark.skipif(
        not hasattr(os, "fork") or torch.get_num_threads() > 1,
        reason="forks children, which would wait for the threads of a parent that has several",
    ),
]

PIECES = 500
QUANTIZERS = tuple(CONFIGS)
TEXT_MODELS = ("autoregressive", "ctc", "fertility", "cross_entropy")
SIZE = TransformerConfig(dim=128, feedforward=256, heads=4)


class LargeBatches(TinyBatches):
    """Sentences mostly made up of a few pieces, in batches of 1,024 positions."""

    def __init__(self) -> None:
        super().__init__(1024)
        generator = np.random.default_rng(0)
        self.rows = [
            [
                np.minimum(generator.zipf(1.3, generator.integers(8, 25)) + 3, PIECES - 1).tolist()
                for _ in range(240)
            ]
            for _ in range(2)
        ]


def quantizer_config(name: str) -> QuantizerConfig:
    return fitting_config(name, codebook_size=64, kmeans_vectors=64, levels=(8, 8), parts=2)


def text_model(name: str, transformer: TransformerConfig = SIZE) -> nn.Module:
    """Build a model by its name, or the default one with the quantizer of that name."""
    torch.manual_seed(5)
    size: dict[str, Any] = {"transformer": transformer, "encoder_layers": 1, "decoder_layers": 1}
    if name == "autoregressive":
        return AutoregressiveTransformer(AutoregressiveConfig(**size), PIECES)
    if name == "ctc":
        return CtcTransformer(CtcConfig(**size, glancing=True), PIECES)
    if name == "fertility":
        model = FertilityTransformer(FertilityConfig(**size), PIECES)
        model.align = lambda source, target: torch.zeros_like(target)
        return model
    size |= {"residual_convolutions": 1, "code_noise": 0.1, "continuous_start": 0.1}
    if name == "cross_entropy":
        size |= {"output": "cross_entropy", "upsampling": 1, "gold_mixing": True}
    chosen = quantizer_config(name if name in QUANTIZERS else "ema")
    return LatentTransformer(LatentConfig(quantizer=chosen, **size), PIECES)


def image_model(name: str, size: int = 32) -> nn.Module:
    """Build a model of a kind, or the VQ-VAE with the quantizer of that name."""
    torch.manual_seed(5)
    kind = name if name in ("vae", "integers", "pixels") else "vqvae"
    transformer = name in ("pixels", "transformer prior")
    config = ImageModelConfig(
        kind=kind,
        autoencoder=AutoencoderConfig(width=48, blocks=1),
        latent_dim=16 if kind == "vqvae" else 3,
        codes=2,
        quantizer=quantizer_config(name if name in QUANTIZERS else "ema"),
        prior=PriorConfig(
            name="transformer" if transformer else "pixelcnn",
            width=32,
            layers=1,
            joint=True,
            dropout=0.1,
        ),
    )
    return build_image_model(config, size)


def text_batch(pairs: int) -> tuple[Tensor, ...]:
    return LargeBatches().collate(np.arange(pairs))


def image_batch(images: int, size: int = 32) -> tuple[Tensor, ...]:
    return (ImageBatches().images[:images, :, :size, :size],)


class ImageBatches:
    """Batches of 16 images of noise."""

    unit = "images"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        return list(np.arange(64).reshape(4, 16))

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return (self.images[torch.from_numpy(indices)],)


class Repeats(TorchDispatchMode):
    """Remembers where what indices name is added up, and two of them are one.

    On a CPU that is the one operation of a training whose order threads decide; how large it is,
    and so whether they do here, does not matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if "index_put" in function.name() and True in arguments[3:4]:
            target, indices, values = arguments[:3]
            ones = torch.ones_like(values)
            if torch.zeros_like(target).index_put(indices, ones, accumulate=True).max() > 1:
                self.found.append(tuple(target.shape))
        return function(*arguments, **(keywords or {}))


def on_two_threads(work: Callable[[], Any], path: Path) -> Any:
    """Return what `work` returns in a child process with two threads."""

    def save() -> None:
        torch.set_num_threads(2)
        torch.save(work(), path)

    assert torch.get_num_threads() == 1
    assert ended_by(in_child(save)) == 0
    return torch.load(path)


def train_step(model: nn.Module, batch: tuple[Tensor, ...]) -> None:
    model.train()
    if isinstance(model, LatentTransformer):
        model.continuous = False
    model(*batch).total.backward()
    if hasattr(model, "after_optimizer_step"):
        model.after_optimizer_step()


def test_what_is_looked_for_is_found():
    weight, indices = torch.randn(5, 3, requires_grad=True), torch.tensor([[1, 2, 1]])
    for add_up, expected in (
        (lambda: weight[indices], [(5, 3)]),
        (lambda: weight[indices[:, :2]], []),
        (lambda: torch.nn.functional.embedding(indices, weight), []),
    ):
        with Repeats() as repeats:
            add_up().square().sum().backward()
        assert repeats.found == expected


@pytest.mark.parametrize("name", [*TEXT_MODELS, *QUANTIZERS])
def test_no_text_model_adds_up_in_an_order_of_chance(name):
    with Repeats() as repeats:
        train_step(text_model(name), text_batch(8))
    # The loop takes care of what is not ours.
    expected = [(64 * 128,)] if name == "sim_vq" else []
    assert repeats.found == expected


@pytest.mark.parametrize("kind", ["vae", "integers", "pixels", "transformer prior", *QUANTIZERS])
def test_no_image_model_adds_up_in_an_order_of_chance(kind):
    with Repeats() as repeats:
        train_step(image_model(kind, 16), image_batch(2, 16))
    expected = [(64 * 16,)] if kind == "sim_vq" else []
    assert repeats.found == expected


@pytest.mark.slow
def test_every_quantizers_gradient_comes_out_again(tmp_path):
    z_e = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))

    def train(quantizer: Quantizer) -> dict[str, Tensor]:
        torch.manual_seed(7)
        quantizer, vectors = copy.deepcopy(quantizer), z_e.clone().requires_grad_()
        for _ in range(3):  # the first places the codes
            output = quantizer(vectors)
            (output.quantized.square().mean() + sum(output.losses.values())).backward()
            quantizer.step()
        found = {"z_e": vectors.grad, **dict(quantizer.named_buffers())}
        return found | {name: p.grad for name, p in quantizer.named_parameters()}

    def differing() -> dict[str, list[str]]:
        found = {}
        for name in QUANTIZERS:
            quantizer = build_quantizer(quantizer_config(name), z_e.shape[1])
            with one_order(z_e.device) if name == "sim_vq" else nullcontext():
                first, *others = (train(quantizer) for _ in range(4))
            found[name] = [
                key
                for key, value in first.items()
                if value is not None and any(not torch.equal(value, x[key]) for x in others)
            ]
        return found

    assert on_two_threads(differing, tmp_path / "names") == {name: [] for name in QUANTIZERS}


def trained(make_trainer: Callable[..., Trainer], kind: str, folder: str) -> dict[str, Tensor]:
    """Train for a few steps; return weights, codebook and loss."""
    if kind == "image":
        model, batches, watcher = image_model("ema"), ImageBatches(), Unwatched()
    else:
        model, batches, watcher = text_model(kind), LargeBatches(), Watcher()
    settings = {"steps": 5, "validate_every": 5}
    trainer = make_trainer(model, folder, batches, watcher, **settings)
    trainer.train()
    return trainer.inner.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoregressive", "ema", "image"])
def test_the_same_seed_gives_the_same_weights_on_two_threads(make_trainer, tmp_path, kind):
    one, other = (
        on_two_threads(lambda name=name: trained(make_trainer, kind, name), tmp_path / f"{name}.pt")
        for name in ("one", "other")
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.slow
def test_kills_change_nothing_where_threads_share_a_step(make_trainer, tmp_path):
    settings = {"steps": 10, "validate_every": 1, "average": 2}

    def train(name: str) -> dict[str, Tensor]:
        model = text_model("ema")
        return make_trainer(model, name, LargeBatches(), Watcher(), **settings).train()

    expected = on_two_threads(lambda: train("whole"), tmp_path / "whole.pt")
    folder, generator = tmp_path / "killed", random.Random(7)
    for _ in range(2):
        goal = newest_step(folder) + generator.randint(1, 4)

        def train_killed() -> None:
            torch.set_num_threads(2)
            train("killed")

        child = in_child(train_killed)
        deadline = time.monotonic() + 60
        while newest_step(folder) < goal and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert ended_by(child) == -signal.SIGKILL, "the training had ended by itself"
    found = on_two_threads(lambda: train("killed"), tmp_path / "found.pt")
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    rows = [
        [{k: v for k, v in row.items() if "per_second" not in k} for row in read_metrics(path)]
        for path in (folder / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1]
