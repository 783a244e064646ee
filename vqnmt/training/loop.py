"""The training loop for any model.

The seed determines a run: on CPUs of one kind the same seed and number of threads give the same
losses bit for bit, and a run that is stopped and resumed equals one that was not. The processes
split each batch, so that their number changes neither the batches nor the number of steps.

A step whose gradient is not finite is left out (`SkipRule`). This is the only place in training
that decides about NaN: models and quantizers pass it on to the loss.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.layers import Losses
from vqnmt.progress import Progress, print_once
from vqnmt.quantizers.base import Quantizer
from vqnmt.training.checkpoint import Checkpoints, readable
from vqnmt.training.config import TrainingConfig
from vqnmt.training.distribution import DistributedModel
from vqnmt.training.metrics import Meter, MetricsLog, start_trackers
from vqnmt.training.optimizer import SkipRule, learning_rate, make_optimizer
from vqnmt.training.process import (
    SIGNALS,
    Interruption,
    keep_freed_memory,
    load_process_states,
    one_order,
    process_state,
    seed_anew,
)

# The attributes of `Trainer` that say how far a training is.
POSITION = ("step", "epoch", "position", "best")


class Batches(Protocol):
    """A source of batches."""

    unit: str
    """What `Losses.tokens` counts: tokens, images."""

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Plan the batches of `epoch`, the same on every process."""

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Return the arguments of the model's `forward` for one planned batch."""


class Observer(Protocol):
    """What measures a model while it is trained, and leaves it as it was."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Return validation metrics of `model`, which is in evaluation mode."""

    def score(self, values: dict[str, Any]) -> float:
        """Return how good a validation with these metrics is, the higher the better."""


