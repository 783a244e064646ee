"""Load `vqnmt serve` on this machine by wrk (Debian: apt-get install wrk); record what it does.

python scripts/benchmark_server.py [--model DIR] [--seconds 60] [--results FILE]

Connections on loopback each send one made-up sentence after the other: to a server as it is by
default, which then answers --requests of them while its memory is watched, and is stopped by
SIGTERM under load; to one without batches; and to one whose queue is too short. Nothing else should
run on the machine.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep
from urllib.request import ProxyHandler, build_opener

from vqnmt.commands.command_line import PLACE, Options, run, whole

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import Metric, new_record, write_records
from vqnmt.experiments.tables import server_table

# The requests, and what wrk prints at the end: one line of JSON, times in microseconds.
LUA = """
local words = {"the", "light", "kitchen", "is", "on", "device", "failed", "update", "door", "open"}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  local text = {}
  for i = 1, math.random(3, 12) do text[i] = words[math.random(#words)] end
  local body = '{"q":"' .. table.concat(text, " ") .. '","source":"en","target":"de"}'
  return wrk.format(nil, "/translate", nil, body)
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,' ..
    '"connect":%d,"lost":%d,"refused":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read + errors.write + errors.timeout, errors.status))
end
"""
# Requests after which the reading of CTC's output is compiled, where numba is installed.
WARMUP = 2000
# Requests between two looks at the memory.
STEP = 10_000


class Server:
    """A server in a process of its own, and wrk."""

    def __init__(self, process: subprocess.Popen[str], url: str, connections: int) -> None:
        self.process, self.url, self.connections = process, url, connections

    def load(self, script: Path, *, seconds: int = 3600, requests: int = 0) -> dict[str, int]:
        """Load it for some seconds, or until it has answered a number of requests."""
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "60s"]
        wanted = sum(self.statuses().values()) + requests if requests else 0
        with subprocess.Popen(
            [*command, "-s", str(script), self.url], stdout=subprocess.PIPE, text=True
        ) as wrk:
            while wanted and sum(self.statuses().values()) < wanted:
                sleep(0.1)
            if wanted:
                wrk.send_signal(signal.SIGINT)
            output, _ = wrk.communicate()
        values: dict[str, int] = json.loads(output.splitlines()[-1])
        return values

    def statuses(self) -> dict[str, int]:
        """Return how many requests each status has answered so far."""
        with build_opener(ProxyHandler({})).open(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        pattern = r'vqnmt_requests_total\{path="/translate",status="(\d+)"\} ([\d.e+]+)'
        return {status: int(float(count)) for status, count in re.findall(pattern, text)}

    @property
    def rss_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@contextlib.contextmanager
def serving(model: str, connections: int, *options: str) -> Iterator[Server]:
    """Run a server on a free port."""
    command = [sys.executable, "-m", "vqnmt", "serve", "--model", model, "--port", "0", *options]
    with (
        tempfile.NamedTemporaryFile("w") as log,
        subprocess.Popen(command, stderr=log, text=True) as process,
    ):
        try:
            while not (found := re.search(r"running on (http://[\d.:]+)", _content(log.name))):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                    raise VqnmtError(f"the server does not start: {_content(log.name).strip()}")
            yield Server(process, found[1], connections)
        finally:
            process.kill()


def _content(path: str) -> str:
    return Path(path).read_text("utf-8")


def main(arguments: list[str]) -> None:
    """Measure, print the table, and write the records."""
    parser = Options(__doc__)
    parser.add_argument("--model", type=PLACE, default="pretrained/en-de")
    parser.add_argument("--seconds", type=whole(1, 3600), default=60, help="of each measurement")
    parser.add_argument("--connections", type=whole(1, 1000), default=64)
    parser.add_argument("--requests", type=whole(1, 10**9), default=50_000, help="for the memory")
    parser.add_argument("--warmup", type=whole(1, 10**6), default=WARMUP, help="requests before")
    parser.add_argument("--results", type=PLACE, help="file for the records")
    options = parser.parse_args(arguments)
    started, load = perf_counter(), os.getloadavg()[0]
    systems: dict[str, dict[str, Metric]] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "requests.lua"
        script.write_text(LUA, "utf-8")
        for system, *further in (
            ("batches",),
            ("no_batches", "--batch", "1", "--batch-wait", "0"),
            ("short_queue", "--queue", str(max(options.connections // 8, 1))),
        ):
            with serving(options.model, options.connections, *further) as server:
                server.load(script, requests=options.warmup)
                before = server.statuses()
                values = server.load(script, seconds=options.seconds)
                metrics = systems[system] = _metrics(values, before, server.statuses())
                if system == "batches":
                    metrics |= _watch_memory(server, script, options.requests)
                    metrics["stop.status"] = _stop(server, script, min(options.seconds, 4))
    ratio = [float(systems[name]["requests_per_second"]) for name in ("batches", "no_batches")]
    systems["batches"]["speedup_over_no_batches"] = ratio[0] / ratio[1]
    records = [
        new_record(
            system=system,
            corpus="made-up en-de",
            overrides=[f"connections={options.connections}", f"seconds={options.seconds}"],
            seed=1,
            parameters=0,
            wall_seconds=perf_counter() - started,
            metrics={**metrics, "cores": os.cpu_count() or 0, "load_average_before": load},
        )
        for system, metrics in systems.items()
    ]
    print(server_table(records))
    if options.results:
        write_records(options.results, records)


def _metrics(
    values: dict[str, int], before: dict[str, int], after: dict[str, int]
) -> dict[str, Metric]:
    answered = {status: count - before.get(status, 0) for status, count in after.items()}
    return {
        "requests_per_second": 1e6 * answered.get("200", 0) / values["microseconds"],
        "latency_ms.median": values["p50"] / 1000,
        "latency_ms.p99": values["p99"] / 1000,
        "answered": answered.get("200", 0),
        "refused": answered.get("429", 0),
        "other_statuses": sum(answered.values()) - sum(answered.get(s, 0) for s in ("200", "429")),
        "socket_errors": values["connect"] + values["lost"],
    }


def _watch_memory(server: Server, script: Path, requests: int) -> dict[str, Metric]:
    """Return the resident memory before and after each step of the requests."""
    found: dict[str, Metric] = {"rss_mb.0": server.rss_mb}
    for done in range(0, requests, STEP):
        step = min(STEP, requests - done)
        server.load(script, requests=step)
        found[f"rss_mb.{done + step}"] = server.rss_mb
    return found


def _stop(server: Server, script: Path, seconds: int) -> int:
    """Stop the server while it is loaded; return its exit status.

    wrk does not tell what is lost from what is refused afterwards; a test of the server does.
    """
    stop = f"sleep {seconds / 2}; kill -TERM {server.process.pid}"
    with subprocess.Popen(["sh", "-c", stop]):
        server.load(script, seconds=seconds)
    return server.process.wait(60)


if __name__ == "__main__":
    run(main)
