"""What a translation is, what translates, and what a caller may give it. Needs no PyTorch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Protocol

from vqnmt.data.normalization import normalize
from vqnmt.errors import VqnmtError
from vqnmt.spans import compare_spans

if TYPE_CHECKING:
    from vqnmt.progress import Progress


@dataclass(slots=True)
class Translation:
    """A translated sentence."""

    text: str
    """The translation; empty for an empty source. What a model has written keeps the invariants
    of `clean_output`."""
    score: float = 0.0
    """Log-probability in nats of the tokens (autoregressive) or of the codes (latent), divided by
    `length` to the power of `length_penalty`. Candidates are compared by it,
    and with a penalty of 1, the default, so can sentences be: it is the mean over their symbols."""
    codes: list[int] = field(default_factory=list)
    """The latent codes, one for 2^n_c tokens each; an autoregressive model has none."""
    tokens: list[int] = field(default_factory=list)
    """The pieces of the translation."""
    spans: list[int] = field(default_factory=list)
    """How many of the tokens each code writes, in order."""
    teacher_score: float | None = None
    """The score of the `Rescorer`; None without one."""
    warnings: list[str] = field(default_factory=list)
    """What may be wrong with it: protected spans that are lost or invented, or how they were kept
    where the model had lost them."""
    ended: bool = True
    """Whether an end of its own, after the last code or token, counts in `score`."""

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    @property
    def length(self) -> int:
        """How many symbols `score` is the mean of: codes, or tokens, and an end of its own."""
        return len(self.codes or self.tokens) + self.ended


class TextTranslator(Protocol):
    """A system that can be timed, scored and used as a teacher."""

    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: "Progress | None" = None
    ) -> list[Translation]:
        """Translate `sentences`, in order."""


class Rescorer(Protocol):
    """A model that chooses among the candidate translations of a sentence."""

    def score(
        self, sentences: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Score the candidate translations of each sentence; the highest is the best."""


_LIST = "give a list of strings, for one sentence a list of one, or call the translator itself"


def as_sentences(given: Iterable[str], name: str = "sentences", remedy: str = _LIST) -> list[str]:
    """Return the sentences that a caller has given as a list.

    Args:
        given: Any iterable of strings, but no string.
        name: What to call it in errors.
        remedy: What to do where it is no such iterable, for errors.

    Raises:
        VqnmtError: It is a string or no iterable, or an item is no string or no Unicode text;
            names the item.
    """
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Iterable):
        raise VqnmtError(f"{name} is {given!r:.40} of type {type(given).__name__}: {remedy}")
    sentences = list(given)
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise VqnmtError(
                f"{name}[{i}] is {sentence!r:.40} of type {type(sentence).__name__}: give strings "
                "(bytes must be decoded first)"
            )
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise VqnmtError(
                f"{name}[{i}] has a lone surrogate, U+{ord(sentence[error.start]):X}, at place "
                f'{error.start}: read the text with errors="replace"'
            ) from None
    return sentences


def as_codes(given: Iterable[int], size: int, most: int) -> list[int]:
    """Return the codes that a caller has given as a list.

    Args:
        given: Any iterable of whole numbers.
        size: How many codes the model has.
        most: The most codes that the sentence may have.

    Raises:
        VqnmtError: It is none, has too many codes, or one that is out of range; names the item.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise VqnmtError(f"codes is {given!r:.40}: give a list of whole numbers")
    codes = list(given)
    for i, code in enumerate(codes):
        whole = isinstance(code, Integral) and not isinstance(code, bool)
        if not whole or not 0 <= code < size:
            raise VqnmtError(
                f"codes[{i}] is {code!r}; it must be a whole number from 0 to {size - 1}"
            )
    if len(codes) > most:
        raise VqnmtError(f"codes has {len(codes)} codes; this sentence may have {most}")
    return [int(code) for code in codes]


def check_attribute(name: str, given: object, attribute: str) -> None:
    """Refuse an argument `name` that is no object of its kind; None is one.

    Raises:
        VqnmtError: It lacks an attribute of its kind.
    """
    if given is not None and not hasattr(given, attribute):
        raise VqnmtError(
            f"{name} is {given!r:.80} of type {type(given).__name__}: give an object that has "
            f"{attribute}"
        )


def untranslated(sentence: str) -> Translation:
    """Return a source that is not `is_translatable` as its own translation.

    White space at its ends is dropped; a source without visible characters becomes empty.
    """
    return Translation(sentence.strip() if normalize(sentence) else "")


def faults(source: str, text: str, patterns: Sequence[str] = ()) -> list[str]:
    """Say which spans a translation `text` lacks and which it has made up; see `find_spans`."""
    if not text:
        return ["nothing is translated"]
    lost, made_up = compare_spans(source, text, patterns)
    found = [f"lacks {', '.join(lost)}"] if lost else []
    return [*found, f"has {', '.join(made_up)} of its own"] if made_up else found
