"""What a model folder must be before anything of it is used, whatever engine runs it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vqnmt.checksums import CHECKSUMS, write_checksums
from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.translate.code_index import CODE_INDEX
from vqnmt.translate.loading import load_translator

PRETRAINED = Path(__file__).resolve().parent.parent.parent / "pretrained" / "en-de"
KINDS = ("student", "teacher", "student export", "teacher export")


@pytest.fixture(scope="module")
def folders(finished_run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model folder of each kind; tests must not change them."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ctranslate2")
    found = {}
    for name in ("student", "teacher"):
        found[name] = finished_run.folder / name
        found[f"{name} export"] = tmp_path_factory.mktemp("exports") / name
        export(found[name], found[f"{name} export"], "int8")
    return found


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders, tmp_path: Path) -> Path:
    """Return a copy of a model folder, to be damaged."""
    ignored = shutil.ignore_patterns("training", "tokens", "reward", "stage.json")
    return shutil.copytree(folders[request.param], tmp_path / "model", ignore=ignored)


def listed(folder: Path) -> list[str]:
    return [line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()]


def test_the_list_has_all_files_of_the_model(folder: Path) -> None:
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(listed(folder)) == files - {"README.md", CHECKSUMS, CODE_INDEX}
    oracle = subprocess.run(["sha256sum", "-c", "--strict", CHECKSUMS], cwd=folder, check=False)
    assert oracle.returncode == 0
    load_translator(folder)


def test_what_is_missing_or_changed_is_refused_by_name(folder: Path) -> None:
    for name in listed(folder):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(VqnmtError, match=rf"{name}: missing, so the model folder"):
            load_translator(folder)
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (folder / name).write_bytes(flipped)
        with pytest.raises(VqnmtError, match=rf"{name}: (is not the file that was|not the config)"):
            load_translator(folder)
        (folder / name).write_bytes(content)
    load_translator(folder)


def test_what_belongs_to_the_user_may_change(folder: Path) -> None:
    (folder / "README.md").write_text("my own card")
    (folder / "notes.txt").write_text("mine")
    load_translator(folder)


def test_a_folder_without_checksums_is_read_as_it_is(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    load_translator(folder)


@pytest.mark.parametrize(
    "line",
    [
        *(b"0" * 64 + b"  " + name for name in (b"../x", b"/etc/hostname", b"a/../../b", b"\xff")),
        b"",
        b"\0" * 99,
        b"0" * 63 + b"  x",
        b"SHA256 (x) = 0",
    ],
)
def test_a_list_that_is_none(folders, tmp_path: Path, line: bytes) -> None:
    folder = shutil.copytree(folders["student export"], tmp_path / "model")
    content = (folder / CHECKSUMS).read_bytes()
    (folder / CHECKSUMS).write_bytes(content + line + b"\n")
    with pytest.raises(VqnmtError, match=rf"{CHECKSUMS}, line 5: is no checksum"):
        load_translator(folder)


@pytest.mark.parametrize("name", ["config.json", "spm.model", CHECKSUMS])
def test_a_file_beyond_all_bounds_is_not_read(folders, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(folders["student export"], tmp_path / "model")
    (folder / CHECKSUMS).unlink()
    with open(folder / name, "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(VqnmtError, match=rf"{name}: has 1,099,511,627,776 bytes, but"):
        load_translator(folder)


def test_the_model_that_ships_is_whole() -> None:
    assert listed(PRETRAINED) == ["config.json", "language_model.npz", "model.onnx", "spm.model"]
    load_translator(PRETRAINED)


# --- folders of another kind -----------------------------------------------------------------


def test_the_folder_of_a_run(finished_run) -> None:
    run = finished_run.folder
    with pytest.raises(VqnmtError, match=rf"is the folder of a run.*: give {run}/student"):
        load_translator(run)


def with_config(**values: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, r"config\.json: missing"),
        (lambda folder: folder.rmdir(), "no such model folder"),
        (lambda folder: (folder.rmdir(), folder.write_text("")), "no such model folder"),
        (with_config(format=1, image_size=32, model={}), "holds an image model: give"),
        (with_config(model_type="marian"), r"model_type and format are \('marian', None\)"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"\(no keys\)"),
        (lambda folder: (folder / "config.json").write_text("[" * 99999), r"\(RecursionError\)"),
    ],
)
def test_folders_of_another_kind(tmp_path: Path, make: Callable, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    with pytest.raises(VqnmtError, match=message) as caught:
        load_translator(folder)
    assert "\n" not in str(caught.value)


def test_checksums_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    write_checksums(tmp_path, ["a"])
    before = (tmp_path / CHECKSUMS).read_text()
    with pytest.raises(OSError, match="No such file"):
        write_checksums(tmp_path, ["a", "b"])
    assert (tmp_path / CHECKSUMS).read_text() == before
