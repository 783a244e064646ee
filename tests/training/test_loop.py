"""The training loop: repeatable, resumable, right, and clear about what goes wrong."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.models import Losses
from vqnmt.training.loop import wants_bf16
from vqnmt.training.metrics import read_metrics
from vqnmt.training.optimizer import learning_rate, make_optimizer

from .conftest import TinyBatches, Watcher, tiny_model

MODELS = pytest.mark.parametrize("kind", ["autoregressive", "ema", "soft_em"])


def rows(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    found = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if "per_second" not in k} for row in found]


def stop_after(trainer, step: int) -> None:
    """Press Ctrl-C in the middle of optimiser step `step` of this process."""
    before = trainer._optimize

    def optimize(group):
        if trainer.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return before(group)

    trainer._optimize = optimize


class Unwatched(Watcher):
    """For modules that are no translation models."""

    def validate(self, model):
        return {}

    def score(self, values):
        return 0.0


def steps(folder: Path) -> list[str]:
    """The files of a training without their checksums, and without TensorBoard's."""
    found = [path.name for path in folder.iterdir() if not path.name.startswith("events")]
    return sorted(re.sub(r"-[0-9a-f]{16}", "", name) for name in found)


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- repeatable ------------------------------------------------------------------------------


def test_tests_run_on_one_thread_unless_asked_otherwise():
    threads = os.environ["VQNMT_TEST_THREADS"]
    assert torch.get_num_threads() == int(threads)
    assert os.environ["OMP_NUM_THREADS"] == threads  # of the processes that tests start


