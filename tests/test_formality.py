"""Registers: the words that show one, the tags that ask for one, and what a user may ask for."""

import pytest

from tests.translate.test_protected_spans import LINES, Scripted, echo
from vqnmt.data.filters import PairFilter
from vqnmt.data.tokenized import open_tokens, tokenize_pairs
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.formality import TAGS, find_formality, tagged
from vqnmt.spans import protect

SHOWN = [
    ("de", "informal", "Wie geht es dir?"),
    ("de", "informal", "DU siehst nichts, weil deine Augen zu sind"),
    ("de", "informal", "Ist das euer Haus?"),
    ("de", "formal", "Wählen Sie eine Datei."),
    ("de", "formal", "Wie geht es Ihnen?"),
    ("de", "formal", "Prüfen Sie, ob du es bist"),
    ("de", None, "Sie ist da."),  # or "you are"
    ("de", None, "Was ist das? Sie kommen."),
    ("de", None, "Die Dusche direkt einrichten"),
    ("de", None, ""),
    ("de-AT", "informal", "Dein Gerät"),
    ("es", "informal", "¿Dónde está tu casa?"),
    ("es", "formal", "¿Cómo está usted?"),
    ("fr", "informal", "Je t'aime"),
    ("fr", "formal", "Votre mot de passe"),
]


@pytest.mark.parametrize(("language", "register", "text"), SHOWN)
def test_words_show_the_register(language: str, register: str | None, text: str) -> None:
    if "ob du" in text:  # both are shown
        register = None
    assert find_formality(text, language) == register


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(VqnmtError, match="formality is true, but the words that show it in 'fi'"):
        find_formality("Moi", "fi")


def test_half_of_the_targets_that_show_a_register_tag_their_source() -> None:
    targets = [f"Hast du {i} Hunde?" for i in range(400)]
    found = [tagged("source", target, "de") for target in targets]
    assert set(found) == {"source", "source" + TAGS["informal"]}
    assert 150 < sum(one != "source" for one in found) < 250
    assert {tagged("source", f"{i} Hunde", "de") for i in range(20)} == {"source"}


def test_tokens_carry_the_tag_behind_the_source(tmp_path) -> None:
    sources = [f"Do you have {'many ' * i}dogs" for i in range(20)]
    targets = [f"Haben Sie {'viele ' * i}Hunde" for i in range(20)]
    vocabulary = Vocabulary.train(sources + targets, 285, slots=2, formality=True)
    assert vocabulary.formality and vocabulary.slots == 2
    assert not Vocabulary.train(sources + targets, 283, slots=2).formality
    (tag,) = vocabulary.encode([TAGS["formal"]])
    for language in ("de", ""):
        text = (sources, targets, vocabulary, tmp_path, PairFilter(max_words=40), "test")
        tokenize_pairs(*text, formality=language)
        ends = [row[-1] for row in open_tokens(tmp_path)[0]]
        wanted = [bool(language) and tagged("", one, "de") != "" for one in targets]
        assert [end == tag[-1] for end in ends] == wanted


def test_a_translator_asks_for_a_register_in_every_part() -> None:
    translator = Scripted(4, lambda text: [text.replace(TAGS["formal"], "")])
    translator.vocabulary = Vocabulary.train(LINES, 287, slots=4, formality=True)
    text = "Press the button, then wait. Done already\n{name}"
    translator.translate([text])
    plain = translator.seen.copy()
    translator.seen.clear()
    translator.formality = "formal"
    (found,) = translator.translate([text])
    assert translator.seen == [line + TAGS["formal"] for line in plain]
    assert found.text == text


def test_a_register_that_is_unknown_or_not_learnt_is_refused() -> None:
    translator = Scripted(4, echo)
    with pytest.raises(VqnmtError, match="formality is 'polite'; choose one of informal, formal"):
        translator.formality = "polite"
    with pytest.raises(VqnmtError, match="this model has not learnt it"):
        translator.formality = "formal"
    translator.formality = None


def test_a_tag_that_a_source_itself_has_is_a_span() -> None:
    assert protect(f"a {TAGS['formal']} b").spans == [TAGS["formal"]]
