"""The engines side by side: PyTorch, CTranslate2 and ONNX Runtime on the same models and text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.prefix_search import compiled_search
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.latency import measure_latency, speedup
from vqnmt.evaluation.records import Metric
from vqnmt.evaluation.scores import exact_match, score
from vqnmt.evaluation.speed import measure_throughput
from vqnmt.experiments.footprint import measure_footprint
from vqnmt.experiments.tables import THROUGHPUT_BATCHES
from vqnmt.exporting.folder import PRECISIONS, export
from vqnmt.translate.base import DTYPES, BatchTranslator
from vqnmt.translate.loading import load_translator

# Sentences that the process translates whose memory is measured.
_FOOTPRINT_SENTENCES = 50
# Lengths of sources, in tokens, that are timed apart, and how many sources of each.
_LENGTHS, _OF_A_LENGTH = (1, 2, 5, 10, 20, 35, 60, 100), 10
# Candidates among which the autoregressive model chooses for the student.
_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class EngineSystem:
    """A loaded model folder of any kind and how it searches."""

    folder: Path
    source: Path
    """The model folder that it was exported from, or is."""
    translator: BatchTranslator
    beam: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `load_translator`."""
    rescorer: "EngineSystem | None" = None
    """Chooses among `beam` candidates."""

    def one(self, sentence: str) -> str:
        """Translate one sentence."""
        return self.translate([sentence])[0]

    def translate(self, sentences: Sequence[str]) -> list[str]:
        """Translate from strings to strings: what the clock sees."""
        rescored: dict[str, Any] = {}
        if self.rescorer is not None:
            rescored = {"candidates": self.beam, "rescorer": self.rescorer.translator}
        found = self.translator.translate(sentences, beam=self.beam, **rescored)
        return [translation.text for translation in found]

    @property
    def search(self) -> tuple[Path, int, bool]:
        """What, apart from rounding, decides the translations."""
        return self.source, self.beam, self.rescorer is not None

    def model_bytes(self) -> int:
        """Size of the weights, the rescorer's included."""
        files = [path for path in self.folder.rglob("model*") if path.is_file()]
        own = sum(
            path.stat().st_size
            for path in files
            if path.suffix in (".safetensors", ".onnx", ".bin")
        )
        return own + (self.rescorer.model_bytes() if self.rescorer else 0)


def engine_systems(
    models: Mapping[str, Path],
    exports: Path,
    threads: int,
    device: str = "cpu",
    wanted: Sequence[str] = (),
) -> dict[str, EngineSystem]:
    """Load every model in every engine; the exported ones are for a CPU.

    Args:
        models: Model folders by label: `student` is a latent model, all others autoregressive;
            `ar` comes first.
        exports: Folder for the exports.
        threads: Threads of the exported engines; PyTorch uses those of the process.
        device: Where PyTorch runs.
        wanted: Names of the systems to load; () means all.

    Returns:
        The systems by name. For the label `ar`: `ar_greedy`, `ar_beam4`, `ctranslate2_fp32_greedy`
        and so on. For another autoregressive model: `<label>_greedy`,
        `<label>_ctranslate2_fp32_greedy` and so on. For the student: `student`,
        `student_onnx_fp32`, `student_onnx_int8`, and each of them with `_rescored`, where `ar`
        chooses, in CTranslate2 of the same precision for the exports. On a GPU there are no
        exports, but `student_bf16`, `ar_fp16_greedy` and so on.

    Raises:
        VqnmtError: There is no system of a name that is wanted, or it needs another one.
    """
    systems: dict[str, EngineSystem] = {}
    known: list[str] = []
    for label, model in models.items():
        latent = label == "student"
        # Folder, arguments of `load_translator`, and the autoregressive system that rescores.
        loads: dict[str, tuple[Path, dict[str, Any], str]] = {}
        for dtype in ("fp32",) if device == "cpu" else DTYPES:
            suffix = "" if dtype == "fp32" else f"_{dtype}"
            loads[label + suffix] = model, {"dtype": dtype}, f"ar{suffix}_greedy"
        for precision in PRECISIONS if device == "cpu" else ():
            prefix = "" if label == "ar" else f"{label}_"
            name = f"{prefix}{'onnx' if latent else 'ctranslate2'}_{precision}"
            loads[name] = exports / name, {}, f"ctranslate2_{precision}_greedy"
        for name, (folder, options, rescorer) in loads.items():
            searches = {"": 1, "_rescored": _CANDIDATES} if latent else {"_greedy": 1, "_beam4": 4}
            names = {name + suffix: beam for suffix, beam in searches.items()}
            known += names
            asked = {one: beam for one, beam in names.items() if one in wanted or not wanted}
            if not asked:
                continue
            if folder != model:
                export(model, folder, name.rsplit("_", 1)[1])
            translator = load_translator(folder, device, threads, **options)
            for one, beam in asked.items():
                chooses = systems.get(rescorer) if one.endswith("_rescored") else None
                if one.endswith("_rescored") and chooses is None:
                    raise VqnmtError(f"{one} needs {rescorer}: name it too")
                systems[one] = EngineSystem(folder, model, translator, beam, options, chooses)
    if missing := [name for name in wanted if name not in known]:
        raise VqnmtError(f"there is no system {missing[0]}: choose among {', '.join(known)}")
    return systems


