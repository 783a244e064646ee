"""Steps whose gradient is not finite or explodes are left out; too many end the training."""

import math
import re

import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.layers import TransformerConfig
from vqnmt.models import LatentTransformer, Losses
from vqnmt.training.config import TrainingConfig
from vqnmt.training.metrics import read_metrics
from vqnmt.training.optimizer import WARM, SkipRule

from .conftest import TinyBatches, tiny_model
from .test_threads import (
    QUANTIZERS,
    TEXT_MODELS,
    image_batch,
    image_model,
    text_batch,
    text_model,
)


def fault(trainer, factor: float, steps: range) -> None:
    """Multiply the losses of `steps`, counted from 0, by `factor`."""
    good = trainer.inner.forward

    def forward(source, target) -> Losses:
        losses = good(source, target)
        if trainer.inner.training and trainer.step in steps:
            losses.total = losses.total * factor
        return losses

    trainer.inner.forward = forward


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.inner.state_dict().items()}


def watch_weights(trainer) -> list[dict[str, torch.Tensor]]:
    """Return a list that gets the weights before each step."""
    found = []
    optimize = trainer._optimize

    def watched(group):
        found.append(weights(trainer))
        return optimize(group)

    trainer._optimize = watched
    return found


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["autoregressive", "ema", "soft_em"])
def test_a_step_that_is_not_finite_leaves_no_trace(make_trainer, kind, factor, capsys):
    trainer = make_trainer(kind, steps=7, validate_every=7)
    fault(trainer, factor, range(3, 5))
    before = watch_weights(trainer)
    trainer.train()
    for name, value in before[3].items():
        assert torch.equal(before[5][name], value), name  # the codebook too
    assert any(not torch.equal(before[6][name], value) for name, value in before[3].items())
    losses = [row for row in read_metrics(trainer.folder / "metrics.jsonl") if "train/total" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 6, 7]  # without a row that says NaN
    assert losses[-1]["train/skipped_steps"] == 2
    assert capsys.readouterr().err.count("was left out, its gradient has norm") == 2


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_latents_that_are_not_finite_are_a_fault_like_any_other(make_trainer, value):
    trainer = make_trainer("ema", steps=8, validate_every=8)
    compress = trainer.inner.compress

    def faulty(*arguments):
        z_e, mask = compress(*arguments)
        return (z_e * value if trainer.step == 4 and trainer.inner.training else z_e), mask

    trainer.inner.compress = faulty
    before = watch_weights(trainer)
    found = trainer.train()
    for name, expected in before[4].items():
        assert torch.equal(before[5][name], expected), name
    assert trainer.skips.skipped == 1
    assert all(value.isfinite().all() for value in found.values())


# Of models that differ in the quantizer alone, those beside it.
NEAR = "compressor.norms|code_output|norm$|prior.output.3"


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e18])
@pytest.mark.parametrize("kind", [*TEXT_MODELS, *QUANTIZERS])
def test_no_layer_of_a_text_model_can_raise(kind, value):
    model = text_model(kind, TransformerConfig(dim=16, feedforward=16, heads=2))
    if isinstance(model, LatentTransformer):
        model.continuous, model.config.code_noise = False, 0.5
    near = kind in QUANTIZERS and (kind, value) != ("ema", math.nan)
    spoil_each_layer(model, text_batch(3), value, NEAR if near else "(?!quantizer)")


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e18])
@pytest.mark.parametrize("kind", ["vae", "integers", "pixels", "transformer prior", *QUANTIZERS])
def test_no_layer_of_an_image_model_can_raise(kind, value):
    near = kind in QUANTIZERS and (kind, value) != ("ema", math.nan)
    spoil_each_layer(
        image_model(kind, 8), image_batch(1, 8), value, NEAR if near else "(?!quantizer)"
    )