class Trainer:
    """Trains one model and leaves checkpoints, metrics and averaged weights in a folder.

    Args:
        model: Its `forward(*batch)` returns `Losses`. If it has `set_progress` and
            `after_optimizer_step`, they are called before and after each optimiser step; if it has
            `after_validation`, it is called with the metrics of each validation.
        batches: The training data.
        observer: Validation.
        config: How to train.
        folder: Holds `checkpoint-*.pt`, `weights-*.safetensors`, `metrics.jsonl`, events.
        seed: Fixes initial dropout and data order.
        name: Begins the progress lines; the settings' key is `<name>_training`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        observer: Observer,
        config: TrainingConfig,
        folder: Path,
        seed: int,
        name: str,
    ) -> None:
        self.config, self.batches, self.observer, self.name = config, batches, observer, name
        self.distributed = DistributedModel(model, config.trackers, folder)
        self.inner = self.distributed.trained
        self.bf16 = wants_bf16(config.precision)
        self.optimizer = make_optimizer(self.inner, config, self.bf16)
        self.checkpoints = Checkpoints(folder, config.keep, config.average)
        self.folder, self.seed = folder, seed
        self.step, self.epoch, self.position = 0, 0, 0
        self.best: tuple[int, float] | None = None  # step and score of the best validation
        self.skips = SkipRule(config)
        self._meter = Meter(batches.unit)
        self._quantizers = [m for m in self.inner.modules() if isinstance(m, Quantizer)]
        self._interruption = Interruption()
        self._stop = [0] * len(SIGNALS)  # how many processes have received each signal

    def train(self) -> dict[str, Tensor]:
        """Train from the newest whole checkpoint to the last step; return averaged weights.

        Raises:
            VqnmtError: Too many consecutive steps were left out, or the checkpoint is of another
                model.
            Stopped: A signal has stopped the run, which is saved.
        """
        if self.distributed.accelerator.device.type == "cpu":
            keep_freed_memory()
        set_seed(self.seed, device_specific=True)  # no two processes drop out the same units
        self._resume()
        with (
            self._metrics() as metrics,
            Progress(self.name, self.config.steps, "steps", self.step) as progress,
            self._interruption,
            one_order(self.distributed.accelerator.device),
        ):
            for row in self._run(progress):
                if metrics is not None:
                    metrics.write(self.step, row)
        self.distributed.accelerator.wait_for_everyone()  # until the last snapshot is written
        return self.checkpoints.averaged({name for name, _ in self.inner.named_parameters()})

    def _metrics(self) -> AbstractContextManager[MetricsLog | None]:
        """Open the log in the main process; it is closed however the training ends."""
        if not self.distributed.accelerator.is_main_process:
            return nullcontext()
        key = f"{self.name}_training.trackers"
        trackers = start_trackers(self.distributed.accelerator, self.config, self.folder, key)
        return closing(MetricsLog(self.folder, self.step, trackers))

    def _run(self, progress: Progress) -> Iterator[dict[str, Any]]:
        config = self.config
        meter = self._meter
        while self.step < config.steps:
            plan = self.batches.plan(self.epoch)
            if not plan:
                raise VqnmtError(f"{self.folder}: epoch {self.epoch} has no batch: give it text")
            while self.position < len(plan) and self.step < config.steps:
                group = plan[self.position : self.position + config.accumulation]
                norm = self._optimize(group)
                self.position += len(group)
                self.step += 1
                if norm is not None:
                    self._report_skip(norm, progress)
                progress.update(1, meter.summary())
                if self.step % config.log_every == 0 or self.step == config.steps:
                    row = meter.flush()
                    row["train/learning_rate"] = learning_rate(config, self.step - 1)
                    row["train/skipped_steps"] = self.skips.skipped
                    yield row
                if self.position >= len(plan):
                    self.epoch, self.position = self.epoch + 1, 0
                    yield self._codebook_use() | {"epoch": self.epoch}
                    plan = []
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    with meter.paused():
                        values = self._validate()
                        progress.write(f"{self.name}: step {self.step:,} · {_readable(values)}")
                        yield values
                        self._save(snapshot=True)
                # After the last step there is nothing to interrupt.
                if self.step < config.steps and any(self._stop):
                    self._save(snapshot=False)
                    raise self._interruption.error(self._stop, str(self.folder), self.step)

    # --- one step ----------------------------------------------------------------------------

    def _optimize(self, group: list[NDArray[np.int64]]) -> float | None:
        """Take one optimiser step on the batches `group`.

        The loss of a batch does not depend on the number of processes: each term is its mean over
        the whole batch. The gradient of the step is the mean over its batches, weighted by target
        tokens; the processes sum it once, after the last batch.

        Returns:
            The norm of the gradient if the step was left out because of it, else None.
        """
        config, trained = self.config, self.inner
        processes = self.distributed.processes
        alone = processes == len(group) == 1  # the mean over tokens already
        trained.train()
        call(trained, "set_progress", self.step / config.steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(config, self.step)
        found = []
        facts = torch.zeros((), dtype=torch.int64)
        for number, indices in enumerate(group, 1):
            with self.distributed.accumulating(last=number == len(group)):
                losses = self._forward(indices)
                share, of_batch = self._share(losses)
                (losses.total if alone else share).backward()
            losses.total = share.detach() / max(losses.tokens, 1)  # to log
            found.append(losses)
            facts = facts + of_batch
        *self._stop, tokens = facts.tolist()
        if not alone:
            # The sum over tokens, which the processes have averaged, becomes the mean.
            for parameter in trained.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(processes / tokens)
        norm = self.distributed.clip_gradient(config.clip_norm)
        accepted = self.skips.accepts(norm)
        if accepted:
            self.optimizer.step()
            self._meter.add(found, tokens)
        self.optimizer.zero_grad()
        if not accepted:
            for quantizer in self._quantizers:
                quantizer.clear()
            return norm
        call(trained, "after_optimizer_step")
        return None

    def _forward(self, indices: NDArray[np.int64]) -> Losses:
        """Return the losses of this process's share of a batch, its pairs in their order.

        If a batch has fewer pairs than processes, the processes without a share compute the first
        pair with a weight of 0 tokens; their quantizers are in evaluation mode meanwhile, so that
        they do not count it.
        """
        distributed = self.distributed
        device = distributed.accelerator.device
        share = np.array_split(indices, distributed.processes)[distributed.rank]
        idle = len(share) == 0
        if idle:
            share = indices[:1]
            for quantizer in self._quantizers:
                quantizer.eval()
        batch = [x.to(device) for x in self.batches.collate(share)]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            losses: Losses = distributed.forward(*batch)
        if idle:
            losses.tokens = 0
            losses.counts = {key: torch.zeros_like(count) for key, count in losses.counts.items()}
            for quantizer in self._quantizers:
                quantizer.train()
        return losses

    def _share(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Weight `losses` so that the sum over all processes is the batch's loss times its tokens.

        Returns:
            This process's part of the loss; and, summed over the processes, the flags of received
            signals followed by the number of target tokens, int64.
        """
        own = torch.tensor([*self._interruption.flags(), losses.tokens])
        facts = own.to(losses.total.device)
        if self.distributed.processes == 1:
            return losses.total * losses.tokens, facts
        counts = [losses.counts[name].view(1) for name in losses.parts]
        whole = self.distributed.accelerator.reduce(torch.cat([facts, *counts]), reduction="sum")
        facts, totals = whole.tensor_split([len(own)])
        loss = losses.total * losses.tokens
        for part, count, total in zip(losses.parts.values(), counts, totals, strict=True):
            # `total` weights each term by tokens; a mean over codes must be weighted by codes.
            loss = loss + part * (facts[-1] * count[0] / total - losses.tokens)
        return loss, facts

    def _report_skip(self, norm: float, progress: Progress) -> None:
        progress.write(
            f"warning: {self.name}: step {self.step:,} was left out, its gradient has norm {norm:g}"
        )
        if self.skips.exhausted:
            good = self.checkpoints.newest()
            raise VqnmtError(
                f"{self.folder}: {self.skips.in_a_row} steps in a row up to step {self.step} were "
                f"left out, the gradient of the last has norm {norm:g}; the last good checkpoint "
                f"is {good or 'none'}: lower {self.name}_training.learning_rate and "
                "name another run=..., because this run's settings cannot change"
            )

    def _codebook_use(self) -> dict[str, Any]:
        """Count the codes used in the epoch, over all processes, and begin the next count."""
        if not self._quantizers:
            return {}
        quantizer = self._quantizers[0]  # before those that it is made of, and before averages
        statistics = quantizer.epoch_statistics()
        quantizer.reset_statistics()
        return {
            "epoch/used_codes": float(statistics.used_codes),
            "epoch/perplexity": float(statistics.perplexity),
            "epoch/code_usage": statistics.usage.tolist(),
        }

    def _validate(self) -> dict[str, Any]:
        self.inner.eval()
        with torch.no_grad():
            values = self.observer.validate(self.inner)
        call(self.inner, "after_validation", values)
        self.inner.train()
        score = self.observer.score(values)
        if self.best is None or score > self.best[1]:
            self.best = self.step, score
        return values

    # --- checkpoints -------------------------------------------------------------------------

    def _save(self, snapshot: bool) -> None:
        """Write a checkpoint that resumes every process; all processes must call it."""
        processes = gather_object([process_state(self.inner, self._meter)])
        if not self.distributed.accelerator.is_main_process:
            return
        weights = self.inner.state_dict()
        if snapshot:
            self.checkpoints.snapshot(self.step, weights)
        self.checkpoints.save(
            self.step,
            {
                "model": weights,
                "optimizer": self.optimizer.state_dict(),
                "position": {name: getattr(self, name) for name in POSITION},
                "skips": self.skips.state(),
                "processes": processes,
            },
            self.best and self.best[0],
        )

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, which the first process chooses for all."""
        chosen = [self.checkpoints.newest() if self.distributed.rank == 0 else None]
        (path,) = broadcast_object_list(chosen)
        if path is None:
            return
        state = self.checkpoints.load(path)
        with readable(path):
            self._take_over(path, state)

    def _take_over(self, path: Path, state: dict[str, Any]) -> None:
        """Go on from the `state` in the checkpoint `path`."""
        distributed, rank = self.distributed, self.distributed.rank
        names = state["model"].keys() ^ self.inner.state_dict().keys()
        if names:
            raise VqnmtError(
                f"{path}: another version of vqnmt wrote it, whose model differs in "
                f"{', '.join(sorted(names)[:3])}: remove {self.folder} to train anew, or go on "
                "with that version"
            )
        self.inner.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in POSITION:
            setattr(self, name, state["position"][name])
        self.skips.load(state["skips"])
        states = state["processes"]
        if len(states) == distributed.processes:
            states = [states[rank]]
        else:
            print_once(
                f"{self.name}: resumed at step {self.step:,}, processes: {distributed.processes}, "
                f"before {len(states)}; the batches stay as they were; dropout and sampled codes "
                "draw new random numbers"
            )
            seed_anew(self.seed, self.step, rank)
            states = states if rank == 0 else []
        load_process_states(states, self.inner, self._meter, distributed.accelerator.device)


def call(model: nn.Module, method: str, *arguments: Any) -> None:
    """Call `model.method(*arguments)` if the model has it."""
    found = getattr(model, method, None)
    if found is not None:
        found(*arguments)


def wants_bf16(precision: str) -> bool:
    """Resolve `training.precision`.

    `auto` takes bf16 on a GPU that has it and on a CPU with AMX tiles, whose bf16 matrix product
    is several times faster than fp32. On a CPU with AVX-512 BF16 alone the default student trains
    no faster in bf16, only wider models do; elsewhere on a CPU it is slower.
    """
    if precision == "auto":
        if torch.cuda.is_available():
            return torch.cuda.is_bf16_supported()
        return torch.cpu._is_amx_tile_supported()
    return precision == "bf16"


def _readable(values: dict[str, Any]) -> str:
    return " · ".join(
        f"{k.split('/')[-1]} {v:.2f}" for k, v in values.items() if isinstance(v, float)
    )