@MODELS
def test_the_same_seed_gives_the_same_losses_bit_for_bit(make_trainer, kind):
    trainers = [
        make_trainer(kind, name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    weights = [trainer.train() for trainer in trainers]
    assert rows(trainers[0].folder) == rows(trainers[1].folder)
    assert_same_weights(weights[0], weights[1])
    assert rows(trainers[0].folder) != rows(trainers[2].folder)


@MODELS
@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(make_trainer, kind, step):
    # Five batches an epoch: 1 is in the continuous start, 3 at a validation, 5 at an epoch's end.
    whole = make_trainer(kind, "whole", steps=9)
    expected = whole.train()
    stopped = make_trainer(kind, "stopped", steps=9)
    stop_after(stopped, step)
    with pytest.raises(VqnmtError, match=f"interrupted at step {step} and saved"):
        stopped.train()
    resumed = make_trainer(kind, "stopped", steps=9)
    torch.rand(7)  # the random state of the new process does not matter
    found = resumed.train()
    assert_same_weights(found, expected)
    assert_same_weights(resumed.inner.state_dict(), whole.inner.state_dict())
    losses, others = (
        [{k: v for k, v in row.items() if not k.startswith("epoch/")} for row in rows(t.folder)]
        for t in (resumed, whole)
    )
    assert losses == others


def test_a_checkpoint_of_another_version_is_refused_by_the_names_that_differ(make_trainer):
    stopped = make_trainer()
    stop_after(stopped, 2)
    with pytest.raises(VqnmtError, match="saved"):
        stopped.train()
    later = make_trainer()
    later.inner.register_buffer("repeatable_later", torch.ones(1))
    with pytest.raises(VqnmtError, match=r"checkpoint-2-.*differs in repeatable_later: remove"):
        later.train()


BROKEN = {
    "no skips": lambda state: state.pop("skips"),
    "no processes": lambda state: state.update(processes=[{}]),
    "no position": lambda state: state["position"].pop("epoch"),
    "another size": lambda state: state["model"].update({"embedding.weight": torch.ones(2, 3)}),
    "another optimiser": lambda state: state["optimizer"]["param_groups"].pop(),
    "a weight is a word": lambda state: state["model"].update({"embedding.weight": "x"}),
    "no model": lambda state: state.pop("model"),
    "a list": lambda state: [state],
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_checkpoint_of_another_make_is_refused_in_a_sentence(make_trainer, fault):
    trainer = make_trainer(steps=3)
    trainer.train()
    path = trainer.checkpoints.newest()
    state = trainer.checkpoints.load(path)
    changed = BROKEN[fault](state)
    trainer.checkpoints.save(3, changed if isinstance(changed, list) else state)
    with pytest.raises(VqnmtError) as error:
        make_trainer(steps=6).train()
    assert re.fullmatch(
        rf"{trainer.folder}/checkpoint-3-\w+\.pt: another version of vqnmt wrote it, or other "
        rf"settings \(\w+: .*\): remove {trainer.folder} to train anew, or go on with that version",
        str(error.value),
    )


@pytest.mark.parametrize("step", [2, 7])
def test_epoch_statistics_survive_a_stop(make_trainer, step):
    whole = make_trainer("ema", "whole", steps=10)
    whole.train()
    stopped = make_trainer("ema", "stopped", steps=10)
    stop_after(stopped, step)
    with pytest.raises(VqnmtError):
        stopped.train()
    make_trainer("ema", "stopped", steps=10).train()
    assert rows(stopped.folder) == rows(whole.folder)


def test_mean_losses_survive_a_stop_between_two_rows(make_trainer):
    whole = make_trainer(folder="whole", log_every=4, steps=8)
    whole.train()
    stopped = make_trainer(folder="stopped", log_every=4, steps=8)
    stop_after(stopped, 6)
    with pytest.raises(VqnmtError):
        stopped.train()
    make_trainer(folder="stopped", log_every=4, steps=8).train()
    assert rows(stopped.folder) == rows(whole.folder)


def test_several_stops_with_accumulation(make_trainer):
    settings = {"steps": 8, "accumulation": 2}
    expected = make_trainer("soft_em", "whole", **settings).train()
    for step in (2, 3, 7):
        trainer = make_trainer("soft_em", "stopped", **settings)
        stop_after(trainer, step)
        with pytest.raises(VqnmtError):
            trainer.train()
    assert_same_weights(make_trainer("soft_em", "stopped", **settings).train(), expected)


def test_a_killed_run_goes_on_from_its_last_checkpoint(make_trainer):
    expected = make_trainer(folder="whole", steps=9)
    expected.train()
    batches = TinyBatches()

    def crash(count: int) -> None:
        if count == 6:  # after the checkpoint of step 3
            raise MemoryError

    batches.on_batch = crash
    with pytest.raises(MemoryError):
        make_trainer(folder="killed", steps=9, batches=batches).train()
    resumed = make_trainer(folder="killed", steps=9)
    resumed.train()
    assert rows(resumed.folder) == rows(expected.folder)  # rows 4 and 5 stand there once
    assert_same_weights(resumed.inner.state_dict(), expected.inner.state_dict())


def test_a_finished_run_is_not_trained_again(make_trainer):
    first = make_trainer()
    expected = first.train()
    before = rows(first.folder)
    batches = TinyBatches()
    assert_same_weights(make_trainer(batches=batches).train(), expected)
    assert not batches.seen
    assert rows(first.folder) == before


# --- right -----------------------------------------------------------------------------------


def test_every_pair_is_seen_once_an_epoch(make_trainer):
    batches = TinyBatches()
    epochs = [len(batches.plan(epoch)) for epoch in range(2)]
    make_trainer(batches=batches, steps=sum(epochs)).train()
    for part in (batches.seen[: epochs[0]], batches.seen[epochs[0] :]):
        found = [[t for t in row.tolist() if t] for source, _ in part for row in source]
        assert sorted(found) == sorted(batches.rows[0])


def test_metrics_are_token_weighted_means(make_trainer):
    class Constant(nn.Module):
        """Loss 1, 2, 3, ... with 10, 20, 30, ... tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.calls = 0

        def forward(self, source, target) -> Losses:
            self.calls += 1
            value = self.weight * 0 + float(self.calls)
            terms = {"always": value.detach()}
            if self.calls > 1:  # a term that sets in later, as after a continuous start
                terms["late"] = torch.tensor(5.0)
            return Losses(value, 10 * self.calls, terms)

    trainer = make_trainer(Constant(), watcher=Unwatched(), log_every=2, steps=4)
    trainer.train()
    found = [row for row in rows(trainer.folder) if "train/total" in row]
    assert [row["step"] for row in found] == [2, 4]
    assert found[0]["train/total"] == pytest.approx((1 * 10 + 2 * 20) / 30)
    assert found[1]["train/always"] == pytest.approx((3 * 30 + 4 * 40) / 70)
    assert found[1]["train/late"] == pytest.approx(5.0)
    assert found[0]["train/late"] == pytest.approx(5.0), "a mean over batches that have the term"


def test_progress_and_codebook_steps_are_told_to_the_model(make_trainer):
    told = []

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def set_progress(self, fraction):
            told.append(fraction)

        def after_optimizer_step(self):
            told.append("step")

        def forward(self, source, target) -> Losses:
            told.append("forward")
            return Losses(self.weight * 1.0, 1, {})

    make_trainer(Told(), watcher=Unwatched(), steps=2, accumulation=2).train()
    assert told == [0.0, "forward", "forward", "step", 0.5, "forward", "forward", "step"]


def test_validation_and_checkpoints_stand_where_they_should(make_trainer):
    trainer = make_trainer(steps=7, validate_every=3, keep=2, average=2)
    trainer.observer.score = lambda values: float(trainer.step == 3)
    trainer.train()
    validated = [row["step"] for row in rows(trainer.folder) if "valid/total" in row]
    assert validated == [3, 6, 7]
    assert steps(trainer.folder) == [
        "checkpoint-3.pt",  # the best
        "checkpoint-6.pt",
        "checkpoint-7.pt",
        "metrics.jsonl",
        "weights-6.safetensors",
        "weights-7.safetensors",
    ]
    assert any(p.name.startswith("events") for p in trainer.folder.iterdir())


def test_the_result_is_the_mean_of_the_snapshots(make_trainer):
    trainer = make_trainer("ema", steps=6, validate_every=1, average=3)
    snapshots = []
    save = trainer.checkpoints.snapshot

    def snapshot(step, weights):
        snapshots.append({k: v.clone() for k, v in weights.items()})
        save(step, weights)

    trainer.checkpoints.snapshot = snapshot
    found = trainer.train()
    trained = {name for name, _ in trainer.inner.named_parameters()}
    for name, value in found.items():
        last = [state[name] for state in snapshots[-3:]]
        if name in trained:
            torch.testing.assert_close(value, torch.stack(last).mean(0))
        else:  # counts and vectors of the codebook belong together
            assert torch.equal(value, last[-1])


def test_the_schedule():
    config = tiny_config(steps=100, warmup=10, learning_rate=2.0)
    assert [learning_rate(config, step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert learning_rate(config, 10) == pytest.approx(2.0)
    assert learning_rate(config, 55) == pytest.approx(1.0)
    assert 0 < learning_rate(config, 99) < 0.01
    config = tiny_config(steps=100, warmup=10, learning_rate=2.0, schedule="inverse_sqrt")
    assert learning_rate(config, 9) == pytest.approx(2.0)
    assert learning_rate(config, 39) == pytest.approx(1.0)
    for schedule in ("cosine", "inverse_sqrt"):
        config = tiny_config(steps=5, warmup=0, schedule=schedule)
        assert learning_rate(config, 0) == pytest.approx(config.learning_rate)


def tiny_config(**settings):
    from vqnmt.training.config import TrainingConfig

    return TrainingConfig(**settings)


def test_weight_decay_is_on_matrices_only():
    model = tiny_model("autoregressive")
    optimizer = make_optimizer(model, tiny_config(optimizer="adamw", weight_decay=0.5), bf16=False)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.5 if parameter.dim() > 1 else 0.0), name


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word", "status"),
    [
        (signal.SIGINT, "interrupted", 130),
        (signal.SIGTERM, "terminated", 143),
        (signal.SIGHUP, "its terminal was closed", 129),
    ],
)
def test_a_signal_saves_and_the_handlers_come_back(make_trainer, number, word, status):
    previous = signal.getsignal(number)
    trainer = make_trainer()
    trainer.batches.on_batch = lambda count: count == 2 and os.kill(os.getpid(), number)
    with pytest.raises(VqnmtError, match=f"{word} at step 2 and saved") as error:
        trainer.train()
    assert error.value.status == status
    assert signal.getsignal(number) is previous
    assert "checkpoint-2.pt" in steps(trainer.folder)
    assert [row["step"] for row in rows(trainer.folder)] == [1, 2]


def test_a_signal_in_the_last_step_does_not_lose_the_end(make_trainer):
    expected = make_trainer(folder="whole").train()
    trainer = make_trainer(folder="signalled")
    stop_after(trainer, 6)
    assert_same_weights(trainer.train(), expected)


def test_two_trainings_of_different_precision_in_one_process(make_trainer):
    # A teacher in one precision, then a student in another.
    for precision in ("fp32", "bf16", "fp32"):
        trainer = make_trainer(folder=precision, precision=precision, steps=1)
        assert all(value.isfinite().all() for value in trainer.train().values())


def test_bf16_keeps_the_weights_in_fp32(make_trainer):
    trainer = make_trainer("soft_em", precision="bf16", steps=3)
    for name, value in trainer.train().items():
        assert value.dtype != torch.bfloat16, name
    losses = [row["train/total"] for row in rows(trainer.folder) if "train/total" in row]
    assert len(losses) == 3 and all(0 < loss < 100 for loss in losses)


def test_a_plan_without_batches_is_an_error(make_trainer):
    class Empty(TinyBatches):
        calls = 0

        def plan(self, epoch):
            self.calls += 1
            if self.calls > 50:
                raise TimeoutError("the loop goes round and round")
            return []

    with pytest.raises(VqnmtError):
        make_trainer(batches=Empty()).train()


def test_precision_names(monkeypatch):
    assert not wants_bf16("fp32")
    assert wants_bf16("bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for found in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=found: found)
        assert wants_bf16("auto") == found
