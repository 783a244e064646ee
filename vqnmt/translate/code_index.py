"""Which words each code most often writes: a file that a run leaves beside its student's weights.

It is a JSON object: for each code that has been seen its texts with their counts, the most frequent
first, each as the code writes it, with the blank before it. It is no part of the model, so that
`SHA256SUMS` does not list it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text
from vqnmt.progress import Progress
from vqnmt.spans import SLOT
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.translation import Translation

CODE_INDEX = "code_index.json"

CodeIndex = dict[int, list[tuple[str, int]]]
"""For each code its texts and how often it has written each, the most frequent first."""

# Texts of a code that are kept: the most with which the file stays below `_MOST_BYTES`.
_KEPT = (10, 8, 6, 4, 2, 1)
_MOST_BYTES = 200_000


def code_texts(translator: BatchTranslator, translation: Translation) -> list[str]:
    """Return the text that each code writes, with the blank before it; ◌ stands for a slot."""
    rows = translator.code_pieces(translation)
    return [SLOT.sub("◌", "".join(pieces).replace("▁", " ")) for pieces in rows]


def index_codes(translator: BatchTranslator, sentences: Sequence[str]) -> CodeIndex:
    """Translate sentences with the codes that the model itself predicts, and count what they write.

    Args:
        translator: A latent model.
        sentences: Sources, such as those of the training text; long ones are split.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    on_long, translator.on_long = translator.on_long, "split"
    try:
        with Progress("words of the codes", len(sentences), "sentences") as progress:
            found = translator.translate(sentences, progress=progress, repair=False)
    finally:
        translator.on_long = on_long
    for translation in found:
        texts = code_texts(translator, translation)
        for code, text in zip(translation.codes, texts, strict=False):
            if text.strip():
                counts[code][text] += 1
    return {code: counts[code].most_common(_KEPT[0]) for code in sorted(counts)}


def write_code_index(folder: Path, index: CodeIndex) -> None:
    """Write the index into a model folder; of a large codebook with fewer texts for each code.

    Raises:
        VqnmtError: The disk is full or the folder cannot be written.
    """
    for kept in _KEPT:
        values = {code: dict(texts[:kept]) for code, texts in index.items()}
        content = json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"
        if len(content.encode()) <= _MOST_BYTES:
            break
    atomic_write_text(folder / CODE_INDEX, content)


def read_code_index(folder: Path) -> CodeIndex:
    """Read the index of a model folder; an empty one where there is none.

    Raises:
        VqnmtError: The file is no such index.
    """
    path = folder / CODE_INDEX
    try:
        values = json.loads(path.read_text("utf-8"))
        return {int(code): _counted(texts) for code, texts in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise VqnmtError(
            f"{path}: is no index of codes ({type(error).__name__}): remove it, or copy it again"
        ) from error


def _counted(texts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(text, int(count)) for text, count in texts.items()]
