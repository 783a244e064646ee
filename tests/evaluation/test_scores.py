import importlib.util
import os
import random
from pathlib import Path

import pytest
import sacrebleu

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.scores import bleu_tokenizer, comet, exact_match, paired_bootstrap, score

HYPOTHESES = ["Das Haus ist klein, aber schön.", "Die Tür ist offen.", "Guten Tag!"]
REFERENCES = ["Das Haus ist klein und sehr schön.", "Die Tür steht offen.", "Guten Tag!"]


def test_equals_sacrebleu_called_directly():
    scores = score(HYPOTHESES, REFERENCES, "de")
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    chrf = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2)
    assert scores.bleu == bleu.score
    assert scores.chrf == chrf.score
    assert scores.length_ratio == pytest.approx(bleu.sys_len / bleu.ref_len)
    assert "tok:13a|smooth:exp" in scores.bleu_signature
    assert f"version:{sacrebleu.__version__}" in scores.bleu_signature
    assert "nw:2" in scores.chrf_signature  # word order 2 is what makes it chrF++


def test_perfect_translation_and_empty_translation():
    perfect = score(REFERENCES, REFERENCES, "de")
    assert (perfect.bleu, perfect.chrf) == pytest.approx((100, 100))
    assert perfect.length_ratio == 1
    empty = score([""] * 3, REFERENCES, "de")
    assert (empty.bleu, empty.chrf, empty.length_ratio) == (0, 0, 0)


def test_tokenizer_by_language():
    assert {bleu_tokenizer(code) for code in ("de", "en", "pt-BR", "", "fr_CA")} == {"13a"}
    assert {bleu_tokenizer(code) for code in ("zh", "zh-CN", "zh_Hans")} == {"zh"}
    assert bleu_tokenizer("th") == "char"
    for code, tokenizer, module in [("ja", "ja-mecab", "MeCab"), ("ko", "ko-mecab", "mecab_ko")]:
        assert bleu_tokenizer(code) == (tokenizer if importlib.util.find_spec(module) else "char")


def test_chinese_is_split_into_characters():
    hypothesis, reference = "我喜欢吃红苹果", "我喜欢吃青苹果"
    scores = score([hypothesis], [reference], "zh")
    expected = sacrebleu.corpus_bleu([hypothesis], [[reference]], tokenize="zh")
    assert scores.bleu == expected.score > 0
    assert "tok:zh" in scores.bleu_signature


def test_different_counts_name_both():
    with pytest.raises(VqnmtError, match="3 translations against 2 references"):
        score(HYPOTHESES, REFERENCES[:2], "de")
    with pytest.raises(VqnmtError, match="0 sentences"):
        score([], [], "de")


def test_paired_bootstrap_tells_better_from_equal():
    generator = random.Random(1)
    references = [" ".join(generator.choices("abcdefgh", k=10)) for _ in range(100)]

    def corrupted(share: float) -> list[str]:
        return [
            " ".join(word if generator.random() > share else "x" for word in line.split())
            for line in references
        ]

    baseline = corrupted(0.3)
    systems = {"same": list(baseline), "better": corrupted(0.1), "alike": corrupted(0.3)}
    found = paired_bootstrap(baseline, systems, references, "de", samples=200)
    own = score(baseline, references, "de").bleu
    for name, texts in systems.items():
        expected = score(texts, references, "de").bleu - own
        assert found[name].difference == pytest.approx(expected)
    assert found["same"].p_value == 1
    assert found["better"].difference > 10 and found["better"].p_value < 0.01
    assert found["alike"].p_value > 0.05
    assert 0 < found["alike"].interval < 10


def test_exact_match_takes_any_reference_as_it_stands():
    references = [["An", "Ein"], ["Aus"], ["Fehlt"], ["Über uns"]]
    assert exact_match(["Ein", "aus", "Fehlt ", "Über uns"], references) == 50.0
    assert exact_match(["An"], [["An"]]) == 100.0
    for wrong in (["An"], []):
        with pytest.raises(VqnmtError, match="cannot score"):
            exact_match(wrong, references if wrong else [])


COMET = """#!/bin/sh
printf '%s\\n' "$@" >arguments
cat "$2" "$4" "$6" >texts
printf '{}' >&2
printf '/somewhere/translations\\tscore: 0.8125\\n'
exit {}
"""


def program(folder: Path, said: str = "", status: int = 0) -> None:
    """Write a stand-in of comet-score; what it prints is that of unbabel-comet 2.2."""
    (folder / "comet-score").write_text(COMET.format(said, status))
    (folder / "comet-score").chmod(0o755)


def test_comet_of_another_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(VqnmtError, match="comet-score, which is not on PATH: install unbabel"):
        comet("a/model", ["a"], ["b"], ["c"])
    program(tmp_path)
    assert comet("a/model", ["a\rb", "c"], ["x", ""], ["ü", "y"]) == 0.8125
    words = Path("arguments").read_text().splitlines()
    assert words[:6:2] == ["--sources", "--translations", "--references"]
    assert words[6:] == ["--model", "a/model", "--quiet", "--only_system"]
    assert Path("texts").read_text("utf-8") == "a b\nc\nx\n\nü\ny\n"
    program(tmp_path, r"Traceback:\nKeyError: a/model\n", 1)
    with pytest.raises(VqnmtError, match=r"model a/model, and says: KeyError: a/model; check"):
        comet("a/model", ["a"], ["b"], ["c"])


def test_evaluate_prints_comet(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    Path("a.de").write_text("das Haus\n")
    words = ("evaluate", "--model", "a.de", "--source", "a.de", "--reference", "a.de")
    missing = script(*words, "--comet", "a/model")
    assert missing.status == 2 and missing.err.startswith("error: COMET needs the program comet-s")
    program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "\nCOMET  0.8125   a/model\n" in script(*words, "--comet", "a/model").out
