"""Translation from an exported folder, by ONNX Runtime or CTranslate2, without PyTorch."""

import contextlib
import dataclasses
import importlib
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.data.workers import available_cores
from vqnmt.decode.ctc import read_likely
from vqnmt.decode.language_model import TrigramModel, load_language_model
from vqnmt.decode.settings import SearchSettings, Threads
from vqnmt.errors import VqnmtError
from vqnmt.settings import between, checked
from vqnmt.tokens import BOS, EOS, PAD, length_limit
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import EXPORTED, MOST_PIECES, ModelConfig, read_config
from vqnmt.translate.translation import Translation

# Raised whenever what an exported folder holds changes its form or its meaning.
FORMAT = 1
ONNX_FILES = ("config.json", "model.onnx", "spm.model")
# Source tokens of the sentences that are translated side by side in int8.
_SIDE_BY_SIDE = 1 << 14
# Positions that CTranslate2 scores at a time. The scores of more positions over all pieces do not
# fit into a core's cache, and scoring takes up to 1.7 times as long.
_SCORED_TOKENS = 256
CTRANSLATE2_FILES = ("config.json", "ctranslate2/model.bin", "spm.model")
PRECISIONS = ("fp32", "int8")
PREVIOUS = ".previous"
"""Subfolder of an export that holds the previous one while a new one is moved into its place; the
previous one is loaded until the new one is complete."""
# Pieces of a position that `_read_best` looks at.
_BEST_PATH = 2


@dataclasses.dataclass(kw_only=True)
class ExportConfig(ModelConfig):
    """What config.json says of an export."""

    precision: Literal["fp32", "int8"]


@dataclasses.dataclass(kw_only=True)
class LatentExportConfig(ExportConfig):
    """What config.json says of an exported latent model."""

    compression: Annotated[int, between(0, 16)]
    """n_c."""
    positions_per_code: int
    """2^n_c * upsampling."""
    output: Literal["ctc", "cross_entropy"]
    joint_end: bool
    """See `LatentConfig`."""
    blank_penalty: Annotated[float, between(-1e6, 1e6)]
    """Subtracted from the blank's score at each position, in nats, where the best path is read."""
    repeatable: list[Annotated[int, between(0, MOST_PIECES)]]
    """Pieces that may occur twice in a row."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and the positions against the compression."""
        super().__post_init__(group)
        stride = 2**self.compression
        if self.positions_per_code not in range(stride, (64 + 1) * stride, stride):
            raise VqnmtError(
                f"positions_per_code is {self.positions_per_code}; it must be a multiple of "
                f"2 ** compression, {stride}, and {64 * stride} or less"
            )


def load_exported(folder: Path | str, threads: int | None = None) -> BatchTranslator:
    """Load an exported folder, whichever engine it is for.

    Args:
        folder: What `vqnmt export` has written.
        threads: Threads of one translation; None takes one for each core that this process may
            use.

    Raises:
        VqnmtError: A file is missing or damaged, the folder is of another version, its engine is
            not installed, or `threads` is out of range.
    """
    checked(Threads | None, threads, "threads")
    if (Path(folder) / PREVIOUS / "config.json").is_file():
        folder = Path(folder) / PREVIOUS
    if (Path(folder) / "ctranslate2").is_dir():
        return CTranslate2Translator.from_pretrained(folder, threads)
    return OnnxTranslator.from_pretrained(folder, threads)


