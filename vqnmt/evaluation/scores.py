"""Translation quality: sacreBLEU and chrF++ on detokenised text, with their signatures."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

from vqnmt.errors import VqnmtError
from vqnmt.spans import find_spans

# Scripts that 13a would not split: sacrebleu's tokeniser, and the module that it needs.
_TOKENIZERS = {"zh": ("zh", None), "ja": ("ja-mecab", "MeCab"), "ko": ("ko-mecab", "mecab_ko")}
# Written without spaces between words, and without a tokeniser of their own in sacrebleu.
_UNSPACED = {"th", "lo", "km", "my", "bo", "dz"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Corpus scores of one set of translations."""

    bleu: float
    """BLEU (Papineni et al. 2002), from 0 to 100."""
    bleu_signature: str
    """sacrebleu's signature: tokeniser, smoothing, case and version."""
    chrf: float
    """chrF++ (Popović 2017; character 6-grams and word 2-grams), from 0 to 100."""
    chrf_signature: str
    """sacrebleu's signature of chrF++."""
    length_ratio: float
    """Tokens of the translations over tokens of the references, as BLEU counts them."""


def bleu_tokenizer(target_language: str) -> str:
    """Name the sacrebleu tokeniser of a language.

    `13a` for languages with spaces between words, `zh` for Chinese, MeCab for Japanese and Korean
    where it is installed and `char` otherwise. The signature names the choice.

    Args:
        target_language: A language code, with or without a region ("de", "pt-BR", "zh_Hans").
    """
    language = target_language.replace("_", "-").split("-")[0].lower()
    if language in _UNSPACED:
        return "char"
    tokenizer, module = _TOKENIZERS.get(language, ("13a", None))
    return tokenizer if module is None or importlib.util.find_spec(module) else "char"


def score(
    hypotheses: Sequence[str], references: Sequence[str], target_language: str = ""
) -> Scores:
    """Score detokenised translations against one detokenised reference each.

    Args:
        hypotheses: The translations, in the order of the references.
        references: The true translations.
        target_language: Chooses BLEU's tokeniser, see `bleu_tokenizer`.

    Raises:
        VqnmtError: The counts differ, or there is nothing to score.
    """
    if len(hypotheses) != len(references):
        raise VqnmtError(
            f"cannot score {len(hypotheses)} translations against {len(references)} references: "
            "give exactly one reference for each translation"
        )
    if not references:
        raise VqnmtError("cannot score 0 sentences: the test set is empty; name one with text")
    bleu = BLEU(tokenize=bleu_tokenizer(target_language))
    chrf = CHRF(word_order=2)
    bleu_score = bleu.corpus_score(hypotheses, [references])
    chrf_score = chrf.corpus_score(hypotheses, [references])
    return Scores(
        bleu=bleu_score.score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf_score.score,
        chrf_signature=str(chrf.get_signature()),
        length_ratio=bleu_score.sys_len / max(bleu_score.ref_len, 1),
    )


def comet_command() -> str:
    """Return the path of `comet-score`, the program of the package unbabel-comet.

    That package needs transformers below 5, so it has an environment of its own.

    Raises:
        VqnmtError: The program is not on the search path.
    """
    found = shutil.which("comet-score")
    if found is None:
        raise VqnmtError(
            "COMET needs the program comet-score, which is not on PATH: install unbabel-comet in "
            "an environment of its own, such as by pipx install unbabel-comet"
        )
    return found


