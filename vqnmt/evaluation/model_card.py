"""The model card (README.md) of a saved model folder, in the Hub's format."""

import json
from collections.abc import Sequence

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
) -> str:
    """Return the text of a model card: YAML front matter, use, data, quality and limits.

    Args:
        title: Name of the model.
        description: What it is, in a sentence or two of Markdown.
        corpus: The text that it was trained on.
        records: This model's run records; without any, its quality is said to be unmeasured.
        limits: Further limits than those of every model of this kind, a sentence each.
    """
    pair = f"{corpus.source_language} to {corpus.target_language}"
    quality = "Not measured yet: `python scripts/evaluate.py` scores a saved model."
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
        _front_matter(title, corpus, records),
        f"# {title}",
        f"{description} It translates from {pair}.",
        "## Use",
        '```python\nimport vqnmt\n\ntranslator = vqnmt.load_translator("DIR")\n'
        'print(translator.translate(["..."])[0].text)\n```',
        "From a checkout, one line in, one line out:",
        "```sh\npython scripts/translate.py --model DIR < in.txt > out.txt\n```",
        "## Training data",
        corpus_section(corpus),
        "## Quality",
        quality,
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(title: str, corpus: CorpusFacts, records: Sequence[Record]) -> str:
    """Return the YAML block; every scalar is a JSON string or number, which YAML contains."""
    lines = ["---", "language:"]
    lines += [f"- {json.dumps(code)}" for code in (corpus.source_language, corpus.target_language)]
    identifier = "-".join(corpus.licence.lower().split())
    if identifier in _HUB_LICENCES:
        lines.append(f"license: {identifier}")
    else:
        lines += ["license: other", f"license_name: {_scalar(corpus.licence)}"]
    lines += ["library_name: vqnmt", "pipeline_tag: translation"]
    lines += ["tags:", "- translation", "- vqnmt", "- vq-vae", "- non-autoregressive"]
    lines += ["metrics:", "- bleu", "- chrf"]
    results = [
        (record, kind, key.split(".", 1)[1], value)
        for record in records
        for key, value in record.metrics.items()
        if (kind := key.split(".")[0]) in _METRICS and "." in key
    ]
    if results:
        lines += ["model-index:", f"- name: {_scalar(title)}", "  results:"]
    for record, kind, test_set, value in results:
        lines += [
            "  - task:",
            "      type: translation",
            "    dataset:",
            f"      name: {_scalar(f'{record.corpus} {test_set}')}",
            f"      type: {_scalar(corpus.name)}",
            "    metrics:",
            f"    - type: {kind}",
            f"      name: {_scalar(_METRICS[kind])}",
            f"      value: {_scalar(value)}",
        ]
    return "\n".join([*lines, "---"])


def _scalar(value: float | int | str) -> str:
    return json.dumps(value, ensure_ascii=False)
