"""The training loop: it knows nothing of any one model.

A run is fixed by its seed: the same seed gives the same losses bit for bit on one CPU, and a
run that is stopped and resumed equals one that was not. A batch is shared out over the processes,
so that their number changes neither the batches nor the number of steps.
"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.models.losses import Losses
from vqnmt.progress import Progress
from vqnmt.training.checkpoint import Checkpoints
from vqnmt.training.config import TrainingConfig
from vqnmt.training.metrics import MetricsLog
from vqnmt.training.optimizer import make_optimizer
from vqnmt.training.schedule import learning_rate


class Batches(Protocol):
    """Where batches come from."""

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Plan the batches of `epoch`, the same on every process."""

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return source (B, S) and target (B, T) of one planned batch."""


class Observer(Protocol):
    """What looks at a model while it is trained; its values go into the metrics."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Return validation metrics of `model`, which is in evaluation mode."""

    def epoch_end(self, model: nn.Module) -> dict[str, Any]:
        """Return what is known only at the end of an epoch."""


class Trainer:
    """Trains one model and leaves checkpoints, metrics and averaged weights in a folder.

    Args:
        model: Its `forward(source, target)` returns `Losses`. If it has `set_progress` and
            `after_optimizer_step`, they are called before and after each optimiser step.
        batches: The training data.
        observer: Validation and epoch statistics.
        config: How to train.
        folder: Holds `checkpoint-*.pt`, `weights-*.safetensors`, `metrics.jsonl`, events.
        seed: Fixes initial dropout and data order.
        name: Stands at the head of progress lines; the settings' key is `<name>_training`.
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
        # Autocast is entered below: accelerate's own fixes one precision for the process's life.
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            # A curriculum may leave out parts of a model for a while.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.bf16 = wants_bf16(config.precision)
        self.inner = model
        self.optimizer = make_optimizer(model, config, self.bf16)
        self.model, self.optimizer = self.accelerator.prepare(model, self.optimizer)
        self.checkpoints = Checkpoints(folder, config.keep, config.average)
        self.folder, self.seed = folder, seed
        self.step, self.epoch, self.position = 0, 0, 0
        self._meter = _Meter()
        self._stop = False

    def train(self) -> dict[str, Tensor]:
        """Train to the last step, from the newest checkpoint on; return the averaged weights.

        Raises:
            VqnmtError: The loss is not finite, or the run was interrupted (and saved).
        """
        set_seed(self.seed, device_specific=True)  # no two processes drop out the same units
        self._resume()
        metrics = MetricsLog(self.folder, self.step) if self.accelerator.is_main_process else None
        with (
            Progress(self.name, self.config.steps, "steps", self.step) as progress,
            _Signals(self._request_stop),
        ):
            for row in self._run(progress):
                if metrics is not None:
                    metrics.write(self.step, row)
        if metrics is not None:
            metrics.close()
        self.accelerator.wait_for_everyone()  # until the last snapshot is written
        return self.checkpoints.averaged({name for name, _ in self.inner.named_parameters()})

    def _run(self, progress: Progress) -> Iterator[dict[str, Any]]:
        config = self.config
        meter = self._meter
        while self.step < config.steps:
            plan = self.batches.plan(self.epoch)
            if not plan:
                raise VqnmtError(f"{self.folder}: epoch {self.epoch} has no batch: give it text")
            while self.position < len(plan) and self.step < config.steps:
                group = plan[self.position : self.position + config.accumulation]
                self._optimize(group, meter)
                self.position += len(group)
                self.step += 1
                progress.update(1, meter.summary())
                if self.step % config.log_every == 0 or self.step == config.steps:
                    row = meter.flush()
                    row["train/learning_rate"] = learning_rate(config, self.step - 1)
                    yield row
                if self.position >= len(plan):
                    self.epoch, self.position = self.epoch + 1, 0
                    yield self.observer.epoch_end(self.inner) | {"epoch": self.epoch}
                    plan = []
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    values = self._validate()
                    progress.write(f"{self.name}: step {self.step:,} · {_readable(values)}")
                    yield values
                    self._save(snapshot=True)
                # After the last step nothing is left to interrupt.
                if self.step < config.steps and self._stop_is_asked():
                    self._save(snapshot=False)
                    raise VqnmtError(
                        f"{self.folder}: interrupted at step {self.step} and saved: start the "
                        "same command again to go on"
                    )

    def _optimize(self, group: list[NDArray[np.int64]], meter: "_Meter") -> None:
        """Take one optimiser step on the batches `group`.

        The gradient is the mean over the target tokens of all batches and processes: as that of
        one big batch for a loss that is a mean over tokens. Terms that are means over something
        else (`prediction` and `commitment`: over codes) are weighted by target tokens too.
        """
        model, config = self.model, self.config
        processes = self.accelerator.num_processes
        alone = processes == len(group) == 1  # the mean over tokens already
        model.train()
        call(self.inner, "set_progress", self.step / config.steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(config, self.step)
        tokens = 0
        for indices in group:
            losses, weight = self._forward(indices)
            self.accelerator.backward(losses.total if alone else losses.total * weight)
            meter.add(losses)
            tokens += weight
        if not alone:
            # The sum over tokens, which the processes have averaged, becomes the mean.
            count = torch.tensor(tokens, device=self.accelerator.device)
            tokens = int(self.accelerator.reduce(count, reduction="sum").item())
            for parameter in self.inner.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(processes / tokens)
        meter.count(tokens)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise VqnmtError(
                f"{self.folder}: the gradient is {norm.item()} at step {self.step + 1}: lower "
                f"{self.name}_training.learning_rate and name another run=..., because this run's "
                "settings cannot change"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        call(self.inner, "after_optimizer_step")

    def _forward(self, indices: NDArray[np.int64]) -> tuple[Losses, int]:
        """Return the losses of this process's share of a batch, and its target tokens.

        In a batch of fewer pairs than processes, those without a share keep step on another's
        pair, in evaluation mode so that the codebook does not count it, with 0 tokens.
        """
        device, rank = self.accelerator.device, self.accelerator.process_index
        idle = rank >= len(indices)
        share = indices[:1] if idle else indices[rank :: self.accelerator.num_processes]
        source, target = (x.to(device) for x in self.batches.collate(share))
        if idle:
            self.model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            losses: Losses = self.model(source, target)
        if idle:
            self.model.train()
        return losses, 0 if idle else losses.tokens

    def _validate(self) -> dict[str, Any]:
        self.model.eval()
        with torch.no_grad():
            values = self.observer.validate(self.inner)
        self.model.train()
        return values

    def _stop_is_asked(self) -> bool:
        """Whether any process has been asked to stop; all stop at the same step."""
        asked = torch.tensor(float(self._stop), device=self.accelerator.device)
        return self.accelerator.reduce(asked, reduction="sum").item() > 0

    def _request_stop(self) -> None:
        self._stop = True

    def _save(self, snapshot: bool) -> None:
        """Write a checkpoint that resumes every process; all processes must call it."""
        processes = gather_object([self._own_state()])
        if not self.accelerator.is_main_process:
            return
        if snapshot:
            self.checkpoints.snapshot(self.step, self.inner)
        self.checkpoints.save(
            self.step,
            {
                "model": self.inner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": {
                    "step": self.step,
                    "epoch": self.epoch,
                    "position": self.position,
                },
                "processes": processes,
            },
        )

    def _own_state(self) -> dict[str, Any]:
        """Return what differs between the processes: random states and running statistics."""
        random_states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random_states["cuda"] = torch.cuda.get_rng_state()
        running = {
            name: {key: value.cpu() for key, value in module.running_state().items()}
            for name, module in self.inner.named_modules()
            if hasattr(module, "running_state")
        }
        return {"random": random_states, "meter": self._meter.state(), "running": running}

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        self.inner.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["position"].items():
            setattr(self, key, value)
        rank = self.accelerator.process_index
        if rank < len(state["processes"]):  # a process more than before starts anew
            self._load_own_state(state["processes"][rank])

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._meter.load(state["meter"])
        device = self.accelerator.device
        for name, running in state["running"].items():
            running = {key: value.to(device) for key, value in running.items()}
            call(self.inner.get_submodule(name), "load_running_state", running)
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random"]["cuda"])


class _Meter:
    """Token-weighted means of this process's losses since the last flush, and the token rate."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}  # a term may be missing from some batches
        self._last = ""
        self._tokens, self._start = 0, time.perf_counter()

    def add(self, losses: Losses) -> None:
        """Take in the losses of one batch."""
        for name, value in {"total": losses.total.detach(), **losses.terms}.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.cpu() * losses.tokens
            self._weights[name] = self._weights.get(name, 0) + losses.tokens

    def count(self, tokens: int) -> None:
        """Count the target tokens of one step, those of all processes."""
        self._tokens += tokens

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the next row to come out the same."""
        return {"sums": self._sums, "weights": self._weights}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the token rate starts anew."""
        self._sums, self._weights = state["sums"], state["weights"]

    def summary(self) -> str:
        """Say the mean loss so far in a few characters."""
        if self._tokens:
            rate = self._tokens / (time.perf_counter() - self._start)
            loss = self._sums["total"] / self._weights["total"]
            self._last = f"loss {loss:.3f} · {rate:,.0f} tokens/s"
        return self._last

    def flush(self) -> dict[str, Any]:
        """Return the means and start anew."""
        row: dict[str, Any] = {
            f"train/{name}": (value / self._weights[name]).item()
            for name, value in self._sums.items()
        }
        row["train/tokens_per_second"] = self._tokens / (time.perf_counter() - self._start)
        self._sums, self._weights = {}, {}
        self._tokens, self._start = 0, time.perf_counter()
        return row


class _Signals:
    """While active, Ctrl-C and SIGTERM ask the loop to save and stop at the next step."""

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        def handle(number: int, frame: FrameType | None) -> None:
            self._request()

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: the caller handles signals
            pass

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def call(model: nn.Module, method: str, *arguments: Any) -> None:
    """Call `model.method(*arguments)` if the model has it."""
    found = getattr(model, method, None)
    if found is not None:
        found(*arguments)


def wants_bf16(precision: str) -> bool:
    """Resolve `training.precision`.

    `auto` takes bf16 on a GPU that has it and on a CPU with AMX tiles, whose bf16 matrix product
    is several times faster than fp32; elsewhere bf16 on a CPU is slower.
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