def comet(
    model: str, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> float:
    """Return COMET (Rei et al. 2020), the mean over the sentences; most models give 0 to 1.

    Args:
        model: One of COMET's models, such as "Unbabel/wmt22-comet-da", or a file *.ckpt.
        sources: The sources.
        hypotheses: Their translations.
        references: The true translations.

    Raises:
        VqnmtError: `comet-score` is not installed, or it fails; gives its last line.
    """
    command = comet_command()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        named = {"sources": sources, "translations": hypotheses, "references": references}
        for name, texts in named.items():
            place = Path(folder, name)
            # It reads a sentence from each line, and a carriage return ends a line.
            lines = [re.sub(r"[\r\n]", " ", text) + "\n" for text in texts]
            place.write_text("".join(lines), encoding="utf-8")
            files += [f"--{name}", str(place)]
        done = subprocess.run(
            [command, *files, "--model", model, "--quiet", "--only_system"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    found = re.search(r"\tscore: (-?[\d.]+)\s*\Z", done.stdout)
    if done.returncode or found is None:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise VqnmtError(
            f"comet-score has not scored with the model {model}, and says: {said:.300}; check its "
            "environment, the model's name, and that this machine reaches the Hub"
        )
    return float(found[1])


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the percentage of translations that equal one of their references.

    Args:
        hypotheses: The translations.
        references: All right translations of each.

    Raises:
        VqnmtError: The counts differ, or there is nothing to score.
    """
    if len(hypotheses) != len(references) or not references:
        raise VqnmtError(
            f"cannot score {len(hypotheses)} translations against references of "
            f"{len(references)}: give one set of references, or more, for each translation"
        )
    right = [text in known for text, known in zip(hypotheses, references, strict=True)]
    return 100 * sum(right) / len(right)


def span_accuracies(
    sources: Sequence[str], translations: Sequence[str], patterns: Sequence[str] = ()
) -> dict[str, float]:
    """Count how many translations keep what must not change; see `vqnmt.spans`.

    Args:
        sources: The sources.
        translations: Their translations.
        patterns: See `vqnmt.spans.find_spans`.

    Returns:
        `placeholder_accuracy`: of the sources with placeholders, tags, addresses, code and other
        spans than numbers, the percentage whose translation has all of these, each as often, and no
        others. `number_accuracy`: the same of numbers; only their digits and the kind of their
        separators count. A key is left out where no source has such spans.
    """
    kept: dict[str, list[bool]] = {"placeholder_accuracy": [], "number_accuracy": []}
    for pair in zip(sources, translations, strict=True):
        found = [find_spans(text, patterns) for text in pair]
        for key, numbers in (("placeholder_accuracy", False), ("number_accuracy", True)):
            wanted, got = (
                Counter(span.sign for span in spans if (span.kind == "number") == numbers)
                for spans in found
            )
            if wanted:
                kept[key].append(wanted == got)
    return {key: 100 * sum(all_) / len(all_) for key, all_ in kept.items() if all_}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A system's BLEU against a baseline's, by sacrebleu's paired bootstrap (Koehn 2004)."""

    difference: float
    """BLEU of the system minus BLEU of the baseline."""
    p_value: float
    """Probability of a difference at least as large if the two were equally good."""
    interval: float
    """BLEU's 95% confidence interval is the score plus or minus this."""


def paired_bootstrap(
    baseline: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    target_language: str = "",
    samples: int = 1000,
) -> dict[str, Comparison]:
    """Compare the BLEU of systems with that of a baseline on the same sentences.

    Args:
        baseline: Its translations, in the order of the references.
        systems: The translations of each system, by name.
        references: The true translations.
        target_language: Chooses BLEU's tokeniser, see `bleu_tokenizer`.
        samples: Resamplings of the sentences; sacrebleu fixes their seed.
    """
    bleu = BLEU(tokenize=bleu_tokenizer(target_language))
    test = PairedTest(
        [("", baseline), *systems.items()],
        {"BLEU": bleu},
        [references],
        test_type="bs",
        n_samples=samples,
    )
    _, found = test()
    own, *results = [result for result in found["BLEU"] if isinstance(result, Result)]
    comparisons = {}
    for name, result in zip(systems, results, strict=True):
        assert result.p_value is not None and result.ci is not None  # as only a baseline's are
        comparisons[name] = Comparison(
            difference=result.score - own.score,
            # sacrebleu gives two equal systems the smallest p there is.
            p_value=1.0 if list(systems[name]) == list(baseline) else float(result.p_value),
            interval=float(result.ci),
        )
    return comparisons
