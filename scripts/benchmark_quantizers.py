"""Time and memory of one training step of our quantizers, beside vector-quantize-pytorch.

python scripts/benchmark_quantizers.py [--systems ema soft_em] [--sizes 4096x512x4096] [--pairs 9]

A step is forward, backward and the codebook's step, on normal vectors. What is compared and how:
docs/notebook/2026-11-22-quantizer-speed.md.
"""

import argparse
import importlib.util
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

# Kineto, which counts memory, would report on stderr that it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from vqnmt.commands.command_line import PLACE, SEED, THREADS, Options, run, whole

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import Record, new_record, write_records
from vqnmt.evaluation.speed import median_ratio, peak_memory, time_in_turn
from vqnmt.experiments.tables import quantizer_speed_table
from vqnmt.quantizers import QuantizerConfig, build_quantizer
from vqnmt.quantizers.codebook import CodebookConfig
from vqnmt.training.process import keep_freed_memory

SYSTEMS = ("ema", "soft_em", "hard_em", "gradient")
SIZES = ("4096x512x4096", "4096x512x16384", "65536x64x512", "16384x512x65536")
# Above as many distances the peer, which holds several copies of all N x K, is left out.
PEER_LIMIT = 1 << 28


@dataclass(frozen=True)
class Size:
    """N vectors of dimension d and K codes."""

    vectors: int
    dim: int
    codes: int


class Inputs:
    """The same z_e and the same gradient of z_q for every system, both `(1, N, d)`."""

    def __init__(self, size: Size, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (1, size.vectors, size.dim)
        self.z_e = torch.randn(shape, generator=generator).to(device).requires_grad_()
        self.gradient = torch.randn(shape, generator=generator).to(device)


def settings(name: str, size: Size) -> CodebookConfig:
    """Return settings that the peer has too: k-means and restarts are off on both sides."""
    values: dict[str, Any] = {"initialisation": "normal", "restart_threshold": 0.0, "decay": 0.99}
    config = QuantizerConfig(name=name, codebook_size=size.codes, **values)
    assert isinstance(config, CodebookConfig)
    return config


def ours(name: str, size: Size, inputs: Inputs) -> tuple[nn.Module, Callable[[], None]]:
    """Build one of our quantizers, and its step."""
    quantizer = build_quantizer(settings(name, size), size.dim).to(inputs.z_e.device)

    def step() -> None:
        inputs.z_e.grad = None
        quantizer.zero_grad(set_to_none=True)
        output = quantizer(inputs.z_e)
        _backward(output.quantized, sum(output.losses.values()), inputs)
        quantizer.step()

    return quantizer, step


def theirs(name: str, size: Size, inputs: Inputs) -> tuple[nn.Module, Callable[[], None]]:
    """Build the peer's VectorQuantize in the equivalent setting, and its step.

    The same averages, smoothing, commitment and straight-through gradient. What it could do
    beyond them is off: k-means, the search for dead codes, the rotation trick, synchronisation.
    """
    config = settings(name, size)
    learnt = name == "gradient"
    package: Any = importlib.import_module("vector_quantize_pytorch")
    quantizer: nn.Module = package.VectorQuantize(
        dim=size.dim,
        codebook_size=size.codes,
        decay=config.decay,
        eps=getattr(config, "epsilon", 1e-5),
        commitment_weight=config.beta,
        ema_update=not learnt,
        learnable_codebook=learnt,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        rotation_trick=False,
        sync_codebook=False,
    ).to(inputs.z_e.device)

    def step() -> None:
        inputs.z_e.grad = None
        quantizer.zero_grad(set_to_none=True)
        quantized, _, loss = quantizer(inputs.z_e)
        _backward(quantized, loss, inputs)

    return quantizer, step


def _backward(quantized: Tensor, loss: Any, inputs: Inputs) -> None:
    torch.autograd.backward([quantized, loss], [inputs.gradient, None])


def measure(size: Size, device: torch.device, options: argparse.Namespace) -> list[Record]:
    """Measure our quantizers and their peers at one size."""
    start = perf_counter()
    names: list[str] = list(options.systems)
    inputs = Inputs(size, options.seed, device)
    # The peer of `gradient` learns its codebook by gradients too; that of the others by averages.
    peers = {name: "gradient" if name == "gradient" else "ema" for name in names}
    if size.vectors * size.codes > PEER_LIMIT:
        peers = {}
    builds = {name: (ours, name) for name in names}
    builds |= {f"theirs: {peer}": (theirs, peer) for peer in peers.values()}
    memory: dict[str, int] = {}
    modules: dict[str, nn.Module] = {}
    steps: dict[str, Callable[[], None]] = {}
    for label, (build, name) in builds.items():
        torch.manual_seed(options.seed)

        def first_step(label: str = label, build: Any = build, name: str = name) -> None:
            modules[label], steps[label] = build(name, size, inputs)
            steps[label]()

        inputs.z_e.grad = None
        memory[label] = peak_memory(first_step, device)  # and a warm-up
    times = time_in_turn(steps, options.pairs if peers else 1, device)
    records = []
    for name in names:
        metrics: dict[str, float | int | str] = {
            **{"N": size.vectors, "d": size.dim, "K": size.codes, "rounds": len(times[name])},
            "time_ms": 1000 * statistics.median(times[name]),
            "peak_memory_bytes": memory[name],
        }
        if name != "ema" and "ema" in names:
            metrics["time_ratio_to_ema"] = median_ratio(times[name], times["ema"])
        if peers:
            peer = f"theirs: {peers[name]}"
            metrics |= {
                "time_ratio": median_ratio(times[name], times[peer]),
                "peer_time_ms": 1000 * statistics.median(times[peer]),
                "peak_memory_ratio": memory[name] / memory[peer],
                "peer_peak_memory_bytes": memory[peer],
            }
        records.append(
            new_record(
                system=name,
                corpus=f"normal vectors, {size.vectors}x{size.dim}x{size.codes}, {device.type}",
                overrides=options.overrides,
                seed=options.seed,
                device=device,
                wall_seconds=perf_counter() - start,
                parameters=sum(item.numel() for item in modules[name].parameters()),
                metrics=metrics,
            )
        )
    return records


def parse_size(text: str) -> Size:
    """Parse NxdxK."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text):
        raise VqnmtError(f"--sizes has {text}: write vectors x dimension x codes, as in {SIZES[0]}")
    return Size(*map(int, text.split("x")))


def main(arguments: list[str]) -> None:
    """Measure, print the table and write the records."""
    parser = Options(__doc__)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="vectors x dimension x codes")
    parser.add_argument(
        "--pairs", type=whole(1, 10**6), default=5, help="how often each system is timed"
    )
    parser.add_argument("--threads", type=THREADS, help="of the CPU; default: what torch chooses")
    parser.add_argument("--device", help="cpu or cuda; default: both where there is a GPU")
    parser.add_argument("--seed", type=SEED, default=1)
    parser.add_argument("--records", type=PLACE, help="file that gets the records; default: none")
    options = parser.parse_args(arguments)
    options.overrides = [] if options.pairs == 5 else [f"pairs={options.pairs}"]
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        raise VqnmtError("the peer is not installed: pip install 'vqnmt[quantizers]'")
    if options.threads:  # no override: the record's hardware names them
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in training; else the peer's large temporaries cost it far more time
    sizes = [parse_size(text) for text in options.sizes]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    records: list[Record] = []
    for device in [options.device] if options.device else devices:
        for size in sizes:
            records += measure(size, torch.device(device), options)
            if options.records:
                write_records(options.records, records)
    print(quantizer_speed_table(records))


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
