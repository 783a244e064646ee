from collections.abc import Callable
from dataclasses import replace

import pytest

from vqnmt.evaluation import Record


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """Build a record: `make_record("student", seed=2)`."""

    def make(system: str = "student", **changes) -> Record:
        record = Record(
            system=system,
            corpus="homeassistant en-de",
            overrides=["quantizer=ema"],
            seed=1,
            commit="abc",
            training_commit="abb",
            hardware={"processor": "a processor", "threads": 2, "torch": "2"},
            wall_seconds=12.5,
            parameters=1_000,
            metrics={"bleu.test": 20.5, "bleu_signature": "nrefs:1", "latency_ms.median": 7.0},
        )
        return replace(record, **changes)

    return make
