import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import vqnmt.training.optimizer
from vqnmt.training.config import TrainingConfig
from vqnmt.training.optimizer import (
    MARGIN,
    POLYNOMIALS,
    UPDATE_SIZE,
    make_optimizer,
    orthogonalise,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.wide, self.square = nn.Linear(6, 4), nn.Linear(4, 4)
        self.tall = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.square(self.wide(self.embedding(tokens)))
        return self.norm(self.tall(x.tanh())).square().mul(torch.arange(6)).mean()


def take_steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    for step in range(steps):
        model(torch.tensor([step % 7, 3, 5])).backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


def test_muon_equals_the_librarys_within_its_bf16(monkeypatch):
    jordan = (3.4445, -4.7750, 2.0315)  # the library's one polynomial, five times
    monkeypatch.setattr(vqnmt.training.optimizer, "POLYNOMIALS", (jordan,) * 5)
    monkeypatch.setattr(vqnmt.training.optimizer, "MARGIN", 1.0)
    torch.manual_seed(3)
    ours = Model()
    theirs = copy.deepcopy(ours)
    config = TrainingConfig(learning_rate=0.01, weight_decay=0.1, beta2=0.98)
    matrices = [m.weight for m in theirs.modules() if isinstance(m, nn.Linear)]
    others = [p for p in theirs.parameters() if not any(p is m for m in matrices)]
    muon = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", momentum=0.95
    )
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-9)
    start = copy.deepcopy(ours)
    take_steps(ours, [make_optimizer(ours, config, bf16=False)], 4)
    take_steps(theirs, [muon, adamw], 4)
    for name, p in ours.named_parameters():
        moved = (p - start.get_parameter(name)).norm()
        apart = (p - theirs.get_parameter(name)).norm()
        assert moved > 1e-3, name
        assert apart < 0.1 * moved, name


@pytest.mark.parametrize("outputs", [4, 18, 30])
def test_a_convolutions_kernel_moves_like_the_matrix_of_a_linear_layer(outputs):
    torch.manual_seed(3)
    convolution = nn.Conv2d(2, outputs, 3).to(memory_format=torch.channels_last)
    linear = nn.Linear(18, outputs)
    linear.load_state_dict(
        {"weight": convolution.weight.detach().flatten(1), "bias": convolution.bias.detach()}
    )
    optimizers = [make_optimizer(m, TrainingConfig(), bf16=False) for m in (convolution, linear)]
    for _ in range(3):
        image = torch.randn(5, 2, 3, 3)
        convolution(image).square().sum().backward()
        linear(image.flatten(1)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(convolution.weight.flatten(1), linear.weight)
    torch.testing.assert_close(convolution.bias, linear.bias)


def test_adamw_is_the_librarys_for_every_parameter():
    torch.manual_seed(3)
    ours = Model()
    theirs = copy.deepcopy(ours)
    config = TrainingConfig(optimizer="adamw", learning_rate=0.01, weight_decay=0.0)
    adamw = torch.optim.AdamW(
        theirs.parameters(), lr=0.01, betas=(0.9, config.beta2), eps=1e-9, weight_decay=0.0
    )
    take_steps(ours, [make_optimizer(ours, config, bf16=False)], 3)
    take_steps(theirs, [adamw], 3)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, theirs.get_parameter(name), msg=name)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 4, 9), (1, 1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    torch.manual_seed(1)
    stack = torch.randn(shape)
    found = orthogonalise(stack)
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    inner = u.mT @ found @ vh.mT  # diagonal if the singular vectors are the same
    values = inner.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert values.min() > 0.7 and values.max() < 1.3


@pytest.mark.parametrize("columns", [4, 9, 40])
def test_small_singular_values_are_lifted(columns):
    torch.manual_seed(1)
    values = torch.tensor([1.0, 0.1, 0.02, 0.001])
    u, v = (torch.linalg.qr(torch.randn(size, 4))[0] for size in (4, columns))
    found = torch.linalg.svdvals(orthogonalise((u * values @ v.T)[None])[0])
    assert found[:3].min() > 0.7 and found[0] < 1.3
    assert 0.05 < found[3] < 0.1  # 78 times what it was


@pytest.mark.parametrize("columns", [48, 96])
def test_singular_values_pass_through_the_polynomials(columns):
    torch.manual_seed(1)
    values = np.logspace(0, -8, 48)
    u, v = (torch.linalg.qr(torch.randn(size, 48))[0] for size in (48, columns))
    stack = (u * torch.tensor(values, dtype=torch.float32) @ v.T)[None]
    expected = values / (MARGIN * np.linalg.norm(values))
    for a, b, c in POLYNOMIALS:
        expected = a * expected + b * expected**3 + c * expected**5
    found = (u.T @ orthogonalise(stack)[0] @ v).diagonal().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_rows_that_decay_towards_nothing_leave_the_others_as_they_are():
    torch.manual_seed(1)
    stack = torch.randn(1, 8, 20)
    stack[:, 5:] = 0.0
    decayed = stack.clone()
    decayed[:, 5:] = 1e-30 * torch.randn(3, 20)
    torch.testing.assert_close(orthogonalise(decayed), orthogonalise(stack), atol=0, rtol=0)


def test_a_matrix_of_rank_one_is_safe_in_bf16():
    torch.manual_seed(1)
    stack = torch.randn(64, 16, 1) @ torch.randn(64, 1, 32)
    found = orthogonalise(stack.to(torch.bfloat16)).float()
    assert torch.linalg.matrix_norm(found, ord=2).max() < 1.4


def test_an_update_has_the_stated_size():
    linear = nn.Linear(8, 8)
    before = linear.weight.detach().clone()
    config = TrainingConfig(learning_rate=0.5, weight_decay=0.0)
    torch.manual_seed(1)
    linear(torch.randn(20, 8)).square().sum().backward()
    make_optimizer(linear, config, bf16=False).step()
    update = (linear.weight - before) / (0.5 * UPDATE_SIZE * math.sqrt(8))
    values = torch.linalg.svdvals(update)
    assert values[:-1].min() > 0.7 and values.max() < 1.3  # the last one is near 0


def test_state_survives_saving():
    torch.manual_seed(3)
    model = Model()
    config = TrainingConfig(learning_rate=0.01)
    optimizer = make_optimizer(model, config, bf16=False)
    take_steps(model, [optimizer], 2)
    twin = copy.deepcopy(model)
    resumed = make_optimizer(twin, config, bf16=False)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(model, [optimizer], 2)
    take_steps(twin, [resumed], 2)
    for name, p in model.named_parameters():
        assert torch.equal(p, twin.get_parameter(name)), name
