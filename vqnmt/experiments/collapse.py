"""Index collapse: codebooks trained on one stream of vectors, so that only they differ.

No encoder reacts to the codebook here, so lost codes are due to the codebook's own rule.
"""

import dataclasses
import importlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqnmt.data.batches import pad, plan_batches
from vqnmt.data.corpus import ParallelText
from vqnmt.errors import VqnmtError
from vqnmt.models import LatentTransformer
from vqnmt.progress import Progress
from vqnmt.quantizers import QuantizerConfig, build_quantizer
from vqnmt.quantizers.statistics import perplexity
from vqnmt.settings import NonNegativeInt, PositiveInt, Settings
from vqnmt.translate.pytorch import Translator


@dataclass(kw_only=True, slots=True)
class CollapseConfig(Settings):
    """How the codebooks are trained."""

    group: InitVar[str] = "collapse"
    codebook_size: PositiveInt = 512
    """K."""
    steps: NonNegativeInt = 500
    """Codebook steps; 0 skips this part."""
    batch: PositiveInt = 1024
    """N, vectors in each step."""
    vectors: PositiveInt = 65536
    """Vectors to draw the batches from, at most; fewer where the text has fewer."""
    dim: PositiveInt = 16
    """d of the Gaussian vectors; the encoder's have their own."""
    offset: float = 3.0
    """Their mean in every dimension; their covariance is the identity."""


@dataclass(slots=True)
class CodebookHistory:
    """The use of a codebook in T windows of training."""

    steps: NDArray[np.int64]
    """(T,): the last step of each window."""
    usage: NDArray[np.int64]
    """(T, K): how often each code was the nearest one in the window."""
    error: float
    """Mean of (z - e_nearest)^2 in the last window over the variance of z, the squared distance
    from the mean vector: 1 is what a single code at the mean would reach."""
    seconds: float
    """Time that the training took."""

    def used(self, window: int) -> int:
        """How many codes were used in a window."""
        return int((self.usage[window] > 0).sum())

    def perplexity(self, window: int) -> float:
        """Exp of the entropy of the usage in a window, between 1 and K."""
        return perplexity(torch.from_numpy(self.usage[window]))


# Trains on vectors (N, d); returns codes (N,) and the mean of (z - e_nearest)^2 before the update.
CodebookStep = Callable[[Tensor], tuple[Tensor, Tensor]]


def codebook_steps(config: QuantizerConfig) -> dict[str, Callable[[int], CodebookStep]]:
    """Name the codebooks to compare; each is made by a call with d.

    Args:
        config: K, decay and the further settings of ours. The reference implementation's start
            differs from our EMA in nothing but the start and the restarts; `soft_em_sqrt_dim` has
            softer posteriors, from distances divided by sqrt(d).
    """
    ema, soft_em = config.as_named("ema"), config.as_named("soft_em")
    scaled = dataclasses.replace(soft_em, distance_scale="sqrt_dim")  # type: ignore[call-arg]
    epsilon = getattr(config, "epsilon", 0.0) or 1e-5
    reference = config.as_named(
        "ema", initialisation="reference", restart_threshold=0.0, epsilon=epsilon
    )
    return {
        "ema_reference_start": lambda dim: _ours(reference, dim),
        "vq_pytorch_defaults": lambda dim: _theirs(config.codebook_size, dim),
        "ema": lambda dim: _ours(ema, dim),
        "soft_em": lambda dim: _ours(soft_em, dim),
        "soft_em_sqrt_dim": lambda dim: _ours(scaled, dim),
    }


def _ours(config: QuantizerConfig, dim: int) -> CodebookStep:
    quantizer = build_quantizer(config, dim).train()

    def step(vectors: Tensor) -> tuple[Tensor, Tensor]:
        output = quantizer(vectors)
        quantizer.step()
        return output.codes, output.statistics["quantisation_error"]

    return step


def _theirs(codebook_size: int, dim: int) -> CodebookStep:
    """VectorQuantize with its defaults; its forward moves the codebook."""
    quantizer = _vector_quantize()(dim=dim, codebook_size=codebook_size).train()

    def step(vectors: Tensor) -> tuple[Tensor, Tensor]:
        quantized, codes, _ = quantizer(vectors[None])  # (1, N, d), (1, N)
        return codes[0], (vectors - quantized[0]).pow(2).mean()

    return step


