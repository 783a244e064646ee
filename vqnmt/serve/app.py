"""The web application: LibreTranslate's API, measurements, and the page."""

import asyncio
import contextlib
import functools
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as latest
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.localization.files import SNIFFED
from vqnmt.serve.batching import Batcher, QueueFull
from vqnmt.serve.codes import alternatives, beam, inspect_codes
from vqnmt.serve.documents import (
    ENDINGS,
    Documents,
    Lookup,
    document_texts,
    sentences,
    translate_document,
    translate_html,
    translate_text,
)
from vqnmt.serve.languages import NAMES, Identifier
from vqnmt.serve.settings import ServerSettings
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.code_index import CodeIndex, read_code_index
from vqnmt.translate.translation import Translation

MOST_ALTERNATIVES = 10
# Characters of a text whose language is not told by itself, as in LibreTranslate.
_SHORT = 40
_log = logging.getLogger("vqnmt.serve")
STATIC = resources.files("vqnmt.serve") / "static"


class Pair:
    """A model at work: its languages and its batches."""

    def __init__(
        self, translator: BatchTranslator, settings: ServerSettings, observe: Callable[[int], None]
    ) -> None:
        translator.on_long = "split"
        self.translator = translator
        self.languages = translator.source_language, translator.target_language
        self.batcher = Batcher(
            self._work,
            wait=settings.batch_wait,
            batch=settings.batch,
            queue=settings.queue,
            observe=observe,
        )

    @functools.cached_property
    def code_index(self) -> CodeIndex:
        """What each code often writes; empty where the model's folder does not say it."""
        folder = self.translator.folder
        try:
            return read_code_index(folder) if folder else {}
        except VqnmtError as error:
            _log.warning("%s", error)
            return {}

    def _work(self, sentences: list[str], candidates: int) -> list[list[Translation]]:
        return self.translator.n_best(sentences, SearchSettings(candidates=candidates))

    async def translate(
        self, sentences: Sequence[str], candidates: int = 1
    ) -> list[list[Translation]]:
        """Translate sentences, however many: a batch after the other, other requests' in between.

        After a time-out no further batch is begun.
        """
        size, found = self.batcher.batch, list[list[Translation]]()
        for start in range(0, len(sentences), size):
            found += await self.batcher.translate(sentences[start : start + size], candidates)
        return found


