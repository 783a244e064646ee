"""What differs between the processes of a training: random states and running sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqnmt.quantizers.base import Quantizer
from vqnmt.training.meter import Meter


def process_state(model: nn.Module, meter: Meter) -> dict[str, Any]:
    """Return this process's random states, mean losses and counts of used codes."""
    random_states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random_states["cuda"] = torch.cuda.get_rng_state()
    running = {
        name: {key: value.cpu() for key, value in quantizer.running_state().items()}
        for name, quantizer in _quantizers(model).items()
    }
    return {"random": random_states, "meter": meter.state(), "running": running}


def load_process_states(
    states: Sequence[dict[str, Any]], model: nn.Module, meter: Meter, device: torch.device
) -> None:
    """Take over the sums of `states`, and the random state if it is a single one.

    Args:
        states: Of this process; or, when their number has changed, of all processes for the
            first one and none for the others, so that nothing is lost or counted twice.
        model: Its quantizers count used codes.
        meter: The mean losses.
        device: Where the quantizers count.
    """
    meter.load([state["meter"] for state in states])
    for name, quantizer in _quantizers(model).items():
        sums: dict[str, Tensor] = {}
        for state in states:
            for key, value in state["running"][name].items():
                sums[key] = sums[key] + value if key in sums else value
        quantizer.load_running_state({key: value.to(device) for key, value in sums.items()})
    if len(states) == 1:
        torch.set_rng_state(states[0]["random"]["cpu"])
        if "cuda" in states[0]["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[0]["random"]["cuda"])


def seed_anew(*numbers: int) -> None:
    """Seed torch's random numbers by all of `numbers`, such as seed, step and process."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _quantizers(model: nn.Module) -> dict[str, Quantizer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Quantizer)}
