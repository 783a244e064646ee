"""What tables, reports and model cards say of a corpus."""

from pathlib import Path

from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import Corpus
from vqnmt.evaluation.report import CorpusFacts


def split_name(part: str) -> str:
    """Name a part of the corpus as the tables do: a test set by its own name."""
    return part.removeprefix("test.")


def pair_name(corpus: Corpus | CorpusConfig) -> str:
    """Name a corpus and its languages as records do: `multi30k-en-de`."""
    return f"{corpus.name}-{corpus.source_language}-{corpus.target_language}"


def records_path(folder: str, corpus: Corpus | CorpusConfig) -> Path:
    """Return the file of records of a corpus in the folder of records."""
    return Path(folder) / f"{pair_name(corpus)}.json"


def corpus_facts(corpus: Corpus) -> CorpusFacts:
    """Gather what reports and model cards say of a corpus."""
    parts = corpus.report["parts"]
    dropped: dict[str, int] = {}
    for facts in parts.values():
        for reason, count in facts["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    return CorpusFacts(
        name=corpus.name,
        source_language=corpus.source_language,
        target_language=corpus.target_language,
        licence=corpus.report["licence"],
        attribution=corpus.report["attribution"],
        counts={split_name(part): facts["pairs"] for part, facts in parts.items()},
        dropped=dropped,
    )