class Server:
    """What the routes share."""

    def __init__(self, translators: Sequence[BatchTranslator], settings: ServerSettings) -> None:
        self.settings = settings
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("vqnmt_requests", "Requests", ["path", "status"], **named)
        self.seconds = Histogram("vqnmt_request_seconds", "Time to answer", ["path"], **named)
        self.characters = Counter("vqnmt_characters", "Characters translated", **named)
        batches = Histogram(
            "vqnmt_batch_sentences", "Sentences a batch", buckets=(1, 2, 4, 8, 16, 32, 64), **named
        )
        pairs = [Pair(translator, settings, batches.observe) for translator in translators]
        self.pairs = {pair.languages: pair for pair in pairs}
        if len(self.pairs) < len(pairs):
            twice = next(p.languages for p in pairs if self.pairs[p.languages] is not p)
            raise VqnmtError(f"two models translate {twice[0]} to {twice[1]}: give one of them")
        waiting = Gauge("vqnmt_waiting_sentences", "Sentences that wait", **named)
        waiting.set_function(lambda: sum(pair.batcher.waiting for pair in pairs))
        self.documents = Documents()
        self.identifier: Identifier | None = None
        with contextlib.suppress(ImportError):
            self.identifier = Identifier({code for pair in self.pairs for code in pair})

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Translate while the server runs; it stops when all requests are answered."""
        tasks = [asyncio.create_task(pair.batcher.run()) for pair in self.pairs.values()]
        yield
        for task in tasks:
            task.cancel()

    # --- what every request must have -------------------------------------------------------------

    async def values(self, request: Request) -> dict[str, Any]:
        """Read a request's values from JSON, a form or the query, and check its key."""
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            try:
                values = await request.json()
            except (ValueError, RecursionError) as error:
                raise HTTPException(400, "Invalid JSON format") from error
            if not isinstance(values, dict):
                raise HTTPException(400, "Invalid JSON format")
        else:
            form = await request.form(max_files=1, max_fields=100)
            values = {**request.query_params, **form}
        keys = self.settings.api_keys
        if keys:
            given = values.get("api_key")
            if not given or not isinstance(given, str):
                raise HTTPException(400, "An API key is needed: give api_key")
            fits = [hmac.compare_digest(_bytes(given), _bytes(key)) for key in keys]
            if not any(fits):
                raise HTTPException(403, "Invalid API key")
        return values

    def texts(self, values: dict[str, Any]) -> list[str]:
        """Return the texts of `q`, checked."""
        q = values.get("q")
        if not q:
            raise HTTPException(400, "Invalid request: missing q parameter")
        texts = q if isinstance(q, list) else [q]
        if not all(isinstance(text, str) for text in texts):
            raise HTTPException(400, "Invalid request: q must be a string or a list of strings")
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise HTTPException(400, "Invalid request: q is no Unicode text") from error
        count, most = sum(map(len, texts)), self.settings.characters
        if count > most:
            raise HTTPException(
                400, f"Invalid request: request ({count}) exceeds text limit ({most})"
            )
        return texts

    def pair(self, values: dict[str, Any], text: str) -> tuple[Pair | None, Any]:
        """Return the model for a text, None where nothing is to be done, and what was detected.

        Raises:
            HTTPException: A language is missing or unknown, or cannot be detected.
        """
        source, target = _text(values, "source"), _text(values, "target")
        known = {code for pair in self.pairs for code in pair}
        detected: dict[str, Any] | None = None
        if source == "auto":
            detected = self.detect(text)[0]
            source = detected["language"]
        for code in (source, target):
            if code not in known:
                raise HTTPException(400, f"{code[:20]} is not supported")
        if source == target:
            return None, detected
        if (source, target) not in self.pairs:
            names = [f"{NAMES.get(code, code)} ({code})" for code in (target, source)]
            raise HTTPException(
                400, f"{names[0]} is not available as a target language from {names[1]}"
            )
        return self.pairs[source, target], detected

    def detect(self, text: str) -> list[dict[str, Any]]:
        """Return the languages that a text may be in, the likeliest first; one at least."""
        if self.identifier is None:
            raise HTTPException(
                400, "Languages cannot be detected here: name the source, or install py3langid"
            )
        found = self.identifier.detect(text)
        if not found:
            raise HTTPException(
                400, "None of the models' languages can be detected: name the source"
            )
        return found

    # --- LibreTranslate's API ---------------------------------------------------------------------

    async def translate(self, request: Request) -> Response:
        """POST /translate."""
        values = await self.values(request)
        texts = self.texts(values)
        html = _choice(values, "format", ("text", "html")) == "html"
        count = _whole(values, "alternatives", 0, MOST_ALTERNATIVES)
        # A short text tells little: the others of the request are likely to be in its language.
        whole = " ".join(texts)
        chosen = [self.pair(values, text if len(text) > _SHORT else whole) for text in texts]
        found = [[text] for text in texts]
        change = translate_html if html else translate_text
        for pair in dict.fromkeys(pair for pair, _ in chosen if pair is not None):
            own = [i for i, (its, _) in enumerate(chosen) if its is pair]
            asked = dict.fromkeys(one for i in own for one in sentences(texts[i], change))
            results = await pair.translate(list(asked), 1 + count)
            known = dict(zip(asked, results, strict=True))
            for i in own:
                found[i] = _ranked(texts[i], change, known, 1 + count)
                self.characters.inc(len(texts[i]))
        many = isinstance(values["q"], list)
        answer: dict[str, Any] = {
            "translatedText": [row[0] for row in found] if many else found[0][0]
        }
        if values["source"] == "auto":
            detected = [its for _, its in chosen]
            answer["detectedLanguage"] = detected if many else detected[0]
        if count:
            further = [row[1:] for row in found]
            answer["alternatives"] = further if many else further[0]
        return JSONResponse(answer)

    async def languages(self, request: Request) -> Response:
        """GET /languages."""
        codes = dict.fromkeys(code for pair in self.pairs for code in pair)
        return JSONResponse(
            [
                {
                    "code": code,
                    "name": NAMES.get(code, code),
                    "targets": sorted({code, *(t for s, t in self.pairs if s == code)}),
                }
                for code in codes
            ]
        )

    async def detect_language(self, request: Request) -> Response:
        """POST /detect."""
        values = await self.values(request)
        return JSONResponse(self.detect(" ".join(self.texts(values))))

    async def translate_file(self, request: Request) -> Response:
        """POST /translate_file."""
        values = await self.values(request)
        file = values.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            raise HTTPException(400, "Invalid request: missing file parameter")
        data = await file.read()
        pair, _ = self.pair(values, data[:SNIFFED].decode(errors="replace"))
        if pair is not None:
            document = data, file.filename, pair.languages
            asked = await asyncio.to_thread(document_texts, *document)
            known = dict(zip(asked, await pair.translate(asked), strict=True))
            data = await asyncio.to_thread(
                translate_document, *document, lambda texts: [known[text][0].text for text in texts]
            )
        name = self.documents.keep(file.filename, data)
        url = request.url_for("download_file", name=name)
        return JSONResponse({"translatedFileUrl": str(url)})

    async def download_file(self, request: Request) -> Response:
        """GET /download_file/NAME."""
        return self.documents.response(request.path_params["name"])

    async def frontend_settings(self, request: Request) -> Response:
        """GET /frontend/settings."""
        source, target = next(iter(self.pairs))
        return JSONResponse(
            {
                "apiKeys": bool(self.settings.api_keys),
                "charLimit": self.settings.characters,
                "filesTranslation": True,
                "frontendTimeout": 500,
                "keyRequired": bool(self.settings.api_keys),
                "language": {
                    "source": {"code": source, "name": NAMES.get(source, source)},
                    "target": {"code": target, "name": NAMES.get(target, target)},
                },
                "suggestions": False,
                "supportedFilesFormat": list(ENDINGS),
            }
        )

    # --- the page ------------------------------------------------------------------------------

    async def codes(self, request: Request) -> Response:
        """POST /codes: a sentence's translation with its codes and what each of them writes."""
        pair, text, values = await self.sentence(request)
        given = _numbers(values, "codes") if values.get("codes") is not None else None
        complete = bool(values.get("complete"))
        count = _whole(values, "alternatives", 0, MOST_ALTERNATIVES)
        start = time.perf_counter()
        answer = await pair.batcher.call(
            lambda: inspect_codes(pair.translator, text, given, complete, pair.code_index)
        )
        answer["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
        if count:
            found = await pair.batcher.call(lambda: beam(pair.translator, text, 1 + count))
            answer["sentences"] = found
        return JSONResponse(answer)

    async def code_alternatives(self, request: Request) -> Response:
        """POST /codes/alternatives: the likeliest codes at a position of a sentence."""
        pair, text, values = await self.sentence(request)
        codes = _numbers(values, "codes")
        position = _whole(values, "position", 0, 10_000)
        complete = bool(values.get("complete"))
        return JSONResponse(
            await pair.batcher.call(
                lambda: alternatives(pair.translator, text, codes, position, complete)
            )
        )

    async def sentence(self, request: Request) -> tuple[Pair, str, dict[str, Any]]:
        """Read a request about one sentence."""
        values = await self.values(request)
        text = " ".join(" ".join(self.texts(values)).split())
        pair, _ = self.pair(values, text)
        if pair is None:
            raise HTTPException(400, "source and target are one language")
        return pair, text, values

    # --- operation --------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """GET /health."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def measured(
        self, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Count and time what a route answers, and turn faults into answers of one sentence."""

        async def answer(request: Request) -> Response:
            start, path = time.perf_counter(), request.scope["route"].path
            response = await self._answer(handle, request)
            self.requests.labels(path, response.status_code).inc()
            self.seconds.labels(path).observe(time.perf_counter() - start)
            return response

        return answer

    async def _answer(
        self, handle: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Response:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await handle(request)
        except HTTPException as error:
            return _error(error.status_code, error.detail)
        except QueueFull:
            return _error(429, "Slowdown: too many requests wait", {"Retry-After": "1"})
        except ClientDisconnect:  # nobody reads this
            return _error(400, "The request ended before its last byte")
        except TimeoutError:
            return _error(503, "The translation takes too long", {"Retry-After": "5"})
        except VqnmtError as error:
            return _error(400, str(error))
        except Exception:
            _log.exception("a request failed")
            return _error(500, "Cannot translate text: internal error")


def _ranked(
    text: str,
    change: Callable[[str, Lookup], str],
    known: Mapping[str, list[Translation]],
    most: int,
) -> list[str]:
    """Return up to `most` translations of a text that differ, the best first."""

    def lookup(rank: int) -> Lookup:
        return lambda sentence: known[sentence][: rank + 1][-1].text

    return list(dict.fromkeys(change(text, lookup(rank)) for rank in range(most)))


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not value or not isinstance(value, str):
        raise HTTPException(400, f"Invalid request: missing {key} parameter")
    return value


def _numbers(values: dict[str, Any], key: str) -> list[int]:
    found = values.get(key)
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise HTTPException(400, f"Invalid request: {key} must be a list of whole numbers")
    return found


def _choice(values: dict[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = values.get(key) or choices[0]
    if value not in choices:
        raise HTTPException(400, f"{str(value)[:20]} {key} is not supported")
    return str(value)


def _whole(values: dict[str, Any], key: str, least: int, most: int) -> int:
    value = values.get(key) or least
    with contextlib.suppress(ValueError, TypeError):
        if not isinstance(value, bool | float) and least <= int(value) <= most:
            return int(value)
    raise HTTPException(400, f"Invalid request: {key} must be a whole number, {least} to {most}")


class BodyLimit:
    """Refuses bodies of more than `most` bytes, announced or not."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count the bytes of its body."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(413, f"The request has more than {self.most} bytes")
            return message

        await self.app(scope, counted, send)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, dict(error.headers or {}))


