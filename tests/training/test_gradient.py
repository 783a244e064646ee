"""The gradient and the step that the loop takes, against ones taken by hand and in one batch."""

import pytest
import torch
from torch import nn

from vqnmt.training.optimizer import learning_rate, make_optimizer

from .conftest import (
    PARTS,
    WHOLE,
    Planned,
    TinyBatches,
    assert_same_gradients,
    plain_model,
    watch_gradients,
)


def by_hand(model: nn.Module, config, groups: list[list[tuple]]) -> None:
    """The same optimiser steps without the loop."""
    optimizer = make_optimizer(model, config, bf16=False)
    for step, group in enumerate(groups):
        for settings in optimizer.param_groups:
            settings["lr"] = learning_rate(config, step)
        optimizer.zero_grad()
        losses = [model(*batch) for batch in group]
        tokens = sum(found.tokens for found in losses)
        sum(found.total * found.tokens / tokens for found in losses).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_steps_are_those_taken_by_hand(make_trainer, accumulation):
    batches = TinyBatches()
    trainer = make_trainer(
        plain_model(), batches=batches, accumulation=accumulation, steps=5, clip_norm=0.5
    )
    trainer.train()
    seen, groups, other = batches.seen, [], TinyBatches()
    epoch, sizes = 0, []
    while len(sizes) < 5:  # a group does not reach over the end of an epoch
        plan = other.plan(epoch)
        sizes += [len(plan[i : i + accumulation]) for i in range(0, len(plan), accumulation)]
        epoch += 1
    for size in sizes[:5]:
        groups.append(seen[:size])
        seen = seen[size:]
    assert not seen
    expected = plain_model().train()
    by_hand(expected, trainer.config, groups)
    for (name, found), value in zip(
        trainer.inner.named_parameters(), expected.parameters(), strict=True
    ):
        if name.endswith("key_value.bias"):
            continue  # the softmax does not see keys' bias: Adam divides rounding by rounding
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, msg=name)


def test_accumulated_gradients_are_that_of_one_big_batch(make_trainer):
    # A batch of few tokens does not weigh like a full one.
    found = []
    for name, plan in (("whole", WHOLE), ("parts", PARTS)):
        trainer = make_trainer(
            plain_model(), name, batches=Planned(*plan), accumulation=len(plan), steps=1
        )
        found.append(watch_gradients(trainer))
        trainer.train()
    assert_same_gradients(found[1][0], found[0][0])