def peer_settings() -> str:
    """Name the defaults of VectorQuantize that decide whether its codebook collapses."""
    defaults = inspect.signature(_vector_quantize()).parameters
    keys = ("decay", "kmeans_init", "threshold_ema_dead_code")
    return ", ".join(f"{key}={defaults[key].default}" for key in keys)


def _vector_quantize() -> Any:
    try:
        return importlib.import_module("vector_quantize_pytorch").VectorQuantize
    except ImportError:
        raise VqnmtError(
            "the comparison needs the package vector-quantize-pytorch: "
            "pip install 'vqnmt[quantizers]', or leave this part out by collapse.steps=0"
        ) from None


@torch.no_grad()
def train_codebook(
    make: Callable[[int], CodebookStep],
    vectors: Tensor,
    config: CollapseConfig,
    seed: int,
    name: str,
) -> CodebookHistory:
    """Train one codebook on random batches of `vectors` (M, d).

    Args:
        make: A value of `codebook_steps`.
        vectors: Vectors that the batches are drawn from.
        config: Number of steps and size of a batch.
        seed: Fixes the batches and everything that the codebook draws.
        name: Label of the progress report.
    """
    torch.manual_seed(seed)
    step, every = make(vectors.shape[1]), max(config.steps // 50, 1)
    steps: list[int] = []
    usage: list[NDArray[np.int64]] = []
    counts, errors = torch.zeros(config.codebook_size, dtype=torch.int64), []
    start = time.perf_counter()
    with Progress(name, config.steps, "steps") as progress:
        for number, batch in enumerate(_batches(vectors, config, seed), 1):
            codes, error = step(batch)
            counts += codes.bincount(minlength=config.codebook_size)
            errors.append(error)
            if number % every == 0 or number == config.steps:
                steps.append(number)
                usage.append(counts.numpy().copy())
                last = torch.stack(errors).mean()
                counts.zero_()
                errors.clear()
            progress.update()
    return CodebookHistory(
        steps=np.array(steps),
        usage=np.stack(usage),
        error=float(last / vectors.var(dim=0, correction=0).mean()),
        seconds=time.perf_counter() - start,
    )


def _batches(vectors: Tensor, config: CollapseConfig, seed: int) -> Iterator[Tensor]:
    """Draw the batches (N, d), the same for every codebook."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.steps):
        yield vectors[torch.randint(len(vectors), (config.batch,), generator=generator)]


def gaussian_vectors(config: CollapseConfig, seed: int) -> Tensor:
    """Draw the vectors (M, d) ~ N(offset, I)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(config.vectors, config.dim, generator=generator) + config.offset


@torch.no_grad()
def encoder_vectors(student: Translator, text: ParallelText, count: int, seed: int) -> Tensor:
    """Collect z_e (M, d) of random training pairs from a student's compressor, on the CPU.

    Args:
        student: Its model is a `LatentTransformer`.
        text: What the student trains on.
        count: Vectors wanted; M is smaller if the text has fewer.
        seed: Fixes which pairs are taken.
    """
    model = student.model
    assert isinstance(model, LatentTransformer)
    model.eval()
    found: list[Tensor] = []
    total = 0
    with Progress("encoder outputs", count, "vectors") as progress:
        for source, target in _random_batches(student, text, seed):
            z_e, mask = model.compress(target, *model.encode(source))
            found.append(z_e[mask].float().cpu())
            total += len(found[-1])
            progress.update(min(len(found[-1]), count - progress.done))
            if total >= count:
                break
    return torch.cat(found)[:count]


def _random_batches(
    translator: Translator, text: ParallelText, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield source (B, S) and target (B, T) of all pairs of `text`, batches in random order."""
    rows, target_rows, _ = translator.encode_pairs(text.sources, text.targets)
    lengths = [np.array([len(row) for row in side], dtype=np.int64) for side in (rows, target_rows)]
    for indices in plan_batches(lengths[0], lengths[1], translator.batch_tokens, seed, epoch=0):
        sides = pad([rows[i] for i in indices]), pad([target_rows[i] for i in indices])
        yield sides[0].to(translator.device), sides[1].to(translator.device)
