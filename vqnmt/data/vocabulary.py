"""One sentencepiece vocabulary for both languages."""

import hashlib
import io
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from vqnmt.data.normalization import clean_output, normalize
from vqnmt.data.readers import chunks
from vqnmt.data.workers import available_cores
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path
from vqnmt.formality import TAGS
from vqnmt.settings import Settings, between, check
from vqnmt.spans import SLOT, check_patterns, protect, slot
from vqnmt.tokens import BOS, EOS, PAD, UNK

# Characters that a vocabulary is learnt from, a sample of a larger corpus: sentencepiece needs
# some 16 bytes for each of them, and more change no common piece.
_CHARACTERS = 40_000_000
# Learning from more characters takes half a minute and longer, and is announced.
_LONG = 10_000_000
# Pieces of the largest vocabulary: a model has a vector and an output for each of them.
_MOST_PIECES = 1_000_000
# Spans of one sentence; one with more is translated in parts.
_MOST_SLOTS = 100
# Sentences that are encoded at a time.
_ENCODED = 10_000
# With this many sentences the time to start threads is negligible.
_THREADED = 1000

Size = Annotated[
    int,
    between(300, _MOST_PIECES, ": 4 special pieces, 256 bytes and the letters are among them"),
]


@dataclass(kw_only=True, slots=True)
class VocabularyConfig(Settings):
    """Size and kind of the vocabulary."""

    group: InitVar[str] = "vocabulary"
    size: Size = 2000
    """Pieces, with the 4 special ones and the 256 bytes."""

    model_type: Literal["unigram", "bpe"] = "unigram"
    """Segmentation model of sentencepiece: unigram or bpe."""

    slots: Annotated[int, between(0, _MOST_SLOTS)] = 8
    """Pieces that stand for protected spans: placeholders, tags, numbers and others that a
    translation must not change. With 0 they are text like any other."""

    span_pattern: str | None = None
    """Regular expression of further strings that are protected."""

    formality: bool = False
    """Whether a tag on the source can ask for a register, such as German "du" or "Sie", which is
    learnt from the words of the references."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the pattern is a regular expression."""
        check(self, group)
        check_patterns(self.span_patterns, f"{group}.span_pattern")

    @property
    def span_patterns(self) -> list[str]:
        """The pattern as `vqnmt.spans.find_spans` takes it."""
        return [self.span_pattern] if self.span_pattern else []


