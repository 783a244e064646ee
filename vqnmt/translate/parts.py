"""A text cut into the parts that a model translates one by one, and joined again.

Parts are sentences, as the library sentencex finds them, and lines, which a backslash and n may
part too; a part has no more protected spans than the model has slots. White space between parts
stays as it is.
"""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import sentencex

from vqnmt.data.normalization import is_translatable
from vqnmt.data.words import join_sentences
from vqnmt.errors import VqnmtError
from vqnmt.spans import SLOT, Span, find_runs, protect

_LINE_END = re.compile(r"[\n\r]+")

_WORDS = re.compile(r"(\W*+)(.*?)(\W*)", re.DOTALL)

# What ends a sentence whether or not a blank follows: Chinese and Japanese, Arabic, Indian,
# Armenian, Ethiopian, Myanmar and Khmer signs, and the ellipsis.
_FULL_STOPS = "。．｡！？…؟۔।॥։።፧။៕។"
_CLOSERS = "\"'”’»›」』）)】〉》\\]］}｝"
_SENTENCE_END = re.compile(f"[{_FULL_STOPS}][{_CLOSERS}]*$")
_SENTENCE_END_BEFORE_BLANK = re.compile(f"[.!?][{_CLOSERS}]*$")
# In a script without blanks, where a word ends too.
_WORD_END = re.compile(f"[{_FULL_STOPS}、，､；：][{_CLOSERS}]*$")
# Signs that a part may not begin with.
_HANGS_ON = re.compile(f"[{_FULL_STOPS}、，､；：.!?,;:{_CLOSERS}]")


@dataclass(slots=True)
class Part:
    """A part of a text."""

    before: str | None
    """White space before it; None: a sentence follows another, as the language writes it."""
    source: str
    """The part as it stands in the text."""
    shown: str
    """What the model sees: with a slot for each span if it has slots; empty if there are no words
    besides the spans, so that the part is its own translation."""
    spans: list[str]
    """What the slots stand for."""
    capitals: bool = False
    """Whether the text has capitals alone, which the model does not see."""


def cut(
    text: str, language: str, slots: int, patterns: Sequence[str] = (), *, apart: bool = False
) -> list[Part]:
    """Cut `text` into parts.

    Args:
        text: Any text; white space at its ends is left out.
        language: Its language code.
        slots: The most spans in a part; 0: spans stay in the text that the model sees.
        patterns: See `vqnmt.spans.find_spans`.
        apart: Whether spans are parts of their own.
    """
    runs = find_runs(text, patterns)
    written = _written_line_ends(runs)
    sentences = _sentence_ends(text, language, runs) - written
    others = written | (_full(sentences, runs, slots) if slots else set())
    if apart:
        others = {place for run in runs for place in (run.start, run.end)}
    parts: list[Part] = []
    space = ""
    for start, end in pairwise(sorted({0, len(text), *sentences, *others})):
        piece = text[start:end]
        source = piece.strip()
        leading, _, trailing = piece.partition(source) if source else (piece, "", "")
        space += leading
        if not source:
            continue
        protected = protect(source, patterns)
        words = is_translatable(SLOT.sub(" ", protected.text))
        shown, spans = (protected.text, protected.spans) if slots else (source, [])
        follows = start in sentences and space in ("", " ")
        before = None if parts and follows else space if parts else ""
        parts.append(Part(before, source, shown if words else "", spans))
        space = trailing
    return parts


def around_spans(source: str, patterns: Sequence[str] = ()) -> list[str | tuple[str, str, str]]:
    """Cut a source at its spans; none if it has no spans.

    Returns:
        Its spans, and of the text between them what stands before, in and after its words: signs
        and white space, words, signs and white space.
    """
    runs = find_runs(source, patterns)
    pieces: list[str | tuple[str, str, str]] = []
    place = 0
    for run in runs:
        pieces += [_words(source[place : run.start]), run.text]
        place = run.end
    return [*pieces, _words(source[place:])] if pieces else []


def _words(text: str) -> tuple[str, str, str]:
    match = _WORDS.fullmatch(text)
    assert match is not None
    return match[1], match[2], match[3]


def join(parts: Sequence[Part], translations: Sequence[str]) -> str:
    """Join the translations of the parts of a text."""
    joined = ""
    for part, translation in zip(parts, translations, strict=True):
        if part.before is None:
            joined = join_sentences([joined, translation])
        else:
            joined += part.before + translation
    return joined


def _full(sentences: set[int], runs: Sequence[Span], slots: int) -> set[int]:
    """Find the spans of a sentence for which there are no slots left."""
    ends, counts = sorted(sentences), Counter[int]()
    places = set()
    for run in runs:
        sentence = bisect(ends, run.start)
        if counts[sentence] and counts[sentence] % slots == 0:
            places.add(run.start)
        counts[sentence] += 1
    return places


def _sentence_ends(text: str, language: str, runs: Sequence[Span]) -> set[int]:
    """Find where sentences and lines end, but for places within spans."""
    ends = {match.end() for match in _LINE_END.finditer(text)}
    place = 0
    for sentence in sentencex.segment(re.split("[-_]", language)[0], text):
        place += len(sentence)
        ends.add(place)
    if len(ends) > 1:
        for run in runs:
            ends -= set(range(run.start + 1, run.end))
    return ends


def _written_line_ends(runs: Sequence[Span]) -> set[int]:
    """Find where the escapes that stand for a new line end, and where those alone begin."""
    ends = set()
    for run in runs:
        if run.kind in ("escape", "run") and run.text.endswith((r"\n", r"\r")):
            alone = not run.text.replace(r"\n", "").replace(r"\r", "")
            ends |= {run.start, run.end} if alone else {run.end}
    return ends


def split_row(row: list[int], pieces: list[str], limit: int) -> list[list[int]]:
    """Split tokens into parts of at most `limit`.

    A part ends after the last sentence that fits, or else after the last word, or else after the
    last character, or else within a character. Words end before a blank, and in scripts without
    blanks after punctuation.

    Args:
        row: Token ids.
        pieces: Their pieces, words beginning with ▁, bytes as <0x41>.
        limit: Tokens a part.

    Raises:
        VqnmtError: `limit` is below 1.
    """
    if limit < 1:
        raise VqnmtError(f"max_source_tokens is {limit}; it must be 1 or more")
    texts = _spelt(pieces)

    def rank(place: int) -> int:
        """Say how well the text can be cut before piece `place`."""
        if not texts[place - 1]:
            return 0  # within a character
        before = "".join(texts[max(start, place - 8) : place])
        blank = pieces[place].startswith("▁")
        if not blank and _HANGS_ON.match("".join(texts[place : place + 4])):
            return 1
        if _SENTENCE_END.search(before) or (blank and _SENTENCE_END_BEFORE_BLANK.search(before)):
            return 3
        return 2 if blank or _WORD_END.search(before) else 1

    parts, start = [], 0
    while len(row) - start > limit:
        end = max(range(start + limit, start, -1), key=rank)  # the last of equal ones
        parts.append(row[start:end])
        start = end
    return [*parts, row[start:]]


def _spelt(pieces: list[str]) -> list[str]:
    """Return what each piece adds to the text; the last byte of a character adds all of it."""
    texts, pending = [], b""
    for piece in pieces:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        if byte is None:
            texts.append(piece.replace("▁", " "))
            continue
        pending = pending[-3:] + bytes.fromhex(byte[1])
        try:
            texts.append(pending.decode())
            pending = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts
