"""Models of the Hub, by a stand-in on this machine that answers as the Hub does."""

import base64
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
    """Serve the student as `user/repo`, and take others in; return the address."""
    folder = finished_run.folder / "student"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    repositories = {"user/repo": files}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
            name, rest = "/".join(path[:2]), path[2:]
            if name not in repositories:
                return self.reply(404, {}, **{"X-Error-Code": "RepoNotFound"})
            files = repositories[name]
            if rest[:1] == ["resolve"] and rest[2:]:
                if (content := files.get("/".join(rest[2:]))) is None:
                    return self.reply(404, {}, **{"X-Error-Code": "EntryNotFound"})
                return self.reply(200, content)
            if rest[:1] == ["tree"]:
                about = {"type": "file", "oid": "b" * 40}
                tree = [about | {"path": key, "size": len(files[key])} for key in files]
                return self.reply(200, tree)
            about = {"_id": "1", "id": name, "sha": REVISION, "private": False, "tags": []}
            self.reply(200, about | {"siblings": [{"rfilename": key} for key in files]})

        def do_POST(self) -> None:
            lines = self.rfile.read(int(self.headers["Content-Length"])).decode().splitlines()
            given = [json.loads(line) for line in lines]
            address = f"http://{self.headers['Host']}"
            if self.path == "/api/repos/create":
                name = f"{given[0]['organization']}/{given[0]['name']}"
                repositories.setdefault(name, {})
                return self.reply(200, {"url": f"{address}/{name}", "name": name})
            if self.path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            name, _, kind = (
                self.path.removeprefix("/api/models/").removesuffix("/main").rpartition("/")
            )
            if kind == "preupload":
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                return self.reply(200, {"files": [plain | one for one in given[0]["files"]]})
            assert kind == "commit"
            for one in given[1:]:
                content = base64.b64decode(one["value"]["content"])
                repositories[name][one["value"]["path"]] = content
            self.reply(200, {"commitUrl": f"{address}/{name}/commit/1", "commitOid": "1"})

        def reply(self, status: int, given: object, **headers: str) -> None:
            body = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_response(status)
            headers |= {"Content-Length": str(len(body)), "X-Repo-Commit": REVISION}
            headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(code: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": "hf_of_nobody"}
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
        "assert vqnmt.Translator.from_pretrained('hf://user/repo').target_language == 'de'\n"
        "model = transformers.AutoModelForSeq2SeqLM.from_pretrained('user/repo')\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained('user/repo')\n"
        f"batch = tokenizer([{text!r}], return_tensors='pt')\n"
        "print(tokenizer.batch_decode(model.generate(**batch))[0])\n"
        "assert model.language_model is not None\n"
        "for name in ('hf://user/nosuch', 'hf://user//repo', 'user/repo'):\n"
        "    try: vqnmt.load_translator(name)\n"
        "    except vqnmt.VqnmtError as error: print(error)\n"
    )
    for side, line in (("en", text), ("de", expected)):
        (tmp_path / f"x.{side}").write_text(line + "\n", encoding="utf-8")
    pair = ["--source", str(tmp_path / "x.en"), "--reference", str(tmp_path / "x.de")]
    code += (
        f"from vqnmt.commands.evaluate import main\nmain(['--model', 'hf://user/repo', *{pair}])\n"
    )
    result = run(code, hub, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second, unknown, wrong, no_folder, _, chrf, *_ = result.stdout.splitlines()
    assert chrf.startswith("chrF++ 100.00 ")
    assert first == second == expected
    assert unknown.startswith("hf://user/nosuch: the Hub has no such repository, or")
    assert wrong.startswith("hf://user//repo: cannot be fetched from the Hub (Repo id must")
    assert wrong.endswith("check the name, and that this machine reaches the Hub")
    assert no_folder.startswith("user/repo: no such model folder; give one that")
    assert no_folder.endswith("or hf://user/repo for one of the Hub")


def test_what_is_pushed_to_the_hub_comes_back_whole(finished_run, hub: str, tmp_path: Path) -> None:
    """Both by transformers' own method, and the model a second time, as after fine-tuning."""
    folder = finished_run.folder / "student"
    text = "leka file bafi"
    code = (
        "import vqnmt, transformers\n"
        f"model = transformers.AutoModelForSeq2SeqLM.from_pretrained({str(folder)!r})\n"
        f"tokenizer = transformers.AutoTokenizer.from_pretrained({str(folder)!r})\n"
        "for part in (model, tokenizer, model): part.push_to_hub('user/new')\n"
        "translator = vqnmt.load_translator('hf://user/new')\n"
        f"print(translator({text!r}))\n"
        "assert translator.language_model is not None\n"
        "print(*sorted(path.name for path in translator.folder.iterdir()))\n"
    )
    result = run(code, hub, tmp_path)
    assert result.returncode == 0, result.stderr
    translation, names = result.stdout.splitlines()
    assert translation == vqnmt.load_translator(folder)(text).text
    written = {"SHA256SUMS", "config.json", "model.safetensors", "spm.model", "language_model.npz"}
    assert written | {"README.md"} <= set(names.split())


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['vqnmt', 'translate', '--model', 'hf://user/repo']\n"
        "from vqnmt.commands.main import main\n"
        "main()"
    )
    result = run(code, "http://127.0.0.1:9", tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: hf://user/repo: http://127.0.0.1:9 is not reached")