def measure_engines(
    systems: Mapping[str, EngineSystem],
    text: ParallelText,
    *,
    test_set: str,
    rounds: int,
    threads: int,
    device: str = "cpu",
) -> dict[str, dict[str, Metric]]:
    """Measure latency, throughput, footprint and BLEU of every system.

    `differing_translations` counts the sentences that a system translates differently from
    PyTorch in fp32 with the same weights and search.

    Args:
        systems: By name; `ar_beam4`, if it is there, is the baseline of `speedup_over_ar_beam4`.
        text: Sources and references.
        test_set: Its name.
        rounds: How often each sentence and each batch is timed.
        threads: Of the engines, for the processes whose memory is measured.
        device: Where PyTorch runs.
    """
    compiled_search()  # as after a process's first sentences
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else None
    parts: list[Mapping[str, Mapping[str, Metric]]] = [
        _latency_and_quality(systems, text, test_set, rounds, synchronize),
        _latency_by_length(systems, text.sources, rounds, synchronize),
        measure_throughput(
            {name: system.translate for name, system in systems.items()},
            text.sources,
            sizes=THROUGHPUT_BATCHES,
            rounds=rounds,
            device=device,
        ),
        {
            name: measure_footprint(
                system.folder,
                list(text.sources[:_FOOTPRINT_SENTENCES]),
                beam=system.beam,
                threads=threads,
                device=device,
                options=system.options,
                rescorer=system.rescorer.folder if system.rescorer else None,
            )
            | {"model_bytes": system.model_bytes()}
            for name, system in systems.items()
        },
    ]
    metrics = {
        name: {key: value for part in parts for key, value in part[name].items()}
        for name in systems
    }
    ratios = ratios_to_peers(metrics)
    return {name: found | ratios[name] for name, found in metrics.items()}


def _latency_and_quality(
    systems: Mapping[str, EngineSystem],
    text: ParallelText,
    test_set: str,
    rounds: int,
    synchronize: Callable[[], object] | None,
) -> dict[str, dict[str, Metric]]:
    """Time each sentence by itself, and score what the timed calls have returned."""
    metrics: dict[str, dict[str, Metric]] = {}
    timed = measure_latency(
        {name: system.one for name, system in systems.items()},
        text.sources,
        rounds=rounds,
        synchronize=synchronize,
    )
    firsts = {system.search: name for name, system in reversed(list(systems.items()))}
    for name, latency in timed.items():
        system = systems[name]
        first = firsts[system.search]
        scores = score(latency.translations, text.targets, system.translator.target_language)
        metrics[name] = {
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
        }
        if systems[first].folder == systems[first].source:  # PyTorch's
            pairs = zip(latency.translations, timed[first].translations, strict=True)
            metrics[name]["differing_translations"] = sum(a != b for a, b in pairs)
        if "ar_beam4" in timed:
            metrics[name]["speedup_over_ar_beam4"] = speedup(timed["ar_beam4"], latency)
        if text.references is not None:
            exact = exact_match(latency.translations, text.references)
            metrics[name][f"exact_match.{test_set}"] = exact
    return metrics


def _latency_by_length(
    systems: Mapping[str, EngineSystem],
    sources: Sequence[str],
    rounds: int,
    synchronize: Callable[[], object] | None,
) -> dict[str, dict[str, Metric]]:
    """Time sources of each length of `_LENGTHS` that all systems take."""
    metrics: dict[str, dict[str, Metric]] = {name: {} for name in systems}
    vocabulary = next(iter(systems.values())).translator.vocabulary
    longest = min(system.translator.max_source_tokens for system in systems.values())
    # Text that is cut within a word has more tokens than it had.
    for length in (n for n in _LENGTHS if 2 * n <= longest):
        timed = measure_latency(
            {name: system.one for name, system in systems.items()},
            sources_of_length(sources, vocabulary, length),
            rounds=rounds,
            synchronize=synchronize,
        )
        for name, latency in timed.items():
            metrics[name][f"latency_ms.tokens_{length}"] = latency.median_ms
    return metrics


def sources_of_length(sources: Sequence[str], vocabulary: Vocabulary, length: int) -> list[str]:
    """Make sources of `length` tokens out of text: joined in its order and cut."""
    pieces = [piece for row in vocabulary.encode(list(sources)) for piece in row]
    count = min(_OF_A_LENGTH, max(len(pieces) // length, 1))
    return vocabulary.decode([pieces[i * length : (i + 1) * length] for i in range(count)])


def ratios_to_peers(
    metrics: Mapping[str, Mapping[str, Metric]],
) -> dict[str, dict[str, Metric]]:
    """Compare each system's median latency and throughput with CTranslate2's better precision.

    Args:
        metrics: Of each system, by name; CTranslate2's names begin with `ctranslate2_` and end in
            `_greedy` or `_beam4`.

    Returns:
        For each system `ratio_to_ctranslate2_greedy` and `ratio_to_ctranslate2_beam4`, their time
        over its own, and likewise `throughput_ratio_to_ctranslate2_greedy` at batch 32.
    """

    def values(search: str, key: str) -> list[float]:
        return [
            float(found[key])
            for name, found in metrics.items()
            if name.startswith("ctranslate2_") and name.endswith(search) and key in found
        ]

    ratios: dict[str, dict[str, Metric]] = {name: {} for name in metrics}
    for search in ("greedy", "beam4"):
        times = values(f"_{search}", "latency_ms.median")
        for name, found in metrics.items():
            if times and "latency_ms.median" in found:
                own = float(found["latency_ms.median"])
                ratios[name][f"ratio_to_ctranslate2_{search}"] = min(times) / own
    rates = values("_greedy", "sentences_per_second.batch_32")
    for name, found in metrics.items():
        if rates and "sentences_per_second.batch_32" in found:
            own = float(found["sentences_per_second.batch_32"])
            ratios[name]["throughput_ratio_to_ctranslate2_greedy"] = own / max(rates)
    return ratios