class Vocabulary:
    """Sentences to piece ids and back, without loss except for what `normalize` changes.

    Ids: 0 padding, 1 begin, 2 end, 3 unknown; see `vqnmt.tokens`. All text goes through
    `normalize`, and through nothing else: sentencepiece's NFKC rules would rewrite ligatures,
    ellipses and full-width forms, and scores compare with raw references. A character that no piece
    covers is spelt in its UTF-8 bytes, so that nothing is unknown.

    Args:
        model: A serialised sentencepiece model with those ids.

    Raises:
        VqnmtError: `model` is no sentencepiece model, or has other special ids.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
            self._pieces.IdToPiece(list(range(len(self))))  # all are UTF-8
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = type(error).__name__
            raise VqnmtError(
                f"the vocabulary is no sentencepiece model ({reason}): put a good copy there (in a "
                "run folder, remove it and start the same command again)"
            ) from error
        found = tuple(
            getattr(self._pieces, name)() for name in ("pad_id", "bos_id", "eos_id", "unk_id")
        )
        if found != (PAD, BOS, EOS, UNK):
            raise VqnmtError(
                f"the vocabulary's ids of padding, begin, end and unknown are {found} instead of "
                f"{(PAD, BOS, EOS, UNK)}: train it with vqnmt"
            )

    @classmethod
    def train(
        cls,
        sentences: Iterable[str],
        size: int,
        *,
        slots: int = 0,
        span_patterns: Sequence[str] = (),
        formality: bool = False,
        model_type: str = "unigram",
        seed: int = 1,
        targets: Iterable[str] = (),
    ) -> "Vocabulary":
        """Learn a vocabulary; the same sentences and seed give the same bytes.

        Args:
            sentences: Text of both languages; not an iterator, as it is read more than once. It
                is never held in memory as a whole.
            size: Number of pieces, special ones and 256 bytes included.
            slots: Pieces that stand for protected spans, which teach no others. With 0 there are
                none, and spans are text like any other.
            span_patterns: See `vqnmt.spans.find_spans`.
            formality: Whether there are pieces for the tags of `vqnmt.formality`.
            model_type: "unigram" or "bpe".
            seed: Fixes the sample that is taken of a large corpus.
            targets: Those of the sentences that a model writes. Their pieces get the first ids, so
                that its output layer can leave out the others.

        Raises:
            VqnmtError: The sentences cannot fill, or cannot be spelt in, `size` pieces (names the
                limit), or there are none.
        """
        if not any(map(str.strip, sentences)):
            raise VqnmtError("the vocabulary has no text to learn from: the corpus is empty")
        total = sum(map(len, sentences))
        share = _CHARACTERS / total

        def text() -> Iterator[str]:
            generator = random.Random(seed)
            for sentence in sentences:
                if (share >= 1 or generator.random() < share) and sentence.strip():
                    yield normalize(slotted(sentence))

        def slotted(sentence: str) -> str:
            if not slots:
                return sentence
            # Pieces are learnt of the text around slots, whatever their numbers.
            return SLOT.sub(slot(0), protect(sentence, span_patterns).text)

        if total > _LONG:  # sentencepiece reports no progress
            amount = f"{min(total, _CHARACTERS):,} characters"
            print(
                f"vocabulary: learning {size:,} pieces from {amount}", file=sys.stderr, flush=True
            )
        model = io.BytesIO()
        sentencepiece.set_random_generator_seed(seed)
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=text(),
                model_writer=model,
                vocab_size=size,
                model_type=model_type,
                pad_id=PAD,
                bos_id=BOS,
                eos_id=EOS,
                unk_id=UNK,
                user_defined_symbols=[
                    *(slot(number) for number in range(slots)),
                    *(TAGS.values() if formality else ()),
                ],
                # Characters rarer than 1 in 10,000 are spelt in bytes instead of each taking
                # a piece that is hardly ever trained.
                character_coverage=0.9999,
                byte_fallback=True,
                normalization_rule_name="identity",
                # Hardly more come; the number stands in the model's bytes, which stay the same.
                input_sentence_size=2_000_000,
                shuffle_input_sentence=True,
                # The order of summation depends on the number of threads: a fixed number gives
                # the same bytes on every machine.
                num_threads=4,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _size_error(size, str(error)) from error
        vocabulary = cls(model.getvalue())
        return cls(_reordered(model.getvalue(), vocabulary._first(map(slotted, targets))))

    def _first(self, sentences: Iterable[str]) -> NDArray[np.bool_]:
        """Mark (V,) the special pieces, the slots and those of `sentences`."""
        found = np.zeros(len(self), dtype=bool)
        found[: UNK + 1] = True
        found[[self._pieces.PieceToId(slot(number)) for number in range(self.slots)]] = True
        for lines in chunks(sentences, _ENCODED):
            ids = chain.from_iterable(self.encode(lines))
            found[np.fromiter(ids, dtype=np.int64)] = True
        return found

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """Read a vocabulary that `save` wrote.

        Raises:
            VqnmtError: The file is missing or no vocabulary of ours.
        """
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise VqnmtError(
                f"{path}: cannot be read ({error.strerror}): check the path"
            ) from error
        except VqnmtError as error:
            raise VqnmtError(f"{path}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write the sentencepiece model (spm.model) completely or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._model)

    def checksum(self) -> str:
        """Return the SHA-256 of the model in hexadecimal."""
        return hashlib.sha256(self._model).hexdigest()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return the ids of each sentence, without begin and end; an empty one has none.

        Many sentences are encoded by as many threads as this process may use cores.
        """
        texts = [normalize(text) for text in sentences]
        if len(texts) < _THREADED:
            # One by one: a call with a list starts its threads anew, milliseconds for a sentence.
            return [self._pieces.EncodeAsIds(text) for text in texts]
        rows: list[list[int]] = self._pieces.EncodeAsIds(texts, num_threads=available_cores())
        return rows

    def log_probability(self, ids: Sequence[int]) -> float:
        """Return that of the pieces under the unigram model, in nats; a lower one is rarer.

        Of a bpe vocabulary it is minus the sum of the pieces' ranks.
        """
        return sum(map(self._pieces.GetScore, ids))

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids, with the invariants of `clean_output`.

        Special ids (0 to 3), and bytes that are no UTF-8, are dropped.
        """
        rows = [[index for index in row if index > UNK] for row in ids]
        return [clean_output(self._pieces.DecodeIds(row)) for row in rows]

    @cached_property
    def slots(self) -> int:
        """How many pieces stand for protected spans: `slot(0)` and the next."""
        known = (self._pieces.PieceToId(slot(number)) != UNK for number in range(_MOST_SLOTS))
        return sum(takewhile(bool, known))

    @cached_property
    def formality(self) -> bool:
        """Whether there are pieces for the tags of `vqnmt.formality`."""
        return all(self._pieces.PieceToId(tag) != UNK for tag in TAGS.values())

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return each id's piece as sentencepiece writes it, with ▁ for a space."""
        return [self._pieces.IdToPiece(index) for index in ids]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return self._pieces.GetPieceSize()


def _reordered(model: bytes, first: NDArray[np.bool_]) -> bytes:
    """Number the pieces marked `first` (V,) before the others; the order is kept otherwise.

    Which pieces spell a text depends on their scores, not on their numbers.
    """
    from sentencepiece import sentencepiece_model_pb2 as formats  # only learning needs it

    proto = formats.ModelProto.FromString(model)  # type: ignore[attr-defined]
    order = np.argsort(~first, kind="stable")
    pieces = [proto.pieces[i] for i in order]
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    return proto.SerializeToString(deterministic=True)


def _size_error(size: int, message: str) -> VqnmtError:
    if match := re.search(r"too high .*<= (\d+)", message):
        return VqnmtError(
            f"vocabulary.size is {size}, but this corpus allows at most {match[1]} pieces: "
            f"set vocabulary.size={match[1]} or less, or use more text"
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return VqnmtError(
            f"vocabulary.size is {size}, but the letters of this corpus need at least {match[1]} "
            f"pieces: set vocabulary.size={match[1]} or more"
        )
    return VqnmtError(f"vocabulary.size is {size}: sentencepiece failed: {message}")
