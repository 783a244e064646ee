"""CIFAR-10 from both kinds of archive and from the unpacked files, in stand-ins of 7 images."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError
from vqnmt.images import cifar

COUNT = 7


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def batches(monkeypatch, tmp_path):
    """Six batches as bytes, known to the module by their MD5 sums."""
    generator = np.random.default_rng(0)
    found = {}
    for name in cifar.BATCHES:
        rows = generator.integers(0, 256, (COUNT, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        found[name] = rows.tobytes()
    sums = {name: hashlib.md5(content).hexdigest() for name, content in found.items()}
    monkeypatch.setattr(cifar, "BATCHES", sums)
    monkeypatch.setattr(cifar, "_IMAGES", COUNT)
    monkeypatch.delenv("VQNMT_DATA", raising=False)
    files = (
        RemoteFile(path="cifar10/a.tgz", checksum=None),
        RemoteFile(path="cifar10/b.tar.gz", checksum=None),
    )
    monkeypatch.setattr(cifar, "_FILES", files)
    (tmp_path / "cifar10").mkdir()
    return found


def pixels(content):
    rows = np.frombuffer(content, np.uint8).reshape(COUNT, 3073)
    return rows[:, 1:].reshape(COUNT, 3, 32, 32)


def write_sheets(batches, path):
    """What the npm package holds: a PNG of one image a row, and the labels apart."""
    labels = {"train": [], "test": []}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            sheet = pixels(content).reshape(COUNT, 3, 1024).transpose(0, 2, 1)
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(sheet)).save(buffer, "png")
            add(archive, f"package/{name}.png", buffer.getvalue())
            part = "test" if name == "test_batch" else "train"
            labels[part] += [content[i * 3073] for i in range(COUNT)]
        for part, values in labels.items():
            add(archive, f"package/{part}_lables.json", json.dumps(values).encode())


def check(tmp_path, batches):
    train, test = cifar.load_cifar10(tmp_path)
    expected = np.concatenate([pixels(batches[f"data_batch_{i}"]) for i in range(1, 6)])
    np.testing.assert_array_equal(train, expected)
    np.testing.assert_array_equal(test, pixels(batches["test_batch"]))


def test_from_the_sheets_of_the_npm_package(tmp_path, batches):
    write_sheets(batches, tmp_path / "cifar10" / "a.tgz")
    check(tmp_path, batches)


def test_from_the_published_archive(tmp_path, batches):
    with tarfile.open(tmp_path / "cifar10" / "b.tar.gz", "w:gz") as archive:
        for name, content in batches.items():
            add(archive, f"{cifar.FOLDER}/{name}.bin", content)
    check(tmp_path, batches)


def test_from_the_unpacked_files_in_the_users_folder(tmp_path, batches, monkeypatch):
    monkeypatch.setenv("VQNMT_DATA", str(tmp_path))
    folder = tmp_path / "cifar10" / cifar.FOLDER
    folder.mkdir()
    for name, content in batches.items():
        (folder / f"{name}.bin").write_bytes(content)
    check(tmp_path, batches)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(VqnmtError, match=r"data_batch_3\.bin: cannot be read"):
        cifar.load_cifar10(tmp_path)


def test_a_batch_that_differs_from_the_published_one_is_named(tmp_path, batches):
    batches["data_batch_4"] = batches["data_batch_4"][:-1] + b"x"
    write_sheets(batches, tmp_path / "cifar10" / "a.tgz")
    with pytest.raises(VqnmtError, match=r"a\.tgz: data_batch_4 has the MD5 sum .* instead of"):
        cifar.load_cifar10(tmp_path)


def test_a_damaged_archive_is_named(tmp_path, batches):
    (tmp_path / "cifar10" / "a.tgz").write_bytes(b"no archive")
    with pytest.raises(VqnmtError, match=r"a\.tgz: is no copy of CIFAR-10"):
        cifar.load_cifar10(tmp_path)


def test_any_damage_of_an_archive_is_named(tmp_path, batches):
    """Bytes changed or cut in the archive itself, and in a sheet or the labels within it."""
    random = np.random.default_rng(0)
    path = tmp_path / "cifar10" / "a.tgz"
    write_sheets(batches, path)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}

    def damage(content):
        if random.integers(2):
            return content[: random.integers(len(content))]
        changed = bytearray(content)
        for place in random.integers(0, min(len(content), 3000), 4):
            changed[place] = random.integers(256)
        return bytes(changed)

    for trial in range(60):
        if trial % 2:
            path.write_bytes(damage(whole))
        else:
            name = list(members)[random.integers(len(members))]
            with tarfile.open(path, "w:gz") as archive:
                for member, content in members.items():
                    add(archive, member, damage(content) if member == name else content)
        try:
            check(tmp_path, batches)
        except VqnmtError as error:
            assert "a.tgz: " in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("labels", [b"7", b"{}", b"[[]]", b'["a"]', b"[]"])
def test_labels_of_another_kind_are_named(tmp_path, batches, labels):
    path = tmp_path / "cifar10" / "a.tgz"
    write_sheets(batches, path)
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            add(archive, member, labels if member.endswith(".json") else content)
    with pytest.raises(VqnmtError, match=r"a\.tgz: is no copy of CIFAR-10"):
        cifar.load_cifar10(tmp_path)


def test_without_any_source_all_of_them_are_named(tmp_path, batches):
    with pytest.raises(VqnmtError, match=r"cifar10/a\.tgz or cifar10/b\.tar\.gz: no source"):
        cifar.load_cifar10(tmp_path)
