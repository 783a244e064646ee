"""Serve models: LibreTranslate's API and a page, on http://127.0.0.1:5000 (docs/serving.md).

vqnmt serve
vqnmt serve --model DIR --model DIR2 --host 0.0.0.0 --port 8080
"""

import signal
import socket
from collections.abc import Callable

from vqnmt.commands.command_line import PLACE, THREADS, Options, whole

from vqnmt.data.readers import read_lines
from vqnmt.errors import VqnmtError
from vqnmt.serve.settings import ServerSettings
from vqnmt.translate.loading import load_translator

MANY = whole(1, 2**31)
# The keys of `ServerSettings` that are options, each with its `type` and help.
LIMITS: dict[str, tuple[Callable[[str], float], str]] = {
    "batch_wait": (float, "seconds that a request waits for others"),
    "batch": (MANY, "most sentences translated together"),
    "queue": (MANY, "most sentences that wait"),
    "timeout": (float, "seconds that a request may take"),
    "characters": (MANY, "most characters of a request"),
    "body": (MANY, "most bytes of a request"),
}


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or Ctrl-C; what has been accepted is answered."""
    default = ServerSettings()
    parser = Options(__doc__)
    parser.add_argument("--model", type=PLACE, action="append", help="default: the shipped en-de")
    shown = "address; default: %(default)s, this machine alone; 0.0.0.0: all networks"
    parser.add_argument("--host", default="127.0.0.1", help=shown)
    parser.add_argument("--port", type=whole(0, 65535), default=5000, help="default: %(default)s")
    parser.add_argument("--api-keys", type=PLACE, metavar="FILE", help="one key a line")
    parser.add_argument("--origin", action="append", default=[], help="of pages that may call it")
    for key, (kind, words) in LIMITS.items():
        parser.add_argument(
            f"--{key.replace('_', '-')}",
            type=kind,
            default=getattr(default, key),
            help=f"{words}; default: %(default)s",
            metavar="N",
        )
    parser.add_argument("--device", help="cpu or cuda; default: a GPU where there is one")
    parser.add_argument("--threads", type=THREADS, help="of an exported model; default: all")
    options = parser.parse_args(arguments)
    settings = ServerSettings(
        **{key: getattr(options, key) for key in LIMITS},
        api_keys=read_keys(options.api_keys),
        origins=tuple(options.origin),
    )
    import uvicorn

    from vqnmt.serve.app import create_app

    _check_address(options.host, options.port)
    models = options.model or [None]
    translators = [load_translator(one, options.device, options.threads) for one in models]
    app = create_app(translators, settings)
    config = uvicorn.Config(
        app, host=options.host, port=options.port, log_level="info", access_log=False
    )
    server = uvicorn.Server(config)
    # It sends itself the signal again when all is answered; a stop without loss has status 0.
    signal.signal(signal.SIGTERM, server.handle_exit)
    server.run()


def _check_address(host: str, port: int) -> None:
    """Refuse an address that is not free or not of this machine, before a model is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise VqnmtError(
            f"--host {host} --port {port}: the server cannot listen there ({error.strerror}): give "
            "another, such as --port 5001"
        ) from error


def read_keys(path: str | None) -> tuple[str, ...]:
    """Read the API keys of a file; empty lines and comments are skipped."""
    if path is None:
        return ()
    lines = map(str.strip, read_lines(path))
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise VqnmtError(f"--api-keys {path}: has no key: give one a line")
    return keys
