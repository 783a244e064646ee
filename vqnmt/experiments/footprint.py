"""Time to load and peak memory of a system, measured in a fresh process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqnmt.evaluation.records import Metric

# Run by a new interpreter: imports count, and no other system's memory does.
_PROBE = """
import json, resource, sys, time
start = time.perf_counter()
folder, device, threads, beam = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from vqnmt.translate.loading import load_translator
options, rescorer = json.loads(sys.argv[5]), sys.argv[6]
translator = load_translator(folder, device, threads, **options)
search = {"beam": beam}
if rescorer:
    search["candidates"] = beam
    search["rescorer"] = load_translator(rescorer, device, threads, **options)
sentences = json.loads(sys.stdin.read())
for sentence in sentences[:1]:
    translator.translate([sentence], **search)
load = time.perf_counter() - start
for sentence in sentences[1:]:
    translator.translate([sentence], **search)
try:  # Linux: getrusage would count the memory of the process that started this one
    status = open("/proc/self/status").read()
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([load, peak]))
"""


def measure_footprint(
    folder: Path | str,
    sentences: list[str],
    *,
    beam: int,
    threads: int,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    rescorer: Path | None = None,
) -> dict[str, Metric]:
    """Load a model folder of any kind in a process of its own, and translate `sentences`.

    Args:
        folder: See `vqnmt.translate.loading.load_translator`.
        sentences: One or more.
        beam: Beam of the search.
        threads: Threads of the engine.
        device: Where PyTorch runs.
        options: Further ones of `load_translator`.
        rescorer: Folder of the model that chooses among `beam` candidates, if any.

    Returns:
        `load_seconds`, from the start of the imports to the first translation; and
        `peak_memory_bytes`, the most memory that the process ever held resident.
    """
    arguments = [str(folder), device, str(threads), str(beam), json.dumps(dict(options or {}))]
    arguments.append(str(rescorer or ""))
    result = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments],
        input=json.dumps(sentences),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},  # PyTorch's threads, from its import
        cwd=Path(__file__).resolve().parent.parent.parent,
    )
    load, peak = json.loads(result.stdout.splitlines()[-1])
    return {"load_seconds": load, "peak_memory_bytes": peak}
