"""Score a model, or finished translations, on a pair of files or on a corpus of the catalogue.

vqnmt evaluate --model DIR --source test.en --reference test.de [--output out.de]
vqnmt evaluate --model DIR --corpus multi30k [--set test_2016_flickr]
vqnmt evaluate --model translations.de --source test.en --reference test.de

A model of transformers, or CTranslate2's of one, needs --source-language and --target-language.
hf://user/repo is a model of the Hub, of vqnmt or of transformers.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vqnmt.commands.command_line import PLACE, READER, SWITCH, WIDTH, Options

from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import ParallelText, prepare_corpus
from vqnmt.data.readers import hold, read_lines, read_parallel
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.scores import comet, comet_command, exact_match, score, span_accuracies
from vqnmt.files import atomic_write_lines, check_writable
from vqnmt.progress import Progress
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import located, read_values
from vqnmt.translate.loading import load_translator

if TYPE_CHECKING:
    from vqnmt.translate.seq2seq import TransformersTranslator


def main(arguments: list[str]) -> None:
    """Translate and score."""
    parser = Options(__doc__)
    parser.add_argument(
        "--model",
        type=PLACE,
        required=True,
        help="model folder, exported or not; one of transformers or CTranslate2; or a file of "
        "translations, a line each",
    )
    parser.add_argument("--source", type=PLACE, help="file of sources")
    parser.add_argument("--reference", type=PLACE, help="file of references")
    parser.add_argument("--corpus", help="name in the catalogue, instead of files")
    parser.add_argument("--set", help="valid or a test set of the corpus; default: the first test")
    for side in ("source", "target"):
        parser.add_argument(f"--{side}-language", help="such as de; one of our models knows it")
    parser.add_argument("--output", type=PLACE, help="file for the translations")
    parser.add_argument("--beam", type=WIDTH, default=1, help="beam over tokens or codes")
    parser.add_argument("--language-model", action=SWITCH, default=True, help=READER)
    parser.add_argument(
        "--comet",
        metavar="MODEL",
        help="score with COMET too, by a model such as Unbabel/wmt22-comet-da; needs unbabel-comet",
    )
    options = parser.parse_args(arguments)
    if not options.corpus and not (options.source and options.reference):
        raise VqnmtError("give --source and --reference, or --corpus")
    if options.corpus and (options.source or options.reference):
        raise VqnmtError("give --source and --reference, or --corpus, but not both")
    if options.set and not options.corpus:
        raise VqnmtError(f"--set is {options.set}, but only a --corpus has sets: leave it out")
    if options.output:
        check_writable(Path(options.output).parent, "--output")
    if options.comet:
        comet_command()  # before hours of translation
    system = _load(options)
    text = _corpus_text(options, system) if options.corpus else _file_text(options)
    if options.comet and text.references:
        raise VqnmtError("--comet needs one reference a sentence, and this set has several")
    texts = (
        system.translations if isinstance(system, Finished) else _translate(system, text, options)
    )
    if options.output:
        atomic_write_lines(options.output, texts)
    if text.references:
        print(f"exact match {exact_match(texts, text.references):.1f}%")
        return
    scores = score(texts, text.targets, system.target_language)
    print(f"BLEU   {scores.bleu:.2f}   {scores.bleu_signature}")
    print(f"chrF++ {scores.chrf:.2f}   {scores.chrf_signature}")
    if options.comet:
        found = comet(options.comet, text.sources, texts, text.targets)
        print(f"COMET  {found:.4f}   {options.comet}")
    kept = span_accuracies(text.sources, texts, getattr(system, "span_patterns", ()))
    for key, percentage in kept.items():
        print(f"{key} {percentage:.1f}")


@dataclass(frozen=True)
class Finished:
    """Translations from anywhere, read from a file."""

    translations: list[str]
    source_language: str
    target_language: str


System: TypeAlias = "BatchTranslator | TransformersTranslator | Finished"


def _load(options: argparse.Namespace) -> System:
    """Load whatever `--model` names."""
    place = located(options.model)
    if place.is_file():
        languages = options.source_language or "", options.target_language or ""
        if options.corpus and not all(languages):
            raise VqnmtError(
                f"--model {place} holds translations, whose languages a --corpus must know: give "
                "--source-language and --target-language with it"
            )
        return Finished(list(read_lines(place)), *languages)
    converted = (place / "model.bin").is_file()
    if not place.is_dir() or (not converted and _is_ours(place)):
        return load_translator(place)
    languages = options.source_language, options.target_language
    if None in languages:
        raise VqnmtError(
            f"--model {options.model} is no model of vqnmt: give --source-language and "
            "--target-language with it"
        )
    from vqnmt.translate.seq2seq import ConvertedTranslator, TransformersTranslator

    kind = ConvertedTranslator if converted else TransformersTranslator
    return kind(str(place), *languages, option="--model ")


def _is_ours(folder: Path) -> bool:
    """Tell a model folder of vqnmt, or what is none at all, from one of transformers."""
    try:
        return str(read_values(folder).get("model_type", "vqnmt")).startswith("vqnmt")
    except VqnmtError:
        return True  # to be refused as such


def _translate(
    system: "BatchTranslator | TransformersTranslator",
    text: ParallelText,
    options: argparse.Namespace,
) -> list[str]:
    own = {"language_model": options.language_model} if isinstance(system, BatchTranslator) else {}
    with Progress("translation", len(text), "sentences") as progress:
        found = system.translate(text.sources, beam=options.beam, progress=progress, **own)
    return [translation.text for translation in found]


def _file_text(options: argparse.Namespace) -> ParallelText:
    pairs = hold(read_parallel(options.source, options.reference), options.source)
    return ParallelText([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _corpus_text(options: argparse.Namespace, system: System) -> ParallelText:
    config = CorpusConfig(
        name=options.corpus,
        source_language=system.source_language,
        target_language=system.target_language,
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(config, folder)
    sets = {**corpus.test, "valid": corpus.valid}
    name = options.set or next(iter(sets))
    if name not in sets:
        raise VqnmtError(f"--set is {name}; {options.corpus} has {', '.join(sets)}")
    return sets[name]
