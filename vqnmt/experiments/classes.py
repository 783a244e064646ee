"""A finished model by class of text, beside its teacher in CTranslate2.

labels            interface strings of up to three words, held out
seen_labels       the same, of the training text
interface         interface sentences, held out
everyday          sentences of Tatoeba, held out
another_project   interface sentences of Indico, on which no model here is trained
spans             interface strings of Indico with protected spans
captions          Multi30k's test_2016_flickr; research use: only scores are kept of it

Strings are chosen by the hash of the source, the smallest first, so that nobody picks them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from vqnmt.data.catalogue import CATALOGUE
from vqnmt.data.corpus import Corpus, ParallelText
from vqnmt.data.labels import seen_labels
from vqnmt.data.normalization import sentence_key
from vqnmt.data.readers import Pair
from vqnmt.data.strings import JoinedStrings, PackageStrings
from vqnmt.data.words import count_words
from vqnmt.downloads import RemoteFile
from vqnmt.evaluation.latency import measure_latency
from vqnmt.evaluation.records import Metric
from vqnmt.evaluation.scores import exact_match
from vqnmt.files import atomic_write_text
from vqnmt.pipeline.systems import quality_metrics
from vqnmt.spans import compare_spans, find_spans
from vqnmt.splits import hash_order, text_hash
from vqnmt.translate.base import BatchTranslator

CAPTIONS = "captions"
"""The class whose sentences must not be copied into the repository: they are for research."""
SPANS = "spans"
"""The class of strings with protected spans."""
# Indico, of CERN: MIT, as its package states; 6,400 English-German pairs.
ANOTHER_PROJECT = JoinedStrings(
    (
        PackageStrings(
            package=RemoteFile(
                path="interface/indico-3.3.14-py3-none-any.whl",
                checksum="sha256:d98e030e0f21d22b9d9423d7cb3f9fca472ac5c2c4f3d8c5d7026ed3ed6c9811",
                requirement="indico==3.3.14",
            ),
            member=r"indico/translations/{language}/LC_MESSAGES/(messages-\w+)\.po",
            english_keys=True,
        ),
    )
)
# Strings with spans, and sentences of the other project.
_SPANS, _SENTENCES = 1000, 500
# Words of the shortest sentence.
_SENTENCE = 4
# Written for the card, as captions of photographs are: none is from a corpus.
OWN_CAPTIONS = (
    "A man in a blue shirt is standing on a ladder.",
    "Two dogs run across a snowy field.",
    "A little girl is holding a red balloon.",
    "Three women are sitting on a bench in the park.",
    "A boy rides his bicycle down a narrow street.",
    "People are waiting in line in front of a bakery.",
    "An old man with a hat plays the guitar.",
    "A cat sleeps on the windowsill.",
    "Children are building a sandcastle on the beach.",
    "A woman in a white coat looks through a microscope.",
    "A crowd watches a street musician at night.",
    "Two workers in orange vests are repairing a road.",
    "A baby laughs at a puppy.",
    "A surfer falls off his board into a big wave.",
    "A waiter carries a tray with four glasses.",
    "Four friends are eating pizza at a small table.",
    "A girl with glasses reads a book under a tree.",
    "A man throws a frisbee to his dog.",
    "Several cyclists wearing helmets climb a steep hill.",
    "A mother is tying her son's shoes.",
    "A black horse jumps over a fence.",
    "A football player kicks the ball toward the goal.",
    "A couple is dancing in the rain.",
    "A fisherman is mending a net on his boat.",
    "A young woman takes a picture of a bridge.",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one system on several classes."""

    metrics: dict[str, Metric]
    """`bleu.<class>`, `chrf.<class>`, `exact_match.<class>`, `placeholder_accuracy.<class>`,
    `number_accuracy.<class>`, `intact.<class>` (per cent of the strings with spans that keep all
    and invent none), `latency_ms.<class>` (the median) and `sentences.<class>`."""
    translations: dict[str, Sequence[str]]
    """The translations of each class."""


