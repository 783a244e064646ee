"""The K code vectors, and what moves them after a step of the optimiser."""

from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from vqnmt.quantizers.config import MOST_CODES, QuantizerConfig
from vqnmt.quantizers.distances import nearest_codes
from vqnmt.quantizers.kmeans import choose_vectors, kmeans
from vqnmt.quantizers.statistics import all_reduce, rank, world_size

POOL_SIZE = 1024
"""Vectors of each step, over all processes, that are kept for the k-means start and restarts."""

_SMALLEST_COUNT = 1e-12  # a code with a lower count keeps its vector: sum / count is noise
_HASH = 2654435769  # 2^32 / golden ratio: Knuth's multiplicative hash


# See `vqnmt.settings.deciding`.
_OMITTED = {"omitted at default": True}


@dataclass(kw_only=True)
class CodebookConfig(QuantizerConfig):
    """Settings of a quantizer with one codebook."""

    beta: float = 0.25
    """Weight of the commitment loss."""

    decay: float = 0.999
    """lambda of the moving averages, per optimiser step (`hard_em`, `gradient`: of the usage);
    0.99 suits short trainings."""

    initialisation: str = "kmeans"
    """`kmeans`: k-means over the first vectors seen; `normal`: N(0, 1) with counts of 1;
    `reference`: N(0, 1) with counts of 0, which lets unhit codes explode at the first step."""

    kmeans_vectors: int | None = None
    """How many vectors are gathered before k-means runs; None = 4 K."""

    kmeans_iterations: int = 10
    """Lloyd iterations of the k-means initialisation."""

    restart_threshold: float = 0.1
    """A code used less than this fraction of the mean usage is restarted; 0 = never."""

    restart_until: float = field(default=1.0, metadata=_OMITTED)
    """Share of the training after which no code is restarted any more, so that what is trained on
    the codes themselves, such as a prior, can settle."""

    codebook_dim: int | None = None
    """Size of the code vectors: z_e is projected to it and the value back to d, by trained linear
    layers (Yu et al. 2022); None = d, without projections."""

    cosine: bool = field(default=False, metadata=_OMITTED)
    """Whether z_e and the code vectors are scaled to length 1, so that the nearest code is that
    of the highest cosine similarity (Yu et al. 2022)."""

    rotation: bool = field(default=False, metadata=_OMITTED)
    """Whether the gradient to z_e goes by the rotation trick (Fifty et al. 2024) instead of
    straight through."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("beta")
        self.require_fraction("decay")
        self.require_fraction("restart_threshold")
        self.require("restart_until", 0 <= self.restart_until <= 1, "0 to 1")
        self.require_choice("initialisation", ("kmeans", "normal", "reference"))
        self.require_between("kmeans_vectors", 1, 4 * MOST_CODES)
        self.require_between("kmeans_iterations", 1, 10_000)
        self.require_between("codebook_dim", 1, 1 << 16)
        # Counts of 0 mean that every code is "dead" at the first step: the setting exists to show
        # the reference's behaviour.
        reference = self.initialisation == "reference"
        fits = not reference or self.restart_threshold == 0
        self.require("restart_threshold", fits, "0 beside quantizer.initialisation=reference")


class Update(Enum):
    """How `step` moves the codes that were hit."""

    AVERAGE = "moving average of counts and sums"
    REPLACE = "mean of the vectors of this step"
    GRADIENT = "not at all: the optimiser moves them"


class Codebook(nn.Module):
    """K vectors of dimension d with their moving averages.

    `accumulate` adds up counts and sums of any number of micro-batches; `step` sums them over
    all processes and moves the codebook (Roy et al. 2018):

        c_j <- lambda c_j + (1 - lambda) n_j,    m_j <- lambda m_j + (1 - lambda) sum_i z_i,
        e_j = m_j / c_j,

    where this last c_j is smoothed to C (c_j + epsilon) / (C + K epsilon), C the sum of all c_j.

    Counts start at 1 and sums at the vectors, so a code that is not hit stays where it is.
    Buffers hold only what is the same in every process; what a process has accumulated is in
    plain attributes, which DistributedDataParallel does not overwrite.

    Args:
        config: The settings.
        dim: d.
        update: How `step` moves the codes.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    steps: Tensor
    seed: Tensor
    kmeans_vectors: Tensor
    kmeans_filled: Tensor

    def __init__(self, config: CodebookConfig, dim: int, update: Update) -> None:
        super().__init__()
        self.config = config
        self.update = update
        self.restarting = True
        self.epsilon = getattr(config, "epsilon", 0.0)
        size = config.codebook_size
        wanted = config.kmeans_vectors or 4 * size
        if config.initialisation != "kmeans":
            wanted = 0
        vectors = torch.randn(size, dim)
        if update is Update.GRADIENT:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        reference = config.initialisation == "reference"
        # (K,): moving average of the hits of one step
        self.register_buffer("counts", torch.zeros(size) if reference else torch.ones(size))
        if update is Update.AVERAGE:
            self.register_buffer("sums", vectors.clone())  # (K, d)
        # Steps taken: with the seed they decide the random choices.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # Below 2^24, so that it passes exactly through the fp32 all-reduce.
        self.register_buffer("seed", torch.randint(1 << 24, ()))
        self.register_buffer("kmeans_vectors", torch.zeros(wanted, dim))
        self.register_buffer("kmeans_filled", torch.zeros((), dtype=torch.int64))
        self.clear()

    @property
    def table(self) -> Tensor:
        """The code vectors as they are used `(K, d)`: with `cosine` scaled to length 1."""
        return functional.normalize(self.vectors, dim=1) if self.config.cosine else self.vectors

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)`."""
        return functional.embedding(codes, self.table)

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest codes `(N,)` of `(N, d)` fp32 vectors."""
        return nearest_codes(vectors, self.table, self.centre())

    @torch.no_grad()
    def centre(self) -> Tensor:
        """The mean `(d,)` of the code vectors weighted by their counts.

        This estimates the mean of the recent encoder vectors. A code with few hits may lie
        anywhere, so it must not move the centre.
        """
        total = self.counts.sum().clamp(min=_SMALLEST_COUNT)
        centre: Tensor = (self.counts / total) @ self.table
        return centre

    def clear(self) -> None:
        """Forget what was accumulated since the last step."""
        self._hits: Tensor | None = None  # (K,) hits, fractional for soft assignments
        self._hit_sums: Tensor | None = None  # (K, d)
        self._pool: Tensor | None = None  # (P, d)
        self._priorities: Tensor | None = None  # (P,) int64, the smallest are kept
        self._seen = 0

    @torch.no_grad()
    def accumulate(self, vectors: Tensor, hits: Tensor, hit_sums: Tensor | None) -> None:
        """Add one micro-batch.

        Args:
            vectors: `(N, d)` fp32.
            hits: `(K,)` n_j, assignments to each code.
            hit_sums: `(K, d)` sums of the assigned vectors; None where only usage counts.
        """
        self._hits = hits if self._hits is None else self._hits + hits
        if hit_sums is not None:
            self._hit_sums = hit_sums if self._hit_sums is None else self._hit_sums.add_(hit_sums)
        if self.kmeans_vectors.shape[0] > 0 or self.config.restart_threshold > 0:
            self._add_to_pool(vectors.detach())

    def _add_to_pool(self, vectors: Tensor) -> None:
        """Keep an evenly spread subset of this step's vectors.

        The subset is chosen by hashes of the vectors' running numbers instead of at random: a
        random draw would move the random state in the first forward pass of an activation
        checkpoint, but not in its recomputation.
        """
        numbers = torch.arange(
            self._seen, self._seen + vectors.shape[0], device=vectors.device, dtype=torch.int64
        )
        self._seen += vectors.shape[0]
        priorities = (numbers * _HASH) & 0xFFFFFFFF
        if self._pool is not None and self._priorities is not None:
            vectors = torch.cat([self._pool, vectors])
            priorities = torch.cat([self._priorities, priorities])
        size = -(-POOL_SIZE // world_size())
        if vectors.shape[0] > size:
            priorities, kept = priorities.topk(size, largest=False)
            vectors = vectors[kept]
        self._pool, self._priorities = vectors, priorities

    @torch.no_grad()
    def step(self) -> None:
        """Sum over the processes what was accumulated and move the codebook.

        Every process must call it: there is one all-reduce of fixed size, whatever the data.
        """
        size, dim = self.vectors.shape
        world, own = world_size(), rank()
        device = self.vectors.device
        zeros = partial(torch.zeros, dtype=torch.float32, device=device)
        hits = zeros(size) if self._hits is None else self._hits
        # Rank r fills slot r, zeros elsewhere: the sum of all is the concatenation of all.
        slots = zeros(world, -(-POOL_SIZE // world), dim)
        # The number of pooled vectors of each rank, then rank 0's seed.
        scalars = zeros(world + 1)
        if self._pool is not None:
            slots[own, : self._pool.shape[0]] = self._pool
            scalars[own] = self._pool.shape[0]
        if own == 0:
            scalars[world] = self.seed
        payload = [hits, slots, scalars]
        if self.update is not Update.GRADIENT:
            sums = self._hit_sums
            payload.append(zeros(size, dim) if sums is None else sums)
        self.clear()
        payload = all_reduce(payload)
        hits, slots, scalars = payload[:3]

        # The only synchronisation with the device in a step; the branches below need these values.
        facts = torch.cat(
            [scalars, torch.stack([hits.sum(), self.steps, self.kmeans_filled]).to(scalars.dtype)]
        ).tolist()
        filled, (seed, total, steps, gathered) = facts[:world], facts[world:]
        self.steps += 1
        if total == 0:
            return
        pool = torch.cat([slots[r, : int(filled[r])] for r in range(world)])  # (P, d)
        generator = torch.Generator().manual_seed(int(seed) * 1_000_003 + int(steps))
        if gathered < self.kmeans_vectors.shape[0]:
            self._initialise(pool, int(gathered), generator)
            return
        self._move(hits, payload[3] if len(payload) > 3 else None)
        if self.restarting and self.config.restart_threshold > 0:
            self._restart(pool, generator)

    def _initialise(self, pool: Tensor, gathered: int, generator: torch.Generator) -> None:
        """Gather vectors `(P, d)`: the first ones become codes, k-means runs when all are there."""
        wanted, size = self.kmeans_vectors.shape[0], self.vectors.shape[0]
        taken = pool[: wanted - gathered]
        self.kmeans_vectors[gathered : gathered + taken.shape[0]] = taken
        self.kmeans_filled += taken.shape[0]
        if gathered + taken.shape[0] == wanted:
            vectors = self.kmeans_vectors.float()
            vectors = kmeans(vectors, size, self.config.kmeans_iterations, generator)
            self.kmeans_vectors.zero_()
        elif gathered == 0:
            vectors = choose_vectors(taken, size, generator)
        else:
            return
        if world_size() > 1:
            # Different devices may round k-means differently.
            distributed.broadcast(vectors, src=0)
        every = torch.arange(size, device=vectors.device)
        self.place(every, vectors, torch.ones_like(self.counts), torch.ones_like(every).bool())

    def place(self, codes: Tensor, vectors: Tensor, counts: Tensor, moved: Tensor) -> None:
        """Move codes together with their counts and sums, or the next step would move them back.

        Args:
            codes: `(R,)` distinct codes.
            vectors: `(R, d)` where to.
            counts: `(R,)` their new counts.
            moved: `(R,)` bool, True for the codes to move.
        """
        old = self.vectors.detach()[codes]
        self.vectors.data[codes] = torch.where(moved[:, None], vectors.to(old.dtype), old)
        self.counts[codes] = torch.where(moved, counts, self.counts[codes])
        if self.update is Update.AVERAGE:
            sums = vectors * counts[:, None]
            self.sums[codes] = torch.where(moved[:, None], sums, self.sums[codes])

    def _move(self, hits: Tensor, hit_sums: Tensor | None) -> None:
        """The M step with `(K,)` hits and `(K, d)` sums of all processes."""
        decay = self.config.decay
        self.counts.mul_(decay).add_(hits, alpha=1 - decay)
        if hit_sums is None:
            return
        if self.update is Update.REPLACE:
            means = hit_sums.div_(hits.clamp(min=_SMALLEST_COUNT)[:, None])
            self.vectors.copy_(torch.where(hits[:, None] > 0, means, self.vectors))
            return
        self.sums.mul_(decay).add_(hit_sums, alpha=1 - decay)
        counts = self.counts
        if self.epsilon > 0:
            total, size = counts.sum(), counts.shape[0]
            counts = (counts + self.epsilon) / (total + size * self.epsilon) * total
        means = torch.div(self.sums, counts.clamp(min=_SMALLEST_COUNT)[:, None], out=hit_sums)
        self.vectors.copy_(torch.where(counts[:, None] > _SMALLEST_COUNT, means, self.vectors))

    def _restart(self, pool: Tensor, generator: torch.Generator) -> None:
        """Move rarely used codes to vectors of this step `(P, d)` (Zeghidour et al. 2021).

        Their counts become the mean count. A count of 1 would never fall below the threshold if
        steps have few vectors, and would fall below it at once if steps have many.
        """
        mean = self.counts.mean()
        limit = min(pool.shape[0], self.counts.shape[0])
        counts, codes = self.counts.topk(limit, largest=False)
        chosen = pool[torch.randperm(pool.shape[0], generator=generator)[:limit].to(pool.device)]
        # Boolean indexing would synchronise with the device to learn the size of its result.
        dead = counts < self.config.restart_threshold * mean
        self.place(codes, chosen, mean.expand(limit), dead)
