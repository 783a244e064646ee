"""Small local stand-ins for the catalogue's files, with the checksums changed to theirs."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

from vqnmt.data.catalogue import Entry
from vqnmt.downloads import RemoteFile


def lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()


def write(path: Path, content: bytes) -> Path:
    """Write bytes, compressed as the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, lambda plain: plain)
    path.write_bytes(compress(content))
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_wheel(path: Path, members: dict[str, str]) -> Path:
    """A wheel that pip accepts, of any content."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    return write_zip(
        path,
        {
            **members,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        },
    )


def repinned(entry: Entry, folder: Path) -> Entry:
    """The entry with the checksums of the files that stand in `folder`."""
    return _map(entry, folder)


def _map(value, folder):
    if isinstance(value, RemoteFile):
        path = folder / value.path
        if not path.is_file():
            return value
        checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        return dataclasses.replace(value, checksum=checksum)
    if dataclasses.is_dataclass(value):
        changes = {f.name: _map(getattr(value, f.name), folder) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, dict):
        return {key: _map(inner, folder) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_map(inner, folder) for inner in value)
    return value
