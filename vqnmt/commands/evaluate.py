"""Score a saved model on a pair of files or on a corpus of the catalogue.

vqnmt evaluate --model DIR --source test.en --reference test.de [--output out.de]
vqnmt evaluate --model DIR --corpus multi30k [--set test_2016_flickr]
"""

import argparse
import tempfile

from vqnmt.commands.command_line import PLACE, READER, SWITCH, WIDTH, Options

from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import ParallelText, prepare_corpus
from vqnmt.data.readers import hold, read_parallel
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.scores import exact_match, score, span_accuracies
from vqnmt.files import atomic_write_lines
from vqnmt.progress import Progress
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.loading import load_translator


def main(arguments: list[str]) -> None:
    """Translate and score."""
    parser = Options(__doc__)
    parser.add_argument(
        "--model", type=PLACE, required=True, help="model folder, or an exported one"
    )
    parser.add_argument("--source", type=PLACE, help="file of sources")
    parser.add_argument("--reference", type=PLACE, help="file of references")
    parser.add_argument("--corpus", help="name in the catalogue, instead of files")
    parser.add_argument("--set", help="valid or a test set of the corpus; default: the first test")
    parser.add_argument("--output", type=PLACE, help="file for the translations")
    parser.add_argument("--beam", type=WIDTH, default=1, help="beam over tokens or codes")
    parser.add_argument("--language-model", action=SWITCH, default=True, help=READER)
    options = parser.parse_args(arguments)
    if not options.corpus and not (options.source and options.reference):
        raise VqnmtError("give --source and --reference, or --corpus")
    if options.corpus and (options.source or options.reference):
        raise VqnmtError("give --source and --reference, or --corpus, but not both")
    if options.set and not options.corpus:
        raise VqnmtError(f"--set is {options.set}, but only a --corpus has sets: leave it out")
    translator = load_translator(options.model)
    text = _corpus_text(options, translator) if options.corpus else _file_text(options)
    with Progress("translation", len(text), "sentences") as progress:
        found = translator.translate(
            text.sources,
            beam=options.beam,
            language_model=options.language_model,
            progress=progress,
        )
    texts = [translation.text for translation in found]
    if options.output:
        atomic_write_lines(options.output, texts)
    if text.references:
        print(f"exact match {exact_match(texts, text.references):.1f}%")
        return
    scores = score(texts, text.targets, translator.target_language)
    print(f"BLEU   {scores.bleu:.2f}   {scores.bleu_signature}")
    print(f"chrF++ {scores.chrf:.2f}   {scores.chrf_signature}")
    kept = span_accuracies(text.sources, texts, translator.span_patterns)
    for key, percentage in kept.items():
        print(f"{key} {percentage:.1f}")


def _file_text(options: argparse.Namespace) -> ParallelText:
    pairs = hold(read_parallel(options.source, options.reference), options.source)
    return ParallelText([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _corpus_text(options: argparse.Namespace, translator: BatchTranslator) -> ParallelText:
    config = CorpusConfig(
        name=options.corpus,
        source_language=translator.source_language,
        target_language=translator.target_language,
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(config, folder)
    sets = {**corpus.test, "valid": corpus.valid}
    name = options.set or next(iter(sets))
    if name not in sets:
        raise VqnmtError(f"--set is {name}; {options.corpus} has {', '.join(sets)}")
    return sets[name]
