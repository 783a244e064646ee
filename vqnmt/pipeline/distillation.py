"""Sequence-level distillation (Kim and Rush 2016): the teacher's beam output as training text.

All of it, or what is close to the references, because a student learns a weak teacher's mistakes
with everything else.

Distinct sentences are ordered by length and cut into parts; each part is a file that is complete
or absent, so an interrupted run goes on where it stopped. The processes, of all machines that see
the folder, share the parts that are missing, and the merged file is the same whatever their
number: a part is translated alone, and its place does not depend on who translates it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from sacrebleu.metrics import CHRF

from vqnmt.data.lines import Lines
from vqnmt.data.normalization import clean_output
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_lines, atomic_write_text, temporary_folder
from vqnmt.progress import Progress, print_once
from vqnmt.splits import text_hash
from vqnmt.translate.pytorch import TextTranslator

# Sentences in one part: the most work that a crash can lose, for each process.
PART = 1000


def distill(
    teacher: TextTranslator,
    sources: Sequence[str],
    path: Path,
    *,
    beam: int = 4,
    fits: Callable[[str], bool] = lambda source: True,
) -> int:
    """Translate `sources` with beam search and write the translations to `path`, line by line.

    Memory is some 60 bytes a source, whatever the texts.

    Args:
        teacher: Our own `Translator` or any other. A translation with `warnings` counts as none.
        sources: Training sentences; one that occurs several times is translated once.
        path: The file of translations. The folder `parts` beside it holds the parts, for this
            teacher, these sources and this beam only.
        beam: Beam of the search.
        fits: Whether the teacher can take a source; the lines of the others stay empty.

    Returns:
        The number of distinct sources that do not fit.

    Raises:
        VqnmtError: The folder cannot be written, or not all processes see the same one.
    """
    state = PartialState()
    order, part_line, misfits = _plan(sources, fits)
    parts = [order[start : start + PART] for start in range(0, len(order), PART)]
    paths = [path.parent / "parts" / f"part-{number:05d}.json" for number in range(len(parts))]
    missing = [n for n, part in enumerate(parts) if _read(paths[n], len(part)) is None]
    state.wait_for_everyone()  # all have seen the same parts: none is new yet
    mine = missing[state.process_index :: state.num_processes]
    done = len(order) - sum(len(parts[n]) for n in missing)
    total = done + sum(len(parts[n]) for n in mine)
    with Progress("distillation", total, "sentences", done) as progress:
        for number in mine:
            chosen = [sources[i] for i in parts[number].tolist()]
            translated = teacher.translate(chosen, beam=beam, progress=progress)
            # A line feed among the bytes that a model spells would shift all lines after it. What
            # has lost a placeholder teaches to lose them: an empty line is not trained on.
            texts = [clean_output("" if one.warnings else one.text) for one in translated]
            _write(paths[number], texts)
    state.wait_for_everyone()
    if state.is_main_process:
        _merge(paths, [len(part) for part in parts], part_line, path)
    state.wait_for_everyone()
    return misfits


def select(
    translations: Sequence[str], references: Sequence[str], path: Path, least: float
) -> None:
    """Write each translation that is close to its reference, and the reference of each other.

    The first process does it, and says how many are close; the others wait.

    Args:
        translations: The teacher's.
        references: As many.
        path: The file of what is chosen, line by line.
        least: The sentence-level chrF (Popović 2015), 0 to 100, that counts as close.

    Raises:
        VqnmtError: The file cannot be written.
    """
    state = PartialState()
    if state.is_main_process:
        chrf, close = CHRF(), 0

        def chosen() -> Iterator[str]:
            nonlocal close
            for translation, reference in zip(translations, references, strict=True):
                near = chrf.sentence_score(translation, [reference]).score >= least
                close += near
                yield translation if near else reference

        atomic_write_lines(path, chosen())
        print_once(
            f"selection: {close:,} of {len(references):,} translations are close to the references"
        )
    state.wait_for_everyone()


def _plan(
    sources: Sequence[str], fits: Callable[[str], bool]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Decide what is translated in which order.

    Returns:
        The sources to translate, shortest first, each as the index where it first occurs; for
        each source the place of its translation in that order, -1 where it does not fit; and the
        number of distinct sources that do not fit.
    """
    marks = np.zeros(len(sources), dtype=np.uint64)
    lengths = np.zeros(len(sources), dtype=np.int64)  # in characters; -1: does not fit
    for i, source in enumerate(sources):
        marks[i] = text_hash(source)
        lengths[i] = len(source) if fits(source) else -1
    _, first, group = np.unique(marks, return_index=True, return_inverse=True)
    order = np.sort(first)
    order = order[np.argsort(lengths[order], kind="stable")]
    misfits = int((lengths[order] < 0).sum())
    order = order[misfits:]
    place = np.full(len(first), -1, dtype=np.int64)  # of each group of equal sources
    place[group[order]] = np.arange(len(order))
    return order, place[group], misfits


def _write(path: Path, texts: Sequence[str]) -> None:
    """Write the texts of a part as one line of JSON, and the checksum of that line."""
    content = json.dumps(texts, ensure_ascii=False)
    atomic_write_text(path, f"{content}\n{_checksum(content.encode()).decode()}")


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _read(path: Path, count: int) -> list[str] | None:
    """Return the texts of a part; None where it is missing, damaged or not of `count` texts."""
    try:
        content, _, checksum = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != _checksum(content):
        return None
    texts: list[str] = json.loads(content)
    return texts if len(texts) == count else None


def _merge(
    paths: Sequence[Path], counts: Sequence[int], part_line: NDArray[np.int64], merged: Path
) -> None:
    """Write line `part_line[i]` of the joined parts, or an empty one for -1, as line i."""
    merged.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(merged.parent) as folder:
        joined = folder / "joined"
        with open(joined, "w", encoding="utf-8", newline="\n") as file:
            for path, count in zip(paths, counts, strict=True):
                texts = _read(path, count)
                if texts is None:
                    raise VqnmtError(
                        f"{path}: missing or damaged after all processes have done their parts: "
                        "the run folder must be the same for all machines; start the same command "
                        "again"
                    )
                file.writelines(text + "\n" for text in texts)
        lines = Lines(joined)
        placed = (lines[number] if number >= 0 else "" for number in part_line.tolist())
        atomic_write_lines(merged, placed)
