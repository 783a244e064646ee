"""Where the time of one translation goes, and the least time that its weights need.

It profiles an exported student at batch 1: parts outside the engine by the clock, parts inside by
ONNX Runtime's own profiler, which adds a little to every operator.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from vqnmt.decode.prefix_search import compiled_search
from vqnmt.evaluation.records import Metric
from vqnmt.experiments.tables import ENGINE_PARTS
from vqnmt.exporting.graph import FLOAT, Graph, model_proto
from vqnmt.models import LatentTransformer
from vqnmt.tokens import EOS, length_limit
from vqnmt.translate.exported import OnnxTranslator, onnx_session

_RUNS = 200


def profile_translation(
    folder: Path | str, model: LatentTransformer, sentences: Sequence[str], threads: int
) -> dict[str, Metric]:
    """Profile the translation of the sentence of median length.

    Args:
        folder: The export of `model`.
        model: The model whose weights are counted.
        sentences: A test set.
        threads: Threads of the engine.

    Returns:
        Medians in milliseconds: `ms.total` from string to string, and its parts `ms.tokenise`,
        `ms.engine`, `ms.detokenise` and `ms.python` (the rest); inside the engine
        `ms.engine.<part>` with `operators.<part>`; `floor_ms.arithmetic` and
        `floor_ms.bandwidth`, and the figures that they are computed from.
    """
    translator = OnnxTranslator.from_pretrained(folder, threads)
    compiled_search()
    rows = translator.vocabulary.encode(list(sentences))
    order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
    chosen = order[len(order) // 2]
    sentence, row = sentences[chosen], rows[chosen]
    (translation,) = translator.translate([sentence])
    inputs = {
        "source": np.array([[*row, EOS]]),
        "limits": np.array([length_limit(len(row)) // 2**model.config.compression + 1]),
    }
    session = onnx_session(Path(folder) / "model.onnx", threads)
    parts: dict[str, Callable[[], object]] = {
        "total": lambda: translator.translate([sentence]),
        "tokenise": lambda: translator.vocabulary.encode([sentence]),
        "engine": lambda: session.run(None, inputs),
        "detokenise": lambda: translator.vocabulary.decode([translation.tokens]),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_RUNS):
        for name, work in parts.items():
            start = perf_counter()
            work()
            times[name].append(1000 * (perf_counter() - start))
    metrics: dict[str, Metric] = {f"ms.{k}": statistics.median(v) for k, v in times.items()}
    inside = sum(float(metrics[f"ms.{name}"]) for name in ("tokenise", "engine", "detokenise"))
    metrics["ms.python"] = float(metrics["ms.total"]) - inside
    size = len(row) + 1, len(translation.codes), translation.length
    return {
        **metrics,
        **_inside(Path(folder) / "model.onnx", inputs, threads),
        **_floors(model, *size, threads, int8=_is_int8(Path(folder))),
        "source_tokens": len(row) + 1,
        "codes": len(translation.codes),
        "threads": threads,
    }


def _inside(path: Path, inputs: dict[str, np.ndarray], threads: int) -> dict[str, Metric]:
    """Time the operators of each part by ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(path, threads, f"{folder}/profile")
        for _ in range(_RUNS):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations.setdefault(event["name"], []).append(event["dur"] / 1000)
    metrics: dict[str, Metric] = {}
    for part in ENGINE_PARTS:
        own = [v for k, v in durations.items() if k.startswith(f"{part}/") and "/Loop/" not in k]
        # The first runs warm up, and a few are interrupted: the mean of the quicker half.
        metrics[f"ms.engine.{part}"] = sum(
            statistics.mean(sorted(values)[: len(values) // 2 + 1]) * len(values) / _RUNS
            for values in own
        )
        metrics[f"operators.{part}"] = round(sum(len(values) for values in own) / _RUNS)
    return metrics


def _floors(
    model: LatentTransformer, source: int, codes: int, steps: int, threads: int, int8: bool
) -> dict[str, Metric]:
    """Compute the time that the weights alone take at the rates that this machine reaches.

    Arithmetic: all products at the rate of one large product in the same precision. Bandwidth:
    every weight is read once, the predictor's weights once for each step, but for those whose
    input is constant in the first, at the rate of reading the same number of bytes repeatedly.
    """
    count = lambda *modules: sum(  # noqa: E731
        p.numel() for module in modules if module is not None for p in module.parameters()
    )
    codes = max(codes, 1)
    stages = model.config.compression
    positions = codes * 2**stages
    cross = sum(
        layer.source_attention.key_value.weight.numel()
        for layer in (*model.predictor.layers, *model.decoder.layers)
    )
    first: Any = model.predictor.layers[0]
    predictor = steps * count(model.predictor, model.code_output)
    predictor -= count(first.self_attention, first.source_attention.query)
    decompressor = [
        (count(block, doubling), codes * 2**i)
        for i, (block, doubling) in enumerate(
            zip(model.decompressor.blocks, model.decompressor.doublings, strict=True)
        )
    ]
    decoder = count(model.decoder, model.upsample, model.source_copy)
    output = model.embedding.outputs.numel()
    products = (
        count(model.encoder) * source
        + cross * (source - positions - steps)  # keys and values are made for source positions
        + predictor
        + sum(size * length for size, length in decompressor)
        + decoder * positions
        + output * positions * model.config.upsampling
    )
    weights = count(model.encoder) + predictor + decoder + output
    weights += sum(size for size, _ in decompressor)
    size = weights * (1 if int8 else 4)
    rate, bandwidth = _product_rate(int8, threads), _bandwidth(size)
    return {
        "floor_ms.arithmetic": 1000 * products / rate,
        "floor_ms.bandwidth": 1000 * size / bandwidth,
        "multiplications": products,
        "weight_bytes_read": size,
        "multiplications_per_second": rate,
        "bytes_per_second": bandwidth,
    }


def _product_rate(int8: bool, threads: int) -> float:
    """Measure multiplications a second of a (512, 1024) by (1024, 1024) product."""
    graph = Graph(int8)
    rng = np.random.default_rng(0)
    result = graph.product("x", rng.standard_normal((1024, 1024)).astype(np.float32))
    shape = (FLOAT, [512, 1024])
    session = onnx_session(
        model_proto(graph.proto({"x": shape}, {result: shape})).SerializeToString(), threads
    )
    x = rng.standard_normal((512, 1024)).astype(np.float32)
    return 512 * 1024 * 1024 / _quickest(lambda: session.run(None, {"x": x}))


def _bandwidth(size: int) -> float:
    """Measure bytes a second of reading `size` bytes again and again, on one thread."""
    values = np.ones(max(size // 8, 1), dtype=np.int64)
    return values.nbytes / _quickest(values.sum)


def _quickest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(30):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


def _is_int8(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config["precision"] == "int8")
