"""The model card (README.md) of a saved model folder, in the Hub's format."""

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import CorpusFacts, corpus_section, results_table, signatures

# Licences that have an identifier on the Hub; all others are declared as "other" there.
_HUB_LICENCES = {
    *("apache-2.0", "mit", "cc0-1.0", "gpl-3.0", "odc-by"),
    *(f"cc-by-{version}" for version in ("2.0", "2.5", "3.0", "4.0")),
    *(f"cc-by-{kind}-{version}" for kind in ("sa", "nc", "nc-sa") for version in ("3.0", "4.0")),
}
_METRICS = {"bleu": "BLEU", "chrf": "chrF++", "exact_match": "exact match"}


def model_card(
    *,
    title: str,
    description: str,
    corpus: CorpusFacts,
    records: Sequence[Record] = (),
    limits: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> str:
    """Return the text of a model card: YAML front matter, use, data, quality and limits.

    Args:
        title: Name of the model.
        description: What it is, in a sentence or two of Markdown.
        corpus: The text that it was trained on.
        records: This model's run records; without any, its quality is said to be unmeasured.
        limits: Further limits than those of every model of this kind, a sentence each.
        tags: The Hub's tags for its method.
    """
    pair = f"{corpus.source_language} to {corpus.target_language}"
    quality = "Not measured yet: `vqnmt evaluate` scores a saved model."
    if records:
        quality = f"{results_table(records)}\n\n{signatures(records)}"
    limits = [
        f"Trained on one corpus only ({corpus.name}): expect less of text of another kind.",
        "Each line is translated by itself; nothing is known of the sentences around it.",
        "A translation may drop, repeat or invent words, and may carry the corpus's biases: "
        "let a person read whatever matters.",
        *limits,
    ]
    parts = [
        _front_matter(title, corpus, records, tags),
        f"# {title}",
        f"{description} It translates from {pair}.",
        "## Use",
        '```python\nimport vqnmt\n\ntranslator = vqnmt.load_translator("DIR")\n'
        'print(translator("..."))\n```',
        "One line in, one line out:",
        "```sh\nvqnmt translate --model DIR < in.txt > out.txt\n```",
        "## Training data",
        corpus_section(corpus),
        "## Quality",
        quality,
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits),
    ]
    return "\n\n".join(parts) + "\n"


def with_section(card: str, heading: str, text: str) -> str:
    """Put the section `heading` into a model card, before its limits.

    Args:
        card: Text of a card that `model_card` has made.
        heading: Replaces the section of that heading, if there is one.
        text: Its Markdown.
    """
    section = f"## {heading}\n\n{text}\n\n"
    parts = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    parts = [part for part in parts if not part.startswith(f"## {heading}\n")]
    place = next((i for i, part in enumerate(parts) if part.startswith("## Limits")), len(parts))
    before = "".join(parts[:place]).rstrip("\n")
    return f"{before}\n\n{section}{''.join(parts[place:])}".rstrip("\n") + "\n"


def _front_matter(
    title: str, corpus: CorpusFacts, records: Sequence[Record], tags: Sequence[str]
) -> str:
    """Return the YAML block."""
    identifier = "-".join(corpus.licence.lower().split())
    named: dict[str, Any] = {"license": identifier}
    if identifier not in _HUB_LICENCES:
        named = {"license": "other", "license_name": corpus.licence}
    results = [
        EvalResult(
            task_type="translation",
            dataset_type=corpus.name,
            dataset_name=f"{record.corpus} {test_set}",
            dataset_split=test_set,  # results of one dataset and split are one entry
            metric_type=kind,
            metric_name=_METRICS[kind],
            metric_value=value,
        )
        for record in records
        for key, value in record.metrics.items()
        for kind, _, test_set in [key.partition(".")]
        if kind in _METRICS and test_set
    ]
    data = ModelCardData(
        language=[corpus.source_language, corpus.target_language],
        library_name="vqnmt",
        pipeline_tag="translation",
        tags=["translation", "vqnmt", *tags],
        metrics=list(dict.fromkeys(["bleu", "chrf", *(one.metric_type for one in results)])),
        model_name=title,
        eval_results=results or None,
        **named,
    )
    return f"---\n{data.to_yaml()}\n---"