class OnnxTranslator(BatchTranslator):
    """A latent Transformer that ONNX Runtime runs on a CPU, with greedy codes or a beam.

    In int8 each sentence is translated by itself. All activations of a call share one scale, so in
    a batch the scale, and with it the translation, would depend on the other sentences and on the
    padding. A scale for each row does not help: the last bits of a sum still depend on the padding,
    and rounding to 8 bits can turn them into another translation.

    Args:
        session: ONNX Runtime's session of the exported graph, see `vqnmt.exporting.latent_graph`.
        config: The exported folder's config.json.
        vocabulary: The model's pieces.
        language_model: See `SearchSettings`.
        threads: How many sentences are translated at once in int8.
    """

    def __init__(
        self,
        session: Any,
        config: LatentExportConfig,
        vocabulary: Vocabulary,
        language_model: TrigramModel | None = None,
        threads: int = 1,
    ) -> None:
        shared = _shared(config)
        if config.precision == "int8":  # no padding, so that lengths do not matter
            shared |= {"batch_tokens": _SIDE_BY_SIDE, "spread": math.inf}
        super().__init__(vocabulary, **shared)
        self._session, self._language_model = session, language_model
        self._config, self._threads = config, threads
        self._stride, self._positions = 2**config.compression, config.positions_per_code
        self._repeatable = frozenset(config.repeatable)
        # (V,): the same as a mask, for the reading with trigrams.
        size = language_model.size if language_model else 0
        self._repeatable_mask = np.isin(np.arange(size), config.repeatable)

    @classmethod
    def from_pretrained(cls, folder: Path | str, threads: int | None = None) -> "OnnxTranslator":
        """Load an exported folder; see `load_exported`."""
        folder = Path(folder)
        config = read_config(folder, ONNX_FILES, LatentExportConfig, EXPORTED, FORMAT)
        _engine("onnxruntime", folder)
        threads = threads or available_cores()
        with _named(folder / "model.onnx"):
            # In int8 the products of one sentence gain nothing from a second thread, and threads
            # of their own for each of several sentences at once would wait for one another.
            session = onnx_session(
                folder / "model.onnx", 1 if config.precision == "int8" else threads
            )
        vocabulary = Vocabulary.load(folder / "spm.model")
        language_model = load_language_model(folder, len(vocabulary))
        return cls(session, config, vocabulary, language_model, threads)

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate one batch of token rows.

        With more candidates fewer rows are translated at a time, so that what is decoded together
        fits into a core's caches.
        """
        _refuse_samples(settings)
        alone = self._config.precision == "int8"
        size = 1 if alone else max(len(rows) // settings.candidates, 1)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        if len(parts) == 1 or not alone or self._threads == 1:  # a pool of one costs time alone
            return [found for part in parts for found in self._run(part, settings)]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(
                chain.from_iterable(pool.map(lambda part: self._run(part, settings), parts))
            )

    @property
    def engine(self) -> str:
        """See `BatchTranslator`."""
        return f"ONNX Runtime, {self._config.precision}"

    @property
    def codebook_size(self) -> int:
        """See `BatchTranslator`."""
        symbols = int(self._session.get_outputs()[-1].shape[1])  # of `code_log_p`
        return symbols // 2 if self.joint_end else symbols - 1

    @property
    def joint_end(self) -> bool:
        """See `BatchTranslator`."""
        return self._config.joint_end

    @property
    def tokens_per_code(self) -> int:
        """See `BatchTranslator`."""
        return self._stride

    def force_codes(
        self, row: list[int], given: list[int], limit: int
    ) -> tuple[Translation, np.ndarray]:
        """Translate from given codes, see `BatchTranslator`."""
        settings = SearchSettings(length_penalty=self.length_penalty)
        ((found,),), log_p = self._call([row], settings, given, limit)
        return found, log_p

    def _run(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate token rows in one call of the graph."""
        return self._call(rows, settings)[0]

    def _call(
        self,
        rows: list[list[int]],
        settings: SearchSettings,
        given: list[int] | None = None,
        limit: int | None = None,
    ) -> tuple[list[list[Translation]], np.ndarray]:
        """Call the graph; `given` and `limit`, the most codes, are those of a single row.

        Returns:
            For each row its candidates, and the log-probabilities of all symbols at each step.
        """
        lengths = [len(row) for row in rows]
        source = np.full((len(rows), max(lengths) + 1), PAD, dtype=np.int64)
        for i, row in enumerate(rows):
            source[i, : len(row)] = row
            source[i, len(row)] = EOS
        limits = length_limit(np.array(lengths)) // self._stride + 1  # codes
        if limit is not None:
            limits[:] = limit
        reader = self._language_model if settings.language_model else None
        likely = np.array([settings.reading.pieces if reader else _BEST_PATH])
        inputs = {"source": source, "limits": limits, "likely": likely}
        if given is not None:
            inputs["given"] = np.array(given, dtype=np.int64)
        if not settings.greedy:
            inputs |= {
                "beam": np.array([max(settings.beam, settings.candidates)]),
                "candidates": np.array([settings.candidates]),
                "length_penalty": np.array(settings.length_penalty, dtype=np.float32),
            }
        try:
            pieces, codes, counts, scores, logits, code_log_p = self._session.run(None, inputs)
        except Exception as error:  # the engine's errors share no other base
            raise VqnmtError(
                f"model.onnx: cannot be run ({_reason(error)}): export the model again"
            ) from error
        # The graph decodes a sentence without codes from one code.
        lengths = (np.maximum(counts, 1) * self._positions).tolist()
        if pieces.shape[1] < max(lengths):
            raise VqnmtError(
                f"config.json: positions_per_code is {self._positions}, but model.onnx has fewer: "
                "export the model again"
            )
        if reader is None:
            read = self._read_best(pieces, logits, lengths)
        else:
            mask = self._repeatable_mask
            read = read_likely(
                *(logits, pieces, lengths, self._positions, reader, mask, settings.reading)
            )
        found: list[list[Translation]] = [[] for _ in rows]
        for i, (symbols, count, log_p, (tokens, spans)) in enumerate(
            zip(codes, counts.tolist(), scores.tolist(), read, strict=True)
        ):
            if log_p == -math.inf:  # no such candidate
                continue
            sentence = i // settings.candidates
            # An end of its own is not reached at the limit.
            ended = not self.joint_end and count < limits[sentence].item()
            score = log_p / (count + ended) ** settings.length_penalty
            found[sentence].append(
                Translation("", score, symbols[:count].tolist(), tokens, spans[:count], ended=ended)
            )
        return found, code_log_p

    def _read_best(
        self, pieces: np.ndarray, logits: np.ndarray, lengths: list[int]
    ) -> list[tuple[list[int], list[int]]]:
        """Read the best of the likely pieces (R, P, n); see `read_likely`."""
        best = pieces[:, :, 0]
        if self._config.blank_penalty and pieces.shape[2] > 1:
            # The likeliest piece that is not the blank is the first or the second.
            beaten = logits[..., 0] - self._config.blank_penalty < logits[..., 1]
            best = np.where((best == PAD) & beaten, pieces[:, :, 1], best)
        read = []
        for row, length in zip(best, lengths, strict=True):
            starts = self._starts(row[:length])
            spans = starts.reshape(-1, self._positions).sum(axis=1).tolist()
            read.append((row[:length][starts].tolist(), spans))
        return read

    def _starts(self, best: np.ndarray) -> np.ndarray:
        """Mark the positions that each write one token, as `vqnmt.models.outputs` does."""
        if self._config.output != "ctc":
            return np.cumsum(best == EOS) == 0
        starts = best != PAD
        starts[1:] &= best[1:] != best[:-1]
        before = None  # the last piece so far, across blanks
        for place in np.flatnonzero(starts).tolist():
            piece = int(best[place])
            starts[place] = piece != before or piece in self._repeatable
            before = piece
        return starts


