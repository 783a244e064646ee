"""A stage knows how it was made and whether it is complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.pipeline.stage import Stage

SETTINGS = {"model": {"layers": 3, "share": None}, "seed": 1}


def made(folder: Path) -> Stage:
    stage = Stage(folder, SETTINGS)
    with stage.work():
        (folder / "output").write_text("x")
    return stage


def test_complete_after_success(tmp_path: Path) -> None:
    stage = made(tmp_path / "stage")
    again = Stage(tmp_path / "stage", SETTINGS)
    assert stage.complete and again.complete and again.seconds == stage.seconds > 0
    assert again.has("output") and not again.has("output", "lost")


def test_interrupted_stage_is_not_complete_but_counts_its_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", SETTINGS)
    with pytest.raises(KeyboardInterrupt), stage.work():
        (stage.folder / "half").write_text("x")
        raise KeyboardInterrupt
    again = Stage(tmp_path / "stage", SETTINGS)
    assert not again.complete and again.seconds > 0
    before = again.seconds
    with again.work():
        pass
    assert again.complete and again.seconds > before


def test_stage_that_left_nothing_can_be_started_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(VqnmtError), Stage(tmp_path / "stage", SETTINGS).work():
        raise VqnmtError("the vocabulary is too large")
    assert not (tmp_path / "stage").exists()
    assert not Stage(tmp_path / "stage", SETTINGS | {"seed": 2}).complete


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SETTINGS | {"seed": 2}, "seed=1, now asked for is 2"),
        (SETTINGS | {"model": {"layers": 3, "share": 0.5}}, "model.share=null, now .* is 0.5"),
        (SETTINGS | {"new": True}, "new=null, now asked for is true"),
        ({"seed": 1}, "model.layers=3, now asked for is null"),
    ],
)
def test_other_settings_are_named(tmp_path: Path, settings: dict, message: str) -> None:
    made(tmp_path / "stage")
    with pytest.raises(VqnmtError, match=message):
        Stage(tmp_path / "stage", settings)


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"settings": {}, "complete": True})])
def test_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(VqnmtError, match=r"stage\.json: damaged .*remove the folder"):
        Stage(tmp_path, SETTINGS)


def test_scratch_does_not_bind_the_settings(tmp_path: Path) -> None:
    scratch = tmp_path / "stage" / ".shards-1"
    with pytest.raises(VqnmtError), Stage(tmp_path / "stage", SETTINGS).work():
        scratch.mkdir()
        raise VqnmtError("the text has a fault")
    assert scratch.is_dir()
    Stage(tmp_path / "stage", SETTINGS | {"seed": 2})


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    script = (
        "from pathlib import Path\n"
        "from vqnmt.pipeline.stage import Stage\n"
        f"with Stage(Path({str(folder)!r}), {SETTINGS!r}).work():\n"
        "    print('works', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "works\n"
        before = (folder / "stage.json").read_bytes()
        with pytest.raises(VqnmtError, match=r"\.lock: held by another process, .*run="):
            made(folder)
        assert (folder / "stage.json").read_bytes() == before
        first.kill()
    made(folder)  # one that was killed locks nothing
    assert sorted(path.name for path in folder.iterdir()) == ["output", "stage.json"]


def test_work_that_was_killed_counts_where_it_is_known(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", SETTINGS)
    stage.seconds = 40.0
    with stage.work():
        stage.count_at_least(30.0)
        assert stage.seconds == 40
        stage.count_at_least(500.0)
    assert 500 < Stage(tmp_path / "stage", SETTINGS).seconds < 600
