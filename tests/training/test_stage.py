"""A stage knows how it was made and whether it is complete."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.provenance import current_commit
from vqnmt.training.stage import Stage

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
        "from vqnmt.training.stage import Stage\n"
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


KILLED = """
import os, signal, sys, time
from pathlib import Path
from vqnmt.files import atomic_path
from vqnmt.training import stage
stage.NOTE_EVERY = 0.1
with stage.Stage(Path(sys.argv[1]), {"seed": 1}).work(), atomic_path(sys.argv[1] + "/a") as path:
    path.write_text("half")
    time.sleep(0.4)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_stage_counts_its_time_and_its_scratch_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "stage")], check=False)
    stage = Stage(tmp_path / "stage", {"seed": 1})
    assert stage.seconds > 0.2 and not stage.complete
    assert len(list(stage.folder.glob(".a.*.tmp"))) == 1
    with stage.work():
        (stage.folder / "a").write_text("whole")
    assert stage.complete and stage.seconds > 0.2
    assert sorted(path.name for path in stage.folder.iterdir()) == ["a", "stage.json"]


def test_a_missing_key_is_null_and_keeps_the_digest(tmp_path: Path) -> None:
    made(tmp_path / "stage")
    again = Stage(tmp_path / "stage", {"model": {"layers": 3}, "seed": 1})
    assert again.has("output")
    # What comes after has a digest of what stands there.
    assert again.settings == SETTINGS and again.digest == made(tmp_path / "other").digest


def test_what_a_stage_has_left_is_checked(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", SETTINGS)
    with stage.work("output", "perhaps"):
        (stage.folder / "output").write_text("x")
    assert Stage(stage.folder, SETTINGS).has()
    (stage.folder / "output").write_text("y")
    with pytest.raises(VqnmtError, match=r"output: changed or damaged .*remove this file and st"):
        Stage(stage.folder, SETTINGS).has()
    (stage.folder / "output").unlink()
    assert not Stage(stage.folder, SETTINGS).has()
    with pytest.raises(KeyboardInterrupt), stage.work("output"):
        raise KeyboardInterrupt
    assert not Stage(stage.folder, SETTINGS).complete


def test_commits_of_all_work_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(tmp_path / "stage").commit == current_commit()
    for commit in ("abc", "abc"):
        monkeypatch.setattr("vqnmt.training.stage._commit", lambda commit=commit: commit)
        made(tmp_path / "stage")
    assert Stage(tmp_path / "stage", SETTINGS).commit == f"{current_commit()}, abc"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "stage"):
        with pytest.raises(VqnmtError, match=f"{folder}: the folder cannot be made .*run="):
            made(folder)


def test_a_disk_without_locks_is_worked_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert made(tmp_path / "stage").complete