class CTranslate2Translator(BatchTranslator):
    """An autoregressive Transformer that CTranslate2 runs on a CPU, greedily or with a beam.

    Several threads translate several parts of a batch, each part on one thread. Products of this
    size are too small to be shared: two threads for one product wait for each other at each of
    them, and took 4 to 5 times the CPU time of one, whatever OpenMP's waiting policy.

    Args:
        engine: CTranslate2's translator of the exported folder.
        config: The exported folder's config.json.
        vocabulary: The model's pieces.
        threads: How many parts of a batch are translated at once.
    """

    def __init__(
        self, engine: Any, config: ExportConfig, vocabulary: Vocabulary, threads: int = 1
    ) -> None:
        super().__init__(vocabulary, **_shared(config))
        self._engine, self._precision, self._threads = engine, config.precision, threads
        self._pieces = vocabulary.pieces(range(len(vocabulary)))
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._never = [[self._pieces[PAD]], [self._pieces[BOS]]]

    @classmethod
    def _fork_remedy(cls) -> str:
        """Refuse it always: even a model that is loaded anew there hangs."""
        return "start it by multiprocessing's 'spawn' instead"

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, threads: int | None = None
    ) -> "CTranslate2Translator":
        """Load an exported folder; see `load_exported`."""
        folder = Path(folder)
        config = read_config(folder, CTRANSLATE2_FILES, ExportConfig, EXPORTED, FORMAT)
        cls._refuse_fork()
        ctranslate2 = _engine("ctranslate2", folder)
        threads = threads or available_cores()
        with _named(folder / "ctranslate2"), _torch_threads_kept():
            engine = ctranslate2.Translator(
                str(folder / "ctranslate2"),
                device="cpu",
                compute_type="int8_float32" if config.precision == "int8" else "float32",
                inter_threads=threads,
                intra_threads=1,
            )
        return cls(engine, config, Vocabulary.load(folder / "spm.model"), threads)

    @property
    def engine(self) -> str:
        """See `BatchTranslator`."""
        return f"CTranslate2, {self._precision}"

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        """Translate one batch of token rows by CTranslate2's own search."""
        _refuse_samples(settings)
        limits = [length_limit(len(row)) for row in rows]
        results = self._engine.translate_batch(
            [[self._pieces[index] for index in row] for row in rows],
            beam_size=max(settings.beam, settings.candidates),
            num_hypotheses=settings.candidates,
            length_penalty=settings.length_penalty,
            max_decoding_length=max(limits),
            max_input_length=0,
            max_batch_size=math.ceil(len(rows) / self._threads),
            suppress_sequences=self._never,
            return_scores=True,
        )
        return [
            [
                # The limit was that of the whole batch: cut to the sentence's own.
                Translation("", score, tokens=[self._ids[piece] for piece in pieces[:limit]])
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result, limit in zip(results, limits, strict=True)
        ]

    def log_probabilities(
        self, rows: list[list[int]], targets: list[list[list[int]]]
    ) -> list[list[float]]:
        """Score candidates, see `BatchTranslator`; the source is encoded for each of them.

        A candidate longer than the exported table of positions has minus infinity.
        """
        longest = length_limit(self.max_source_tokens) + 1
        pairs = [
            (self.vocabulary.pieces(row), self.vocabulary.pieces(target))
            for row, group in zip(rows, targets, strict=True)
            for target in group
            if len(target) <= longest
        ]
        results = self._engine.score_batch(
            [source for source, _ in pairs],
            [target for _, target in pairs],
            max_batch_size=_SCORED_TOKENS,
            batch_type="tokens",
            max_input_length=0,
        )
        scores = (sum(result.log_probs) for result in results)
        return [
            [next(scores) if len(target) <= longest else -math.inf for target in group]
            for group in targets
        ]


def onnx_session(
    model: Path | bytes, threads: int | None = None, profile: str | None = None
) -> Any:
    """Open a graph in ONNX Runtime on a CPU.

    Args:
        model: File or content.
        threads: See `load_exported`. ONNX Runtime is always told a number: by default it pins its
            threads to cores, even to cores that this process may not use.
        profile: Prefix of the file for the operators' times.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = threads or available_cores()
    # Threads that spin between two sentences would take a core from other programs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _shared(config: ExportConfig) -> dict[str, Any]:
    """Settings of `BatchTranslator` for an engine whose calls have little overhead.

    Small batches of similar lengths are faster: on the Home Assistant test set, called with 32
    sentences, ONNX Runtime on one thread translated four times as many sentences a second as with
    one batch for each call, and CTranslate2 twice as many.
    """
    keys = "source_language", "target_language", "max_source_tokens", "span_patterns"
    return {"batch_tokens": 512, "spread": 1.5, **{key: getattr(config, key) for key in keys}}


def _refuse_samples(settings: SearchSettings) -> None:
    if settings.temperature is not None:
        raise VqnmtError(
            "temperature is for models that PyTorch runs: give the model folder that this one was "
            "exported from"
        )


def _engine(name: str, folder: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise VqnmtError(f"{folder} needs {name}: pip install {name}") from error


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Keep PyTorch's number of threads: CTranslate2 sets that of the process when it loads a model.

    PyTorch would otherwise train on with another number, and so with other roundings.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _named(place: Path) -> Iterator[None]:
    """Say in one sentence which file an engine cannot read."""
    try:
        yield
    except Exception as error:  # the engines' errors share no other base
        raise VqnmtError(
            f"{place}: cannot be loaded ({_reason(error)}): export the model again"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]
