"""The server: LibreTranslate's API for its clients, batching, limits, a stop without loss."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import polib
import pytest
import requests
import uvicorn
from libretranslatepy import LibreTranslateAPI

from vqnmt.commands.serve import read_keys
from vqnmt.errors import VqnmtError
from vqnmt.serve.app import create_app
from vqnmt.serve.documents import translate_html
from vqnmt.serve.settings import ServerSettings
from vqnmt.translate.loading import load_translator
from vqnmt.translate.translation import Translation

ROOT = Path(__file__).parent.parent.parent
PRETRAINED = ROOT / "pretrained" / "en-de"


class Shouter:
    """Translates by upper case; notes its batches."""

    source_language, target_language, on_long = "en", "de", "refuse"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, []

    def n_best(self, sentences: list[str], settings: Any) -> list[list[Translation]]:
        self.batches.append(len(sentences))
        time.sleep(self.seconds)
        if "bug" in sentences:
            raise RuntimeError(f"{__file__} is a path")
        if "long" in sentences:
            raise VqnmtError("line 1: too long")
        ranks = ["", " (2)", " (3)"][: settings.candidates]
        return [[Translation(one.upper() + rank) for rank in ranks] for one in sentences]


@contextmanager
def served(translator: Any, **settings: Any) -> Iterator[str]:
    """Run a server in a thread; yield its address."""
    app = create_app([translator], ServerSettings(**settings))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shouting() -> Iterator[str]:
    with served(Shouter(), characters=100, body=10_000, batch_wait=0, queue=100) as url:
        yield url


def post(url: str, values: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
    request = Request(url, json.dumps(values).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read()), dict(answer.headers)
    except HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)


def translate(url: str, q: Any, **further: Any) -> tuple[int, Any, dict[str, str]]:
    return post(f"{url}/translate", {"q": q, "source": "en", "target": "de", **further})


def test_libretranslates_own_client_works_unchanged(shouting: str) -> None:
    client = LibreTranslateAPI(shouting)
    assert client.translate("Turn on the light", "en", "de") == "TURN ON THE LIGHT"
    assert client.languages() == [
        {"code": "en", "name": "English", "targets": ["de", "en"]},
        {"code": "de", "name": "German", "targets": ["de"]},
    ]
    (first, *_) = client.detect("Where is the light in the kitchen?")
    assert first["language"] == "en" and 50 < first["confidence"] <= 100


# What LibreTranslate's documentation says of each answer: field, and type or types.
DOCUMENTED = {
    "translate": {"translatedText": str},
    "translate many": {"translatedText": list},
    "translate auto": {"translatedText": str, "detectedLanguage": dict},
    "translate alternatives": {"translatedText": str, "alternatives": list},
    "languages": {"code": str, "name": str, "targets": list},
    "detect": {"confidence": (int, float), "language": str},
    "translate_file": {"translatedFileUrl": str},
    "frontend/settings": {
        **{"apiKeys": bool, "charLimit": int, "filesTranslation": bool, "frontendTimeout": int},
        **{"keyRequired": bool, "language": dict, "suggestions": bool},
        "supportedFilesFormat": list,
    },
    "error": {"error": str},
}


def check_fields(name: str, answer: dict[str, Any]) -> None:
    fields = DOCUMENTED[name]
    assert answer.keys() == fields.keys(), name
    for field, kind in fields.items():
        assert isinstance(answer[field], kind), (name, field)


def test_answers_have_the_documented_fields(shouting: str) -> None:
    check_fields("translate", translate(shouting, "a")[1])
    assert translate(shouting, ["a", "b"])[1] == {"translatedText": ["A", "B"]}
    auto = translate(shouting, "Where is the light?", source="auto")[1]
    check_fields("translate auto", auto)
    check_fields("detect", auto["detectedLanguage"])
    mixed = ["Nobody knows where the key of the kitchen is", "Ja"]
    mixed.append("Niemand weiß, wo der Schlüssel zur Küche ist")
    several = translate(shouting, mixed, source="auto")[1]
    assert several["translatedText"][::2] == [mixed[0].upper(), mixed[2]]
    assert [one["language"] for one in several["detectedLanguage"]][::2] == ["en", "de"]
    more = translate(shouting, "a", alternatives=2)[1]
    check_fields("translate alternatives", more)
    assert more["alternatives"] == ["A (2)", "A (3)"]
    assert translate(shouting, ["a"], alternatives=1)[1]["alternatives"] == [["A (2)"]]
    for path in ("languages", "detect", "frontend/settings"):
        body = None if path != "detect" else urlencode({"q": "Where is it?"}).encode()
        with urlopen(f"{shouting}/{path}", body, timeout=60) as answer:
            found = json.loads(answer.read())
        check_fields(path, found[0] if isinstance(found, list) else found)
    language = requests.get(f"{shouting}/frontend/settings", timeout=60).json()["language"]
    assert language["source"] == {"code": "en", "name": "English"}
    assert translate(shouting, "schon da", source="de")[1] == {"translatedText": "schon da"}


def test_files_come_back_as_their_kind(shouting: str) -> None:
    def send(name: str, data: str, source: str = "en") -> requests.Response:
        values = {"source": source, "target": "de"}
        files = {"file": (name, data.encode())}
        answer = requests.post(f"{shouting}/translate_file", values, files=files, timeout=60)
        if answer.status_code != 200:
            return answer
        check_fields("translate_file", answer.json())
        return requests.get(answer.json()["translatedFileUrl"], timeout=60)

    found = send("../app.po", 'msgid "Save"\nmsgstr ""\n')
    assert polib.pofile(found.text).find("Save").msgstr == "SAVE"
    assert found.headers["Content-Disposition"] == "attachment; filename*=UTF-8''app.po"
    assert send("a.json", '{"a": "b"}').text == '{"a": "B"}'
    many = json.dumps([f"text {i}" for i in range(150)])  # more than may wait
    assert send("a.json", f'{{"a": {many}}}').text == f'{{"a": {many.upper()}}}'
    english = send("a.txt", "Nobody knows where the key is", source="auto").text
    assert english == "NOBODY KNOWS WHERE THE KEY IS"
    assert send("a.txt", "one\n\n  two\n").text == "ONE\n\n  TWO\n"
    assert send("a.html", "<p>one</p>").text == "<p>ONE</p>"
    bad = send("a.docx", "x")
    assert bad.status_code == 400 and "file format not supported" in bad.json()["error"]
    bad = send("a.json", "{")
    assert bad.status_code == 400 and bad.json()["error"].startswith("a.json, line 1: no JSON")
    assert requests.get(f"{shouting}/download_file/x.po", timeout=60).status_code == 404


def test_lines_margins_and_html_are_kept(shouting: str) -> None:
    assert translate(shouting, " a\n\n b c \n")[1]["translatedText"] == " A\n\n B C \n"
    html = (
        '<ul title="a > b">\n<li>one <b id="x>y">two</b>&amp;<br></li><script>var a</script></ul>'
    )
    found = translate(shouting, html, format="html")[1]["translatedText"]
    # The shouter changes tags, so that the texts between them are translated apart.
    assert found == html.replace("one", "ONE").replace("two", "TWO").replace("&amp;", "&AMP;")


@pytest.mark.parametrize("piece", ["<pre ", "<!-- >", "<p ", "<!", "<", " "])
def test_html_is_taken_apart_in_linear_time(piece: str) -> None:
    begin = time.process_time()
    for start in ("", "<b>a</b> "):
        text = start + piece * 100_000 + "end"
        assert translate_html(text, lambda sentence: sentence).endswith("end")
    assert time.process_time() - begin < 10


def test_html_that_is_not_closed_is_not_translated() -> None:
    assert translate_html("a<!-- b <p>c", str.upper) == "A<!-- b <p>c"
    assert translate_html("a<pre>b <i>c</i>", str.upper) == "A<pre>b <i>c</i>"
    assert translate_html("a\n<p> b </p>\n c", str.upper) == "A\n<p> B </p>\n C"
    assert translate_html("a <i> b </i> <u", str.lower) == "a <i> b </i> <u"


def test_requests_that_arrive_together_are_translated_together() -> None:
    translator = Shouter(seconds=0.1)
    with served(translator, batch_wait=0.02) as url, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: translate(url, f"text {i}"), range(24)))
    assert [answer["translatedText"] for _, answer, _ in answers] == [
        f"TEXT {i}" for i in range(24)
    ]
    assert sum(translator.batches) == 24 and len(translator.batches) < 8


def test_a_text_is_the_same_alone_and_among_others() -> None:
    """The shipped model computes in int8, where a shared scale would change the text."""
    translator = load_translator(PRETRAINED)
    words = ["the", "light", "kitchen", "is", "on", "device", "failed", "to", "connect", "update"]
    texts = [" ".join(words[i : i + 2 + i % 7]) for i in range(len(words) - 1)] * 2
    alone = {text: translator.translate([text])[0].text for text in set(texts)}
    with served(translator, batch_wait=0.02) as url, ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda text: translate(url, text)[1]["translatedText"], texts)
        assert list(found) == [alone[text] for text in texts]


def test_one_bad_request_fails_alone() -> None:
    with served(Shouter(seconds=0.05), batch_wait=0.05) as url, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda q: translate(url, q), ["a", "bug", "b", "long"]))
    assert [status for status, _, _ in answers] == [200, 500, 200, 400]
    assert answers[1][1] == {"error": "Cannot translate text: internal error"}  # and no path


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"q": ""}, "missing q"),
        ({"q": {"a": 1}}, "q must be a string or a list of strings"),
        ({"q": ["a", 3]}, "q must be a string or a list of strings"),
        ({"q": "\ud800"}, "q is no Unicode text"),
        ({"source": ["en"]}, "missing source"),
        ({"target": ""}, "missing target"),
        ({"source": "xx"}, "xx is not supported"),
        ({"source": "de", "target": "en"}, r"English \(en\) is not available as a target"),
        ({"format": "pdf"}, "pdf format is not supported"),
        ({"alternatives": "many"}, "alternatives must be a whole number"),
        ({"alternatives": 99}, "alternatives must be a whole number"),
        ({"q": "a" * 101}, r"request \(101\) exceeds text limit \(100\)"),
    ],
)
def test_faults_are_named_in_a_sentence(shouting: str, values: dict, error: str) -> None:
    status, answer, _ = translate(shouting, **{"q": "a", **values})
    assert status == 400 and re.search(error, answer["error"]), answer
    check_fields("error", answer)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"q":', b"\xff", b"[" * 5000])
def test_a_body_that_is_no_json_is_refused(shouting: str, body: bytes) -> None:
    answer = requests.post(
        f"{shouting}/translate", body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid JSON format"})


def test_a_long_request_leaves_room_for_others_and_ends_at_its_time_out() -> None:
    translator, lines = Shouter(seconds=0.1), [f"line {i}" for i in range(200)]
    with served(translator, batch=2, timeout=2.0) as url, ThreadPoolExecutor(2) as pool:
        file = {"file": ("a.txt", "\n".join(lines).encode())}
        values = {"source": "en", "target": "de"}
        slow = pool.submit(translate, url, lines)
        file_url = f"{url}/translate_file"
        sent = pool.submit(requests.post, file_url, values, files=file, timeout=60)
        time.sleep(0.3)
        assert translate(url, "a")[:2] == (200, {"translatedText": "A"})
        assert (slow.result()[0], sent.result().status_code) == (503, 503)
        time.sleep(0.3)
        begun = len(translator.batches)
        time.sleep(0.3)
        assert len(translator.batches) == begun < 40 and max(translator.batches) == 2


def test_languages_that_cannot_be_detected_are_told() -> None:
    translator = Shouter()
    translator.source_language, translator.target_language = "en-GB", "pt-BR"
    with served(translator) as url:
        status, answer, _ = translate(url, "a", source="auto", target="pt-BR")
    assert status == 400 and answer["error"].endswith("can be detected: name the source")


def test_limits_of_body_queue_and_time() -> None:
    with served(Shouter(seconds=0.5), body=2000, queue=3, timeout=1.2, batch=1) as url:
        status, answer, _ = translate(url, "a" * 3000)
        assert (status, answer) == (413, {"error": "The request has more than 2000 bytes"})
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: translate(url, f"a{i}"), range(8)))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429, 503}
    for status, answer, headers in answers:
        if status != 200:
            check_fields("error", answer)
            assert int(headers["retry-after"]) > 0
    # Where nobody waits any more nothing is translated.
    assert statuses.count(200) <= 3


def test_a_client_that_goes_away_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    with served(Shouter()) as url:
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            host, port = url.removeprefix("http://").split(":")
            head = f"POST /translate HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        while b'status="400"' not in urlopen(f"{url}/metrics", timeout=60).read():
            time.sleep(0.01)
    assert "a request failed" not in caplog.text


def test_api_keys_and_origins() -> None:
    settings = {"api_keys": ("sesame", "ключ"), "origins": ("https://a.example",)}
    with served(Shouter(), batch_wait=0, **settings) as url:
        assert translate(url, "a")[0] == 400
        assert translate(url, "a", api_key="sesam")[:2] == (403, {"error": "Invalid API key"})
        assert translate(url, "a", api_key=["sesame"])[0] == 400
        assert translate(url, "a", api_key="ключ")[0] == 200
        assert LibreTranslateAPI(url, "sesame").translate("a", "en", "de") == "A"
        assert requests.get(f"{url}/frontend/settings", timeout=60).json()["keyRequired"] is True
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            answer = requests.get(f"{url}/languages", headers={"Origin": origin}, timeout=60)
            assert ("access-control-allow-origin" in answer.headers) is allowed


def test_an_address_that_is_not_free_is_told_before_a_model_is_loaded(script: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = script("serve", "--port", port, "--model", "nowhere")
        assert outcome.status == 2 and outcome.err.count("\n") == 1
        assert f"--port {port}: the server cannot listen there (Address already in" in outcome.err
    outcome = script("serve", "--host", "192.0.2.1", "--model", "nowhere")
    assert outcome.status == 2 and "--host 192.0.2.1 --port 5000" in outcome.err


def test_keys_are_lines_of_a_file_but_for_comments(tmp_path: Path) -> None:
    place = tmp_path / "keys"
    place.write_bytes("\ufeff# ours\r\n sesame \r\n\r\n  # theirs\r\nключ\r\n".encode())
    assert read_keys(str(place)) == ("sesame", "ключ")
    for content, error in ((b"# none\n", "has no key"), (b"\xff", "not UTF-8")):
        place.write_bytes(content)
        with pytest.raises(VqnmtError, match=error):
            read_keys(str(place))
    with pytest.raises(VqnmtError, match="nowhere: there is no such file"):
        read_keys("nowhere")


def test_health_metrics_and_no_cross_origin_by_default(shouting: str) -> None:
    answer = requests.get(f"{shouting}/health", headers={"Origin": "https://a.example"}, timeout=60)
    assert answer.json() == {"status": "ok"}
    assert "access-control-allow-origin" not in answer.headers
    translate(shouting, "abcd")
    found = requests.get(f"{shouting}/metrics", timeout=60).text
    assert re.search(r'vqnmt_requests_total\{path="/translate",status="200"\} [1-9]', found)
    for name in ("vqnmt_request_seconds_bucket", "vqnmt_batch_sentences_sum", "vqnmt_waiting"):
        assert name in found


def test_two_models_of_one_pair_are_refused() -> None:
    with pytest.raises(VqnmtError, match="two models translate en to de"):
        create_app([Shouter(), Shouter()])  # type: ignore[list-item]


@contextmanager
def process(*arguments: object) -> Iterator[SimpleNamespace]:
    """Run scripts/serve.py on a free port."""
    command = [sys.executable, "scripts/serve.py", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        try:
            lines = []
            for line in running.stderr:
                lines.append(line)
                if found := re.search(r"running on (http://[\d.:]+)", line):
                    break
            else:
                pytest.fail("".join(lines))
            yield SimpleNamespace(url=found[1], popen=running)
        finally:
            running.kill()


async def ask_until_closed(port: int, answers: list[tuple[int, bytes]]) -> bool:
    """Send one request after the other; say whether one that was accepted has no whole answer.

    The server says by "100 Continue" that it has accepted a request.
    """
    body = json.dumps({"q": ["the light"] * 4, "source": "en", "target": "de"}).encode()
    head = (
        "POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            accepted = False
            writer.write(head.encode())
            accepted = (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(body)
            found = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", found)
            answers.append((int(found.split()[1]), await reader.readexactly(int(length[1]))))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return accepted or bool(getattr(error, "partial", b""))
    finally:
        writer.close()


def test_a_stop_answers_what_was_accepted() -> None:
    answers: list[tuple[int, bytes]] = []

    async def load(server: SimpleNamespace) -> list[bool]:
        port = int(server.url.rpartition(":")[2])
        clients = [asyncio.create_task(ask_until_closed(port, answers)) for _ in range(32)]
        while len(answers) < 64 and not any(client.done() for client in clients):
            await asyncio.sleep(0.01)
        server.popen.send_signal(signal.SIGTERM)
        return await asyncio.gather(*clients)

    with process("--batch", 8, "--timeout", 300) as server:
        assert not any(asyncio.run(load(server)))
        assert server.popen.wait(timeout=60) == 0
    assert len(answers) > 64, "all was answered before the stop"
    assert {status for status, _ in answers} == {200}
    assert all(len(json.loads(body)["translatedText"]) == 4 for _, body in answers)


def test_the_steps_of_the_dockerfile_fit_the_project() -> None:
    """Docker builds it elsewhere; here its files, its extra and its command are there."""
    steps = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    for line in re.findall(r"^COPY (.+) \S+$", steps, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    (extra,) = re.findall(r'"\.\[(\w+)\]"', steps)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extra in config["optional-dependencies"]
    command, *arguments = json.loads(re.findall(r"^ENTRYPOINT (.+)$", steps, re.MULTILINE)[0])
    assert command in config["scripts"]
    result = subprocess.run(
        [sys.executable, "-m", command, *arguments, "--help"], cwd=ROOT, check=False
    )
    assert result.returncode == 0
