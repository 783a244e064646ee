"""Sequence-level distillation (Kim and Rush 2016): the teacher's beam output as training text.

Sentences are ordered by length and cut into parts; each part is a file that is complete or
absent, so an interrupted run goes on where it stopped. Processes take parts in turn, and the
merged result is the same whatever their number.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from vqnmt.files import atomic_write_text
from vqnmt.progress import Progress
from vqnmt.translator import TextTranslator

# Sentences in one part: the most work that a crash can lose.
PART = 1000


def distill(
    teacher: TextTranslator, sources: Sequence[str], folder: Path, *, beam: int = 4
) -> list[str]:
    """Translate `sources` with beam search and return the translations in order.

    Args:
        teacher: Our own `Translator` or any other.
        sources: Training sentences.
        folder: Holds the parts, for this teacher, these sources and this beam only.
        beam: Beam of the search.

    Raises:
        VqnmtError: The folder cannot be written.
    """
    state = PartialState()
    order = sorted(range(len(sources)), key=lambda i: (len(sources[i]), i))
    parts = [order[start : start + PART] for start in range(0, len(order), PART)]
    paths = [folder / f"part-{number:05d}.json" for number in range(len(parts))]
    mine = range(state.process_index, len(parts), state.num_processes)
    done = sum(len(parts[n]) for n in mine if paths[n].exists())
    total = sum(len(parts[n]) for n in mine)
    with Progress("distillation", total, "sentences", done) as progress:
        for number in mine:
            if paths[number].exists():
                continue
            chosen = [sources[i] for i in parts[number]]
            translated = teacher.translate(chosen, beam=beam, progress=progress)
            texts = [translation.text for translation in translated]
            atomic_write_text(paths[number], json.dumps(texts, ensure_ascii=False))
    state.wait_for_everyone()
    texts = [""] * len(sources)
    for path, indices in zip(paths, parts, strict=True):
        translations = json.loads(path.read_text(encoding="utf-8"))
        for index, text in zip(indices, translations, strict=True):
            texts[index] = text
    return texts
