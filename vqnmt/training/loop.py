"""The training loop: it knows nothing of any one model.

A run is fixed by its seed: the same seed gives the same losses bit for bit on one CPU, and a
run that is stopped and resumed equals one that was not.
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
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.models.losses import Losses
from vqnmt.progress import Progress
from vqnmt.training.checkpoint import Checkpoints
from vqnmt.training.config import TrainingConfig
from vqnmt.training.metrics import MetricsLog
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
        name: Stands at the head of progress lines.
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
        self.optimizer = make_optimizer(model, config, self.accelerator.device)
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
        set_seed(self.seed)
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
            plan = self._shares(self.batches.plan(self.epoch))
            if not plan:
                raise VqnmtError(
                    f"{self.folder}: epoch {self.epoch} has no batch for each process: lower "
                    "training.batch_tokens"
                )
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
                if self._stop_is_asked():
                    self._save(snapshot=False)
                    raise VqnmtError(
                        f"{self.folder}: interrupted at step {self.step} and saved: start the "
                        "same command again to go on"
                    )

    def _optimize(self, group: list[NDArray[np.int64]], meter: "_Meter") -> None:
        """Take one optimiser step on the batches `group`."""
        model, config = self.model, self.config
        model.train()
        call(self.inner, "set_progress", self.step / config.steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate(config, self.step)
        for indices in group:
            source, target = (x.to(self.accelerator.device) for x in self.batches.collate(indices))
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
                losses: Losses = model(source, target)
            self.accelerator.backward(losses.total / len(group))
            meter.add(losses)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise VqnmtError(
                f"{self.folder}: the gradient is {norm.item()} at step {self.step + 1}: lower "
                "training.learning_rate, and start again to go on from the last checkpoint"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        call(self.inner, "after_optimizer_step")

    def _shares(self, plan: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Take this process's batches; every process gets equally many."""
        processes = self.accelerator.num_processes
        whole = len(plan) - len(plan) % processes
        return plan[self.accelerator.process_index : whole : processes]

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
        if not self.accelerator.is_main_process:
            return
        if snapshot:
            self.checkpoints.snapshot(self.step, self.inner)
        random_states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random_states["cuda"] = torch.cuda.get_rng_state()
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
                "random": random_states,
                "meter": self._meter.state(),
                "running": {
                    name: module.running_state()
                    for name, module in self.inner.named_modules()
                    if hasattr(module, "running_state")
                },
            },
        )

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        self.inner.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, value in state["position"].items():
            setattr(self, key, value)
        self._meter.load(state["meter"])
        for name, running in state["running"].items():
            call(self.inner.get_submodule(name), "load_running_state", running)
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random"]["cuda"])


class _Meter:
    """Token-weighted means of the losses since the last flush, and the token rate."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}  # a term may be missing from some batches
        self._last = ""
        self._tokens, self._start = 0, time.perf_counter()

    def add(self, losses: Losses) -> None:
        """Count one batch."""
        self._tokens += losses.tokens
        for name, value in {"total": losses.total.detach(), **losses.terms}.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.cpu() * losses.tokens
            self._weights[name] = self._weights.get(name, 0) + losses.tokens

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


def make_optimizer(
    model: nn.Module, config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=1e-9, fused=True
    )


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