def classes_of_text(corpus: Corpus, cache: Path) -> dict[str, ParallelText]:
    """Gather the classes of the module's list that there are for a corpus and its languages.

    Sources that the corpus has, in whatever part, are left out of the other project's.

    Args:
        corpus: What the model was trained on; its test sets are classes by their names.
        cache: Folder for downloads.

    Raises:
        VqnmtError: A file is not to be had.
    """
    languages = corpus.source_language, corpus.target_language
    classes = dict(corpus.test)
    if "labels" in classes:
        classes["seen_labels"] = seen_labels(corpus.train)
    known = {
        sentence_key(source) for source in chain(corpus.train.sources, corpus.held_out_sources)
    }
    other: dict[str, Pair] = {}
    for pair in ANOTHER_PROJECT.pairs(*languages, cache):
        if sentence_key(pair[0]) not in known:
            other.setdefault(pair[0], pair)
    sentences = (pair for pair in other.values() if count_words(pair[0]) >= _SENTENCE)
    classes["another_project"] = _text(by_hash(sentences)[:_SENTENCES])
    with_spans = (pair for pair in other.values() if find_spans(pair[0]))
    classes[SPANS] = _text(by_hash(with_spans)[:_SPANS])
    captions = CATALOGUE["multi30k"]
    if captions.languages is not None and set(languages) == set(captions.languages):
        (piece,) = captions.tests["test_2016_flickr"]
        classes[CAPTIONS] = _text(list(piece.pairs(*languages, cache)))
    return classes


def by_hash(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs in the order of the hashes of their sources."""
    return sorted(pairs, key=lambda pair: text_hash(pair[0]))


def unprotected(translator: BatchTranslator) -> Callable[[str], str]:
    """Let the same model see spans as they stand, without slots, checks or repairs."""
    other = copy(translator)
    other.vocabulary = copy(translator.vocabulary)
    other.vocabulary.slots = 0
    return lambda text: other.translate([text], repair=False)[0].text


def measure_class(
    name: str,
    text: ParallelText,
    systems: Mapping[str, Callable[[str], str]],
    language: str,
) -> dict[str, Measured]:
    """Translate a class one string at a time, the systems in turn, and score it.

    Labels have no BLEU, which counts sequences of four words; their chrF++ is that against the most
    frequent translation, and exact match takes any.

    Args:
        name: Of the class.
        text: Its strings.
        systems: From a system's name to its translation of one string.
        language: Of the targets.
    """
    plain = replace(text, references=None)
    references = text.references or [[target] for target in text.targets]
    found = {}
    for system, latency in measure_latency(systems, text.sources, rounds=1).items():
        texts = latency.translations
        metrics = quality_metrics({name: texts}, {name: plain}, language)
        if text.references:
            del metrics[f"bleu.{name}"]
        metrics[f"exact_match.{name}"] = exact_match(texts, references)
        kept = [
            compare_spans(source, translation) == ([], [])
            for source, translation in zip(text.sources, texts, strict=True)
            if find_spans(source)
        ]
        if kept:
            metrics[f"intact.{name}"] = 100 * sum(kept) / len(kept)
        metrics[f"latency_ms.{name}"] = latency.median_ms
        metrics[f"sentences.{name}"] = len(text)
        found[system] = Measured(metrics, {name: texts})
    return found


def measure_classes(
    classes: Mapping[str, ParallelText],
    systems: Mapping[str, Callable[[str], str]],
    further: Mapping[str, Callable[[str], str]],
    language: str,
) -> dict[str, Measured]:
    """Measure `systems` on all classes, and `further` ones on the strings with spans."""
    found = {name: Measured({}, {}) for name in (*systems, *further)}
    for name, text in classes.items():
        chosen = {**systems, **further} if name == SPANS else systems
        for system, its in measure_class(name, text, chosen, language).items():
            found[system].metrics.update(its.metrics)
            found[system].translations.update(its.translations)
    return found


def write_examples(
    path: Path,
    classes: Mapping[str, ParallelText],
    measured: Mapping[str, Measured],
    systems: Mapping[str, Callable[[str], str]],
    count: int,
) -> None:
    """Write the first `count` strings of each class by hash, with what each system makes of them.

    Of captions our own are taken. The file is a JSON list of objects: `class`, `source`,
    `references` and `translations` by system.
    """
    examples: list[dict[str, Any]] = []
    for name, text in classes.items():
        if name == CAPTIONS:
            continue
        for i in hash_order(text.sources)[:count]:
            references = text.references[i] if text.references else [text.targets[i]]
            its = {system: measured[system].translations[name][i] for system in systems}
            examples.append(_example(name, text.sources[i], references, its))
    for source in OWN_CAPTIONS if CAPTIONS in classes else ():
        its = {system: translate(source) for system, translate in systems.items()}
        examples.append(_example(CAPTIONS, source, [], its))
    atomic_write_text(path, json.dumps(examples, indent=1, ensure_ascii=False) + "\n")


def _example(
    name: str, source: str, references: Sequence[str], translations: dict[str, str]
) -> dict[str, Any]:
    return {
        "class": name,
        "source": source,
        "references": list(references),
        "translations": translations,
    }


def _text(pairs: Sequence[Pair]) -> ParallelText:
    return ParallelText([pair[0] for pair in pairs], [pair[1] for pair in pairs])
