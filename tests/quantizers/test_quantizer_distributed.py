"""Two processes with half of each batch give the codebook of one process."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.processes import run_processes
from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import build_quantizer
from vqnmt.quantizers.codebook import Codebook

NAMES = ["gradient", "ema", "hard_em", "soft_em", "product", "residual"]
STARTS = ["normal", "kmeans"]


def train(rank: int, world: int) -> dict:
    """States and statistics of each quantizer after 8 steps on this rank's share."""
    results = {}
    for name in NAMES:
        for start in STARTS:
            torch.manual_seed(rank)  # differently seeded ranks, as careless users have them
            config = fitting_config(
                name=name,
                codebook_size=16,
                decay=0.9,
                temperature=1e-6,
                initialisation=start,
                restart_threshold=0.3,
            )
            quantizer = build_quantizer(config, 6)
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():  # what DistributedDataParallel does when it is built
                for codebook in quantizer.modules():
                    if not isinstance(codebook, Codebook):
                        continue
                    vectors = torch.randn(codebook.vectors.shape, generator=generator)
                    codebook.vectors.copy_(vectors)
                    if hasattr(codebook, "sums"):
                        codebook.sums.copy_(codebook.vectors)
                    if rank:
                        codebook.seed.fill_(99)
            for step in range(8):
                z = torch.randn(20, 6, generator=generator)
                # the first step leaves rank 1 without any vector
                cut = 20 if step == 0 else 11
                share = z if world == 1 else (z[:cut] if rank == 0 else z[cut:])
                quantizer(share)
                if step == 4 and rank == world - 1:
                    quantizer(share * torch.nan)  # in one process: it must change nothing
                quantizer.step()
            state = {k: v for k, v in quantizer.state_dict().items() if not k.endswith("seed")}
            results[name, start] = state, quantizer.epoch_statistics()
    return results


def train_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.save(train(rank, 2), folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path):
    for status, errors in run_processes(train_rank, tmp_path, folder=tmp_path):
        assert status == 0, errors
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    single = train(0, 1)
    for key, (state, statistics) in single.items():
        for name, value in state.items():
            assert torch.equal(ranks[0][key][0][name], ranks[1][key][0][name]), (key, name)
            torch.testing.assert_close(
                ranks[0][key][0][name], value, atol=1e-6, rtol=1e-6, msg=f"{key} {name}"
            )
        for rank in range(2):
            found = ranks[rank][key][1]
            if key[1] == "normal":
                assert torch.equal(found.usage, statistics.usage)
            assert found.quantisation_error == pytest.approx(statistics.quantisation_error, 1e-5)
