"""Models from the Hub, by a stand-in on this machine that answers as the Hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import vqnmt

REVISION = "a" * 40


@pytest.fixture
def hub(finished_run) -> Iterator[str]:
    """Serve the student as `user/repo`; return the address."""
    folder = finished_run.folder / "student"
    names = [path.name for path in folder.iterdir() if path.is_file()]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            _, _, name = self.path.partition("/user/repo/resolve/")
            name = name.partition("/")[2].partition("?")[0]
            if self.path.startswith("/api/models/user/repo/tree/"):
                sizes = {name: (folder / name).stat().st_size for name in names}
                tree = [
                    {"type": "file", "path": name, "size": size, "oid": "b" * 40}
                    for name, size in sizes.items()
                ]
                self.reply(200, json.dumps(tree).encode())
            elif self.path.startswith("/api/models/user/repo"):
                siblings = [{"rfilename": name} for name in names]
                about = {"_id": "1", "id": "user/repo", "sha": REVISION, "siblings": siblings}
                self.reply(200, json.dumps(about | {"private": False, "tags": []}).encode())
            elif name in names:
                self.reply(200, (folder / name).read_bytes())
            else:
                kind = "EntryNotFound" if "/user/repo/" in self.path else "RepoNotFound"
                self.reply(404, b"{}", **{"X-Error-Code": kind})

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            headers |= {"Content-Length": str(len(body)), "X-Repo-Commit": REVISION}
            headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(code: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_hub_translates_as_its_folder_does(
    finished_run, hub: str, tmp_path: Path
) -> None:
    text = "leka file bafi"
    expected = vqnmt.load_translator(finished_run.folder / "student")(text).text
    code = (
        "import vqnmt, transformers\n"
        f"print(vqnmt.load_translator('hf://user/repo')({text!r}))\n"
        "model = transformers.AutoModelForSeq2SeqLM.from_pretrained('user/repo')\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained('user/repo')\n"
        f"batch = tokenizer([{text!r}], return_tensors='pt')\n"
        "print(tokenizer.batch_decode(model.generate(**batch))[0])\n"
        "assert model.language_model is not None\n"
        "try: vqnmt.load_translator('hf://user/nosuch')\n"
        "except vqnmt.VqnmtError as error: print(error)\n"
    )
    result = run(code, hub, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second, refused = result.stdout.splitlines()
    assert first == second == expected
    assert refused.startswith("hf://user/nosuch: cannot be fetched from the Hub (")
    assert refused.endswith("check the name, and that this machine reaches the Hub")


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['vqnmt', 'translate', '--model', 'hf://user/repo']\n"
        "from vqnmt.commands.main import main\n"
        "main()"
    )
    result = run(code, "http://127.0.0.1:9", tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: hf://user/repo: cannot be fetched from the Hub (")
