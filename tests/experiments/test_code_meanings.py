"""The words of single codes, by hand and on the toy run's student."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vqnmt.experiments.code_meanings import code_swaps, code_words
from vqnmt.serve.codes import alternatives
from vqnmt.translate.loading import load_translator
from vqnmt.translate.translation import Translation

WRITTEN = {1: ["▁a", "▁b"], 2: ["▁b", "▁b"], 3: ["▁c", "c"]}


class Writer:
    """Writes fixed pieces for each code."""

    def translate(self, sentences: list[str], repair: bool) -> list[Translation]:
        return [Translation("", codes=[int(code) for code in one.split()]) for one in sentences]

    def code_pieces(self, translation: Translation) -> list[list[str]]:
        return [WRITTEN[code] for code in translation.codes]


def test_words_are_counted_by_code() -> None:
    found = code_words(Writer(), ["1 2", "1 3", "1 2"], 2, 5)
    assert [(one.code, one.share) for one in found] == [(1, 0.5), (2, pytest.approx(1 / 3))]
    assert found[0].frequent == ["a", "b"]
    # "b" is no sign of code 1: code 2 writes most of them.
    assert found[0].own == ["a", "b"] and found[1].own == ["b"]
    assert code_words(Writer(), [], 2, 5) == []


def test_the_first_swap_is_the_translation_itself(finished_run) -> None:
    translator = load_translator(finished_run.folder / "student")
    text = "bale gudo file leka bafi"
    found = code_swaps(translator, text, 0, 4)
    assert found.swaps[0].text == translator.translate([text])[0].text
    assert found.swaps[0].codes == translator.codes(text)
    assert len({tuple(swap.codes) for swap in found.swaps}) == 4
    values = [swap.probability for swap in found.swaps[1:]]
    assert values == sorted(values, reverse=True)


def test_the_sentences_own_code_is_first_where_another_stands_above_it() -> None:
    """A code's probability is the sum of two symbols; greedy search takes the likeliest symbol."""

    class Contradicting(Writer):
        def codes(self, sentence: str) -> list[int]:
            return [2, 1]

        def code_alternatives(self, *_: object) -> list[tuple[int, float]]:
            return [(3, 0.5), (1, 0.3), (2, 0.2)]

        def decode_codes(
            self, sentence: str, codes: list[int], complete: bool = False
        ) -> Translation:
            return Translation("x", codes=codes, tokens=[0], spans=[1] * len(codes))

    translator = Contradicting()
    swaps = code_swaps(translator, "any", 0, 3).swaps
    assert [swap.codes for swap in swaps] == [[2, 1], [3, 1], [1, 1]]
    assert [swap.probability for swap in swaps] == [0.2, 0.5, 0.3]
    shown = alternatives(translator, "any", [2, 1], 0, False)
    assert [one["code"] for one in shown] == [2, 3, 1]
    assert [one["code"] for one in alternatives(translator, "any", [2, 1], 2, False)] == [3, 1, 2]


def test_script_draws_what_is_asked_for(finished_run, script: Callable, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("bale gudo\nfile leka bafi\n", encoding="utf-8")
    model = ["--model", finished_run.folder / "student", "--text", text]
    outcome = script("draw_codes", "--out", tmp_path / "out", *model, "--sentence", "bale gudo")
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "codes_meanings.png",
        "codes_meanings.svg",
    ]
    for wrong, part in (
        ([], "nothing is asked for: give --systems, --sizes or --model"),
        (model[:2], "--model and --text belong together: give both"),
        (["--sizes", tmp_path / "none.json"], "none.json: no such file of run records"),
    ):
        outcome = script("draw_codes", "--out", tmp_path / "out", *wrong)
        assert outcome.status == 2 and part in outcome.err.splitlines()[-1]