def create_app(
    translators: Sequence[BatchTranslator], settings: ServerSettings | None = None
) -> Starlette:
    """Return the application that serves these models, each for its pair of languages.

    Raises:
        VqnmtError: Two models have the same languages.
    """
    settings = settings or ServerSettings()
    server = Server(translators, settings)

    def route(path: str, handle: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        return Route(path, server.measured(handle), methods=[method], name=handle.__name__)

    routes: list[BaseRoute] = [
        route("/translate", server.translate, "POST"),
        route("/languages", server.languages, "GET"),
        route("/detect", server.detect_language, "POST"),
        route("/translate_file", server.translate_file, "POST"),
        route("/download_file/{name}", server.download_file, "GET"),
        route("/frontend/settings", server.frontend_settings, "GET"),
        route("/codes", server.codes, "POST"),
        route("/codes/alternatives", server.code_alternatives, "POST"),
        route("/health", server.health, "GET"),
        route("/metrics", server.metrics, "GET"),
        Mount("/", StaticFiles(directory=str(STATIC), html=True)),
    ]
    middleware = [Middleware(BodyLimit, most=settings.body)]
    if settings.origins:
        cors = Middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"]
        )
        middleware.insert(0, cors)
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=server.lifespan,
        exception_handlers={HTTPException: _not_found},
    )
