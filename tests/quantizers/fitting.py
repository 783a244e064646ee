"""One set of settings for tests of many quantizers."""

import dataclasses

from vqnmt.quantizers import QuantizerConfig
from vqnmt.quantizers.config import CONFIGS


def fitting_config(name: str = "ema", **settings) -> QuantizerConfig:
    """Return the settings of the quantizer `name`, of those given that it has."""
    own = {f.name for f in dataclasses.fields(CONFIGS[name])}
    return QuantizerConfig(name=name, **{k: v for k, v in settings.items() if k in own})
