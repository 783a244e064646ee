"""The engines side by side: PyTorch, CTranslate2 and ONNX Runtime on the same models and text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqnmt.data.corpus import ParallelText
from vqnmt.evaluation.footprint import measure_footprint
from vqnmt.evaluation.latency import measure_latency, speedup
from vqnmt.evaluation.latency_table import BATCHES, ratios_to_peers
from vqnmt.evaluation.records import Metric
from vqnmt.evaluation.scores import score
from vqnmt.evaluation.speed import time_in_turn
from vqnmt.export.folder import PRECISIONS, export_model
from vqnmt.translation import BatchTranslator, load_translator

# Sentences that the process translates whose memory is measured.
_FOOTPRINT_SENTENCES = 50


@dataclass(frozen=True, slots=True)
class EngineSystem:
    """A loaded model folder of any kind and how it searches."""

    folder: Path
    source: Path
    """The model folder that it was exported from, or is."""
    translator: BatchTranslator
    beam: int

    def one(self, sentence: str) -> str:
        """Translate one sentence from string to string: what the clock sees."""
        return self.translator.translate([sentence], beam=self.beam)[0].text


def engine_systems(
    models: Mapping[str, Path], exports: Path, threads: int
) -> dict[str, EngineSystem]:
    """Export and load every model for every engine.

    Args:
        models: Model folders by label: `student` is a latent model, all others autoregressive.
        exports: Folder for the exports.
        threads: Of the exported engines; PyTorch's are the process's own.

    Returns:
        By name. Of the label `ar`: `ar_greedy`, `ar_beam4`, `ctranslate2_fp32_greedy` and so on;
        of another autoregressive one: `<label>_greedy`, `<label>_ctranslate2_fp32_greedy` ...; of
        the student: `student`, `student_onnx_fp32`, `student_onnx_int8`.
    """
    systems = {}
    for label, model in models.items():
        latent = label == "student"
        engine = "onnx" if latent else "ctranslate2"
        folders = {label: model}
        for precision in PRECISIONS:
            prefix = "" if label == "ar" else f"{label}_"
            name = f"{prefix}{engine}_{precision}"
            folders[name] = exports / name
            export_model(model, folders[name], precision)
        for name, folder in folders.items():
            translator = load_translator(folder, "cpu", threads)
            searches = {"": 1} if latent else {"_greedy": 1, "_beam4": 4}
            for suffix, beam in searches.items():
                systems[name + suffix] = EngineSystem(folder, model, translator, beam)
    return systems


def measure_engines(
    systems: Mapping[str, EngineSystem],
    text: ParallelText,
    *,
    test_set: str,
    rounds: int,
    threads: int,
) -> dict[str, dict[str, Metric]]:
    """Measure latency, throughput, footprint and BLEU of every system.

    Args:
        systems: By name; `ar_beam4` is the baseline of `speedup_over_ar_beam4`.
        text: Sources and references.
        test_set: Its name.
        rounds: How often each sentence and each batch is timed.
        threads: Of the engines, for the processes whose memory is measured.
    """
    metrics: dict[str, dict[str, Metric]] = {name: {} for name in systems}
    timed = measure_latency({k: v.one for k, v in systems.items()}, text.sources, rounds=rounds)
    for name, latency in timed.items():
        language = systems[name].translator.target_language
        scores = score(latency.translations, text.targets, language)
        metrics[name] |= {
            f"bleu.{test_set}": scores.bleu,
            f"chrf.{test_set}": scores.chrf,
            "bleu_signature": scores.bleu_signature,
            "chrf_signature": scores.chrf_signature,
            "latency_ms.median": latency.median_ms,
            "latency_ms.p90": latency.p90_ms,
            "latency_ms.p99": latency.p99_ms,
            "latency_ms.mean": latency.mean_ms,
            "latency_sentences": latency.sentences,
            "latency_rounds": latency.rounds,
            "speedup_over_ar_beam4": speedup(timed["ar_beam4"], latency),
        }
    for size in BATCHES:
        batches = [text.sources[i : i + size] for i in range(0, len(text), size)]
        times = time_in_turn({k: _translates(v, batches) for k, v in systems.items()}, rounds)
        for name, seconds in times.items():
            rate = len(text) / float(np.median(seconds))
            metrics[name][f"sentences_per_second.batch_{size}"] = rate
    for name, system in systems.items():
        sentences = list(text.sources[:_FOOTPRINT_SENTENCES])
        found = measure_footprint(system.folder, sentences, beam=system.beam, threads=threads)
        metrics[name]["load_seconds"] = found.load_seconds
        metrics[name]["peak_memory_bytes"] = found.peak_memory_bytes
        files = [path for path in system.folder.rglob("model*") if path.is_file()]
        metrics[name]["model_bytes"] = sum(
            path.stat().st_size
            for path in files
            if path.suffix in (".safetensors", ".onnx", ".bin")
        )
    for name, ratios in ratios_to_peers(metrics).items():
        metrics[name] |= ratios
    return metrics


def _translates(system: EngineSystem, batches: list) -> Callable[[], None]:
    def work() -> None:
        for batch in batches:
            system.translator.translate(batch, beam=system.beam)

    return work
