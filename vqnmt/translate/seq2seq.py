"""Models from elsewhere as translators: checkpoints of transformers, and CTranslate2's of them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from vqnmt.data.normalization import clean_output, is_translatable, normalize
from vqnmt.data.workers import available_cores
from vqnmt.decode.settings import Width
from vqnmt.errors import VqnmtError
from vqnmt.progress import Progress
from vqnmt.settings import checked
from vqnmt.tokens import length_limit
from vqnmt.translate.translation import Translation, as_sentences, faults, untranslated

# ISO 639-1 to the three-letter codes of NLLB-200, which names some languages by their standard
# variety. Any other language can be given by the tokenizer's own code.
_THREE_LETTERS = (
    "ar:arb bg:bul bn:ben ca:cat cs:ces da:dan de:deu el:ell en:eng es:spa et:est fa:pes fi:fin "
    "fr:fra he:heb hi:hin hr:hrv hu:hun id:ind is:isl it:ita ja:jpn ko:kor lt:lit lv:lvs mk:mkd "
    "nb:nob nl:nld no:nob pl:pol pt:por ro:ron ru:rus sk:slk sl:slv sr:srp sv:swe sw:swh ta:tam "
    "th:tha tr:tur uk:ukr ur:urd vi:vie zh:zho"
)


@contextmanager
def _loading(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        own = "teacher=own, " if place.startswith("teacher=") else ""
        raise VqnmtError(
            f"{place}: it cannot be loaded as a sequence-to-sequence model with its tokenizer "
            f"({first}): give {own}a folder or a name on the Hub"
        ) from error


def check_checkpoint(name: str) -> None:
    """Refuse a name that transformers does not know, without loading weights.

    Raises:
        VqnmtError: It has no config.
    """
    with _loading(f"teacher={name}"):
        AutoConfig.from_pretrained(name)


class TransformersTranslator:
    """A transformers checkpoint behind the interface of our own `Translator`.

    A multilingual checkpoint (M2M100, NLLB, mBART) is told both languages: its tokenizer marks
    the source, and every translation is forced to begin with the target's code.

    Args:
        name: A folder, or a name on the Hub.
        source_language: Language code of the source; for a multilingual tokenizer one of its own,
            or one that `language_code` maps to it.
        target_language: Language code of the target, likewise.
        prefix: Text before every source, such as "translate English to German: " for T5.
        batch_size: Sentences translated at a time.
        option: The option that has named the checkpoint, for errors.

    Raises:
        VqnmtError: The checkpoint cannot be loaded, or does not know a language.
    """

    def __init__(
        self,
        name: str,
        source_language: str,
        target_language: str,
        *,
        prefix: str = "",
        batch_size: int = 32,
        option: str = "teacher=",
    ) -> None:
        self.option, self.place = option, f"{option}{name}"
        self.prefix, self.batch_size = prefix, batch_size
        self.source_language, self.target_language = source_language, target_language
        self.max_source_tokens: int | None = None
        with _loading(self.place):
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self._load(name)
        self._languages = language_ids(self.tokenizer)
        self._forced: dict[str, int] = {}
        if self._languages:
            codes = {}
            for key, asked in (("source", source_language), ("target", target_language)):
                try:
                    codes[key] = language_code(asked, list(self._languages))
                except VqnmtError as error:
                    setting = f"corpus.{key}_language" if "=" in option else f"--{key}-language"
                    raise VqnmtError(f"{self.place}: {setting} {error}") from None
            self.tokenizer.src_lang = codes["source"]
            self._forced = {"forced_bos_token_id": self._languages[codes["target"]]}

    def _load(self, name: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForSeq2SeqLM.from_pretrained(name).to(device).eval()
        # Models with relative or computed positions have no such limit.
        self.max_source_tokens = getattr(self.model.config, "max_position_embeddings", None)

    def _generate(self, rows: list[list[int]], beam: int) -> list[list[int]]:
        """Translate rows of one length."""
        source = torch.tensor(rows, device=self.model.device)  # (B, S)
        output = self.model.generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            num_beams=beam,
            do_sample=False,
            max_new_tokens=length_limit(source.shape[1]),
            **self._forced,
        )
        return output.tolist()

    @torch.inference_mode()
    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: Progress | None = None
    ) -> list[Translation]:
        """Translate `sentences`, in order; an empty one stays empty.

        Sentences are normalised and passed through as by `BatchTranslator.translate`. Protected
        spans are text to the model, and `Translation.warnings` says which it has lost or invented.

        Raises:
            VqnmtError: Sources are longer than the model takes or no strings, or `beam` is out of
                range.
        """
        checked(Width, beam, "beam")
        sentences = as_sentences(sentences)
        translations = [untranslated(sentence) for sentence in sentences]
        order = [i for i, sentence in enumerate(sentences) if is_translatable(sentence)]
        texts = [self.prefix + normalize(sentences[i]) for i in order]
        rows = self.tokenizer(texts)["input_ids"] if order else []
        self._refuse_long(max(map(len, rows), default=0))
        # A batch holds sources of one length: they share the length limit, and nothing is padded.
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for i, row in zip(order, rows, strict=True):
            by_length.setdefault(len(row), []).append((i, row))
        batches = [
            same[start : start + self.batch_size]
            for _, same in sorted(by_length.items())
            for start in range(0, len(same), self.batch_size)
        ]
        for batch in batches:
            indices = [i for i, _ in batch]
            output = self._generate([row for _, row in batch], beam)
            for i, text in zip(indices, self._decode(output), strict=True):
                text = clean_output(text)
                translations[i] = Translation(text, warnings=faults(sentences[i], text))
            if progress is not None:
                progress.update(len(indices))
        if progress is not None:
            progress.update(sum(map(bool, sentences)) - len(order))
        return translations

    def _refuse_long(self, length: int) -> None:
        if self.max_source_tokens is not None and length > self.max_source_tokens:
            remedy = "lower corpus.max_words" if "=" in self.option else "split it"
            raise VqnmtError(
                f"{self.place}: a source has {length} tokens and the model takes "
                f"{self.max_source_tokens}: {remedy}"
            )

    def _decode(self, rows: list[list[int]]) -> list[str]:
        # M2M100's tokenizer does not count language codes among its special tokens.
        codes = set(self._languages.values())
        rows = [[token for token in row if token not in codes] for row in rows]
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts


class ConvertedTranslator(TransformersTranslator):
    """A checkpoint of transformers that has been converted to CTranslate2.

    Its folder has the tokenizer's files too, as ctranslate2's converter copies them with
    `--copy_files`.
    """

    def _load(self, name: str) -> None:
        import ctranslate2

        self._engine = ctranslate2.Translator(name, device="cpu", intra_threads=available_cores())

    def _generate(self, rows: list[list[int]], beam: int) -> list[list[int]]:
        tokenizer: Any = self.tokenizer
        to_tokens, to_ids = tokenizer.convert_ids_to_tokens, tokenizer.convert_tokens_to_ids
        prefix = [to_tokens(index) for index in self._forced.values()]
        results = self._engine.translate_batch(
            [to_tokens(row) for row in rows],
            target_prefix=[prefix for _ in rows] if prefix else None,
            beam_size=beam,
            max_decoding_length=length_limit(len(rows[0])),
            max_input_length=0,
        )
        return [to_ids(result.hypotheses[0]) for result in results]


def language_ids(tokenizer: Any) -> dict[str, int]:
    """Map the language codes of a multilingual tokenizer to their tokens; {} for any other."""
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if known := getattr(tokenizer, "lang_code_to_id", None):  # M2M100 (de), mBART (de_DE)
        return dict(known)
    # NLLB has them only among its special tokens (deu_Latn).
    codes = [t for t in tokenizer.all_special_tokens if re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", t)]
    return dict(zip(codes, tokenizer.convert_tokens_to_ids(codes), strict=True))


def language_code(language: str, codes: Sequence[str]) -> str:
    """Find the one of a tokenizer's `codes` that means `language`.

    Args:
        language: One of the codes, or a language of ISO 639-1 with or without a script or region
            ("de", "pt-BR", "zh_Hans").
        codes: Such as "de", "de_DE" or "deu_Latn".

    Raises:
        VqnmtError: No code means the language, or several do.
    """
    language = language.replace("-", "_")
    base, *further = language.split("_")
    longer = dict(pair.split(":") for pair in _THREE_LETTERS.split())
    names = {base, longer.get(base, base)}
    exact = [code for code in codes if code in {"_".join([name, *further]) for name in names}]
    found = exact or [code for code in codes if code.split("_")[0] in names]
    if len(found) == 1:
        return found[0]
    choice = f"choose among {', '.join(found)}" if found else f"give one like {codes[0]}"
    raise VqnmtError(f"is {language}, for which it has {len(found) or 'no'} codes: {choice}")
