"""Trackers of accelerate get what metrics.jsonl gets; the rate leaves validation out."""

import os
import signal
import time
from typing import ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vqnmt.errors import Stopped, VqnmtError
from vqnmt.training.config import TrainingConfig
from vqnmt.training.metrics import Meter, read_metrics

from .conftest import Watcher


class ListTracker(GeneralTracker):
    """Keeps what it gets."""

    name, requires_logging_directory = "list", False
    runs: ClassVar[list["ListTracker"]] = []

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.rows, self.settings, self.ended = [], {}, False
        self.runs.append(self)

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None = None, **further) -> None:
        self.rows.append({"step": step, **values})

    def finish(self) -> None:
        self.ended = True


class Talker(Watcher):
    """Has samples of text."""

    def validate(self, model):
        return super().validate(model) | {"valid/samples": ["a → b", "c → d"]}


def test_trackers_get_the_rows_and_the_texts(make_trainer, monkeypatch) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "list", ListTracker)
    trainer = make_trainer("ema", steps=4, validate_every=4, log_every=2, trackers=["list"])
    trainer.observer = Talker()
    trainer.train()
    rows = read_metrics(trainer.folder / "metrics.jsonl")
    (run,) = ListTracker.runs
    scalars = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows]
    found = [{k: v for k, v in row.items() if not isinstance(v, str)} for row in run.rows]
    assert found == scalars and {"train/total", "valid/total"} <= set().union(*found)
    assert [row["valid/samples"] for row in run.rows if "valid/samples" in row] == [
        "a → b\n\nc → d"
    ]
    assert run.ended and run.settings["steps"] == 4 and run.settings["folder"]
    events = EventAccumulator(str(trainer.folder)).Reload()
    assert "valid/samples/text_summary" in events.Tags()["tensors"]


def test_a_stopped_training_leaves_its_events_and_ends_its_trackers(
    make_trainer, monkeypatch
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "list", ListTracker)
    monkeypatch.setattr(ListTracker, "runs", [])
    trainer = make_trainer("ema", steps=9, validate_every=9, log_every=2, trackers=["list"])
    trainer.batches.on_batch = lambda count: count == 4 and os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        trainer.train()
    rows = [row for row in read_metrics(trainer.folder / "metrics.jsonl") if "train/total" in row]
    events = EventAccumulator(str(trainer.folder)).Reload()
    found = [event.step for event in events.Scalars("train/total")]
    assert found == [row["step"] for row in rows] == [2, 4]
    assert ListTracker.runs[0].ended


def test_a_tracker_that_cannot_start_is_one_sentence(make_trainer, monkeypatch) -> None:
    def broken(run_name: str) -> None:
        raise ConnectionError("no\nlogin")

    broken.requires_logging_directory = False
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "broken", broken)
    with pytest.raises(
        VqnmtError, match=r"_training\.trackers=.*cannot be started \(no login\): log in"
    ):
        make_trainer("ema", steps=2, trackers=["broken"]).train()


def test_trackers_are_checked_before_anything_is_trained() -> None:
    with pytest.raises(VqnmtError, match=r"training\.trackers names 'w&b'; choose among aim, "):
        TrainingConfig(trackers=["w&b"])
    available = {str(name) for name in get_available_trackers()}
    for name in {"wandb", "aim"} - available:
        with pytest.raises(VqnmtError, match=f"names {name}, which is not installed: pip install"):
            TrainingConfig(trackers=[name])


def test_the_rate_leaves_the_time_of_validation_out(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter("tokens")
    meter.add([], 100)
    now[0] += 2.0
    with meter.paused():
        now[0] += 50.0
    meter.add([], 100)
    now[0] += 2.0
    assert meter.flush()["train/tokens_per_second"] == 50.0
