"""Every setting of a training that is out of range is named."""

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "training.steps is 0"),
        ({"batch_tokens": -1}, "training.batch_tokens is -1"),
        ({"accumulation": 0}, "training.accumulation is 0"),
        ({"log_every": 0}, "training.log_every is 0"),
        ({"validate_every": 0}, "training.validate_every is 0"),
        ({"average": 0}, "training.average is 0"),
        ({"keep": 0}, "training.keep is 0"),
        ({"schedule": "linear"}, "training.schedule is 'linear'"),
        ({"precision": "fp16"}, "training.precision is 'fp16'"),
        ({"warmup": -5}, "training.warmup is -5"),
        ({"learning_rate": -0.1}, "training.learning_rate is -0.1"),
        ({"clip_norm": 0.0}, "training.clip_norm is 0"),
        ({"skip_factor": 1.0}, "training.skip_factor is 1"),
        ({"skip_limit": 0}, "training.skip_limit is 0"),
        ({"weight_decay": -0.1}, "training.weight_decay is -0.1"),
        ({"weight_decay": float("nan")}, "training.weight_decay is nan"),
        ({"beta2": 1.5}, "training.beta2 is 1.5"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(VqnmtError, match=named):
        TrainingConfig(**settings)