def spoil_each_layer(
    model: nn.Module, batch: tuple[torch.Tensor, ...], value: float, layers: str
) -> None:
    """Multiply what one layer after another returns: nothing may raise, NaN is in the gradient."""
    model.train()
    for name, layer in model.named_modules():
        if any(True for _ in layer.children()) or not re.match(layers, name):
            continue
        used = []

        def spoil(_: nn.Module, given: object, found: torch.Tensor, used: list = used):
            used.append(True)
            return found * value

        hook = layer.register_forward_hook(spoil)
        model.zero_grad()
        try:
            model(*batch).total.backward()
        except Exception as error:
            raise AssertionError(f"{name} ends the training") from error
        finally:
            hook.remove()
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        if used and math.isnan(value):
            assert not torch.stack(gradients).norm().isfinite(), name


def test_nothing_of_a_skipped_step_reaches_the_codebook(make_trainer):
    # With the skipped step's batch taken out of the data, the next steps see the same codebook.
    settings = {"steps": 6, "validate_every": 6}
    faulty = make_trainer("ema", "faulty", **settings)
    fault(faulty, math.nan, range(4, 5))
    faulty.train()
    codebook = faulty.inner.quantizer.codebook
    assert int(codebook.steps) == 6 - 2 - 1  # two in the continuous start, one skipped
    assert codebook._hits is None and codebook._pool is None


def test_too_many_faults_in_a_row_point_to_the_last_good_checkpoint(make_trainer):
    trainer = make_trainer(steps=12, validate_every=2, skip_limit=3)
    fault(trainer, math.nan, range(5, 12))
    with pytest.raises(VqnmtError) as error:
        trainer.train()
    (last,) = trainer.folder.glob("checkpoint-6-*")  # its weights are those of step 5
    assert "3 steps in a row up to step 8 were left out" in str(error.value)
    assert f"the last good checkpoint is {last}: lower tiny_training.learning_rate" in str(
        error.value
    )
    resumed = make_trainer(steps=12, validate_every=2, skip_limit=3)  # without the fault
    resumed.train()
    assert resumed.step == 12 and resumed.skips.skipped == 1


def test_skipped_steps_are_counted_across_a_stop(make_trainer):
    trainer = make_trainer(steps=6, validate_every=3)
    fault(trainer, math.nan, range(1, 2))
    trainer.batches.on_batch = lambda count: setattr(
        trainer._interruption, "received", {2} if count == 4 else set()
    )
    with pytest.raises(VqnmtError, match="interrupted at step 4"):
        trainer.train()
    resumed = make_trainer(steps=6, validate_every=3)
    resumed.train()
    assert resumed.skips.skipped == 1


def test_exploding_gradients_are_skipped_once_the_norm_is_known():
    rule = SkipRule(TrainingConfig(skip_factor=10.0))
    for _ in range(WARM):
        assert rule.accepts(2.0)
    assert rule.accepts(19.0)  # below 10 times the average
    average = rule._average
    assert 2.0 < average < 3.0
    assert not rule.accepts(10 * average)
    assert not rule.accepts(math.inf)
    assert rule.in_a_row == 2
    assert rule.accepts(2.0)
    assert rule.in_a_row == 0 and rule.skipped == 2


def test_before_the_norm_is_known_only_what_is_not_finite_is_skipped():
    rule = SkipRule(TrainingConfig(skip_factor=10.0))
    assert rule.accepts(1e-6)
    assert rule.accepts(1e6)
    assert not rule.accepts(math.nan)
    assert not rule.accepts(math.inf)


def test_the_rule_goes_on_from_its_state():
    one, other = (SkipRule(TrainingConfig(skip_factor=3.0)) for _ in range(2))
    norms = torch.rand(60, generator=torch.Generator().manual_seed(1)).exp().tolist()
    for norm in norms[:30]:
        one.accepts(norm)
    other.load(one.state())
    for norm in [*norms[30:], 1e3, math.nan, 1.0]:
        assert one.accepts(norm) == other.accepts(norm)
    assert one.state() == other.state()


def test_a_validation_of_broken_weights_is_still_an_error():
    model = tiny_model("ema").eval()
    torch.nn.init.constant_(model.embedding.weight, math.nan)
    with torch.no_grad(), pytest.raises(VqnmtError, match="NaN or infinite"):
        model(*TinyBatches().collate(torch.arange(3).numpy()))
