"""Where an export is written: what stood there before is kept until the new one is whole."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from vqnmt.checksums import CHECKSUMS
from vqnmt.errors import VqnmtError
from vqnmt.exporting import folder as folder_module
from vqnmt.exporting.folder import export
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import Translator


class Killed(BaseException):
    """Stands for SIGKILL: nothing that cleans up behind a fault may run."""


@pytest.fixture(scope="module")
def student(finished_run) -> Path:
    return finished_run.folder / "student"


@pytest.fixture(scope="module")
def earlier(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export in fp32; tests must not change it."""
    folder = tmp_path_factory.mktemp("earlier") / "export"
    export(student, folder, "fp32")
    return folder


def precision(folder: Path) -> str:
    """Load an export that must be whole, and say in what precision it is."""
    translator = load_translator(folder, threads=1)
    assert translator.translate(["bale gudo"])[0].text
    return translator._config.precision  # type: ignore[attr-defined]


def steps(kill_at: int) -> Iterator[mock._patch]:
    """Patch all that changes names so that call number `kill_at` and all after it are not made."""
    calls = 0

    def counted(real: Callable) -> Callable:
        def step(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > kill_at:
                raise Killed
            return real(*arguments, **options)

        return step

    for name in ("rename", "replace", "unlink", "rmdir"):
        yield mock.patch.object(os, name, counted(getattr(os, name)))
    yield mock.patch.object(shutil, "rmtree", counted(shutil.rmtree))


def test_killed_at_any_step_leaves_the_earlier_or_the_new_export(
    student: Path, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loaded and written once: what is tested is what happens to the names.
    export(student, tmp_path / "new", "int8")
    translator = Translator.from_pretrained(student)
    monkeypatch.setattr(Translator, "from_pretrained", lambda *_, **__: translator)
    graph = (tmp_path / "new" / "model.onnx").read_bytes()
    proto = mock.Mock(SerializeToString=lambda: graph)
    monkeypatch.setattr("vqnmt.exporting.latent_graph.latent_graph", lambda *_: proto)
    found, kill_at, killed = [], 0, True
    while killed:
        folder = shutil.copytree(earlier, tmp_path / f"export{kill_at}")
        (folder / "mine.txt").write_text("mine")
        patches = list(steps(kill_at))
        try:
            for patch in patches:
                patch.start()
            export(student, folder, "int8")
            killed = False
        except Killed:
            pass
        finally:
            for patch in patches:
                patch.stop()
        found.append(precision(folder))
        export(student, folder, "int8")  # goes on where the other was killed
        assert json.loads((folder / "config.json").read_text())["precision"] == "int8"
        assert (folder / "mine.txt").read_text() == "mine"
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in earlier.iterdir()} | {"mine.txt"}
        kill_at += 1
    assert found == sorted(found) and found[0] == "fp32" and found[-1] == "int8"
    assert len(found) > 10


def test_an_engine_that_has_gone_leaves_no_file(
    finished_run, earlier: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    folder = shutil.copytree(earlier, tmp_path / "export")
    export(finished_run.folder / "teacher", folder, "fp32")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        CHECKSUMS,
        "config.json",
        "ctranslate2",
        "spm.model",
    ]
    load_translator(folder)
    export(finished_run.folder / "student", folder, "fp32")
    assert {p.name for p in folder.iterdir()} == {p.name for p in earlier.iterdir()}
    assert precision(folder) == "fp32"


@pytest.mark.parametrize("existing", [True, False])
def test_the_present_folder_and_links(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.chdir(real)
    if existing:
        export(student, ".", "fp32")
    export(student, ".", "int8")
    export(student, link, "int8")
    assert link.is_symlink() and precision(link) == precision(real) == "int8"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_places_that_cannot_hold_an_export(student: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "away")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "config.json").write_text("[]")
    for name, message in (
        ("file", r"file: cannot hold an export \(Not a directory\): choose another"),
        ("file/deeper", r"deeper: cannot hold an export \(Not a directory\)"),
        ("dangling", r"dangling: cannot hold an export \(File exists\)"),
        ("others", "others: holds something other than an export"),
    ):
        with pytest.raises(VqnmtError, match=message):
            export(student, tmp_path / name, "fp32")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "others" / "config.json").read_text() == "[]"


@pytest.mark.slow
def test_a_mount_point(student: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, where the machine grants one."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    tried = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs none {folder}"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip("no mount namespaces here")
    code = (
        "import sys; from vqnmt.exporting.folder import export; "
        "export(sys.argv[1], sys.argv[2], 'fp32'); "
        "export(sys.argv[1], sys.argv[2], 'int8')"
    )
    result = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            f'mount -t tmpfs none {folder} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            code,
            student,
            folder,
        ],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_full_disk_keeps_the_earlier_export(student: Path, earlier: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(earlier, tmp_path / "export")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        mock.patch.object(folder_module, "write_checksums", side_effect=full),
        pytest.raises(VqnmtError, match=r"export: cannot hold an export \(No space left"),
    ):
        export(student, folder, "int8")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert json.loads(before["config.json"])["precision"] == "fp32"
