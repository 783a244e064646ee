"""A tiny translation task, and a trainer of it that leaves everything in `tmp_path`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.quantizers.fitting import fitting_config
from vqnmt.data.batches import pad, plan_batches
from vqnmt.layers import TransformerConfig
from vqnmt.models import (
    AutoregressiveConfig,
    AutoregressiveTransformer,
    LatentConfig,
    LatentTransformer,
)
from vqnmt.quantizers.vector_quantizers import SoftEMQuantizer
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer


class TinyBatches:
    """24 random sentence pairs, planned like a real corpus."""

    unit = "tokens"

    def __init__(self, batch_tokens: int = 40) -> None:
        generator = np.random.default_rng(0)
        self.batch_tokens = batch_tokens
        self.rows = [
            [generator.integers(4, 12, generator.integers(2, 7)).tolist() for _ in range(24)]
            for _ in range(2)
        ]
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.last = np.zeros(0, dtype=np.int64)
        self.on_batch: Callable[[int], None] = lambda count: None

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        lengths = [np.array([len(row) for row in side]) for side in self.rows]
        return plan_batches(*lengths, self.batch_tokens, 1, epoch)

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        source, target = (pad([side[i] for i in indices]) for side in self.rows)
        self.seen.append((source, target))
        self.last = indices
        self.on_batch(len(self.seen))
        return source, target


class Planned(TinyBatches):
    """The same pairs in batches that are given by hand, the same in every epoch."""

    def __init__(self, *plan: range) -> None:
        super().__init__()
        self.given = [np.array(indices) for indices in plan]

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        return self.given


# All pairs in one batch; in three and in five batches, one with a single pair.
WHOLE, PARTS = (range(24),), (range(20), range(20, 21), range(21, 24))
FIVE = (range(6), range(6, 12), range(12, 18), range(18, 19), range(19, 24))


class Watcher:
    """Looks at a fixed batch, and draws random numbers as a sampling validation would."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        source, target = TinyBatches().collate(np.arange(4))
        return {"valid/total": model(source, target).total.item()}

    def score(self, values: dict[str, Any]) -> float:
        return -values["valid/total"]


class Quiet(Watcher):
    """Draws no random numbers."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        source, target = TinyBatches().collate(np.arange(4))
        return {"valid/total": model(source, target).total.item()}


def tiny_model(kind: str) -> nn.Module:
    torch.manual_seed(5)
    size = TransformerConfig(dim=8, feedforward=12, heads=2, dropout=0.1)
    if kind == "autoregressive":
        return AutoregressiveTransformer(
            AutoregressiveConfig(transformer=size, encoder_layers=1, decoder_layers=1), 12
        )
    return LatentTransformer(
        LatentConfig(
            transformer=size,
            quantizer=fitting_config(
                name=kind, codebook_size=6, samples=4, samples_end=1, kmeans_vectors=60
            ),
            encoder_layers=1,
            decoder_layers=1,
            compression=1,
            residual_convolutions=3,
            word_dropout=0.1,
            code_noise=0.2,
            continuous_start=0.2,
        ),
        12,
    )


EXACT = ("ema", "soft_em")


def train_exact(kind: str, folder: Path) -> Trainer:
    """Train 50 steps without any random numbers that depend on the process."""
    config = TrainingConfig(
        steps=50,
        warmup=5,
        learning_rate=0.003,
        precision="fp32",
        log_every=1,
        validate_every=25,
        average=5,
    )
    batches = TinyBatches(80)
    trainer = Trainer(exact_model(kind), batches, Quiet(), config, folder, 3, "tiny")
    with common_draws(trainer, batches):
        trainer.train()
    return trainer


def plain_model() -> nn.Module:
    """The autoregressive model without dropout: its gradient follows from weights and data."""
    model = tiny_model("autoregressive")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def exact_model(kind: str) -> nn.Module:
    """The latent model without any random numbers but soft EM's draws."""
    torch.manual_seed(5)
    return LatentTransformer(
        LatentConfig(
            transformer=TransformerConfig(dim=8, feedforward=12, heads=2, dropout=0.0),
            quantizer=fitting_config(
                name=kind, codebook_size=6, samples=4, samples_end=1, kmeans_vectors=60
            ),
            encoder_layers=1,
            decoder_layers=1,
            compression=1,
            residual_convolutions=3,
            code_noise=0.0,
            continuous_start=0.1,
        ),
        12,
    )


@contextlib.contextmanager
def common_draws(trainer: Trainer, batches: TinyBatches) -> Iterator[None]:
    """Give soft EM the same draws for a code of a pair in whichever process it is.

    They invert the posterior at uniform numbers that follow from the step, the pair and the
    code's place in it.
    """

    def posterior(self: SoftEMQuantizer, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distances = torch.cdist(vectors, self.codebook.vectors).square()  # (N, K)
        p = (-distances / (self.scale * self.temperature)).softmax(dim=1)
        codes, entropy = distances.argmin(dim=1), torch.special.entr(p).sum()
        if not self.training:
            return codes, codes[:, None], entropy
        points = [
            np.random.default_rng((trainer.step, pair, place)).random(self.samples)
            for pair in batches.last
            for place in range(-(-len(batches.rows[1][pair]) // 2))
        ]
        points = torch.tensor(np.array(points), dtype=p.dtype)  # (N, m)
        samples = torch.searchsorted(p.cumsum(dim=1), points).clamp(max=p.shape[1] - 1)
        return codes, samples, entropy

    with mock.patch.object(SoftEMQuantizer, "_posterior", posterior):
        yield


def watch_gradients(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Return a list that gets the gradient of each optimiser step, before it is clipped."""
    found: list[dict[str, Tensor]] = []
    clip = trainer.distributed.clip_gradient

    def look(norm: float) -> float:
        named = trainer.inner.named_parameters()
        found.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        return clip(norm)

    trainer.distributed.clip_gradient = look
    return found


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Compare to 1e-6 of the whole gradient's norm."""
    assert one.keys() == other.keys()
    norm = torch.stack([value.norm() for value in other.values()]).norm()
    for name, value in other.items():
        assert (one[name] - value).norm() <= 1e-6 * norm, name


@pytest.fixture
def make_trainer(tmp_path) -> Callable[..., Trainer]:
    """Build a trainer: `make_trainer("soft_em", folder="a", steps=9)`."""

    def make(
        model: str | nn.Module = "autoregressive",
        folder: str = "run",
        batches: TinyBatches | None = None,
        watcher: Any = None,
        seed: int = 3,
        **settings: Any,
    ) -> Trainer:
        defaults = {
            "steps": 6,
            "warmup": 2,
            "learning_rate": 0.01,
            "precision": "fp32",
            "log_every": 1,
            "validate_every": 3,
            "average": 5,
        }
        return Trainer(
            tiny_model(model) if isinstance(model, str) else model,
            batches or TinyBatches(),
            watcher or Watcher(),
            TrainingConfig(**(defaults | settings)),
            Path(tmp_path) / folder,
            seed,
            "tiny",
        )

    return make
