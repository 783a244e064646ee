"""One form for spellings that look alike; what is no text to translate."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqnmt.data.normalization import clean_output, is_translatable, normalize

ODD = "\u200b\u200c\u200d\u200e\u00ad\ufeff\u0301\u2329\u1680\u00a0\u2581\ufffd\x00\x85\r\nae\u0627"


@settings(max_examples=1000)
@given(st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=8))
@example("\u2329\u200d")  # NFC makes another character of the first
@example("\u1680\u200d")
@example("a \u200d b")
def test_once_is_enough_and_the_invariants_hold(text):
    for function in (normalize, clean_output):
        found = function(text)
        assert function(found) == found == " ".join(found.split())
        assert unicodedata.is_normalized("NFC", found)
        assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in found)
        assert not set(found) & set("\u200b\u200e\u00ad\ufeff\u2581")
    assert "\ufffd" not in clean_output(text)


@settings(max_examples=300)
@given(st.text(st.characters(codec="latin-1", exclude_characters="\xad\xa0"), max_size=20))
def test_usual_text_stays_as_it_is(text):
    printable = "".join(filter(str.isprintable, text))
    assert normalize(printable) == " ".join(printable.split())


@pytest.mark.parametrize(
    "spelling",
    [
        "The cafe\u0301 is closed",
        "\ufeffThe café is closed",
        "The \ufeffcafé is closed",
        "The ca\u00adfé is clo\u00adsed",
        "The\u200b café is closed",
        "The \u200ecafé\u200f is closed",
        "\u202aThe café\u202c is \u2068closed\u2069",
        "The c\u200café is clo\u200dsed\u200d",
        "The \x08cafe\u200d\u0301 is closed",
        "The\u00a0café\u202fis\u3000closed",
        " The café\r\nis\u2028closed\x1f ",
        "The \u2060café is closed\uffff\x7f",
    ],
)
def test_what_looks_alike_is_alike(spelling):
    assert normalize(spelling) == "The café is closed"


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: without the joiner another word
        "क्\u200dष",  # Hindi: a half letter
        "ശ്രീ\u200dയ",
        "\u2764\ufe0f\u200d\U0001f525",  # a heart on fire
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\U0001f9d1\U0001f3fd\u200d\U0001f680",  # an astronaut
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag
        "葛\U000e0100城",
        "ﬁx … ＡＢＣ ½ Ⅳ",
        "﷽",
    ],
)
def test_what_differs_to_the_eye_stays(text):
    assert normalize(text) == clean_output(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, False) for text in ("", " ", "...", "-", "\U0001f642", "€", "123", "10 %", "❤️")),
        *((text, False) for text in ("1\ufe0f\u20e3", "¿?", "३४", "\u0301", "\u200b", "\ufeff")),
        *((text, False) for text in ("https://example.org/a?b=c#d", "www.example.org", "a.b@c.de")),
        *((text, False) for text in ("<https://example.org>.", "mailto:a@b.de", "a@b.de, c@d..e")),
        *((text, False) for text in ("https://de.wikipedia.org/wiki/Größe", "https://a.b/हिन्दी")),
        *((text, True) for text in ("a", "1. A", "Ж", "光", "ก", "see https://a.b", "e.g.", "a@b")),
        *((text, True) for text in ("https://a.b。请看这里", "www", "user@", "and/or", "@home")),
        *((text, True) for text in ("a@.b", "a@b.", "a@b.c@d.e")),
    ],
)
def test_what_there_is_to_translate(text, expected):
    assert is_translatable(text) == expected


@pytest.mark.parametrize(
    "text",
    ["!" * 500_000 + "a", *(x * 250_000 for x in ("aa", "a@", "a@.")), "a@" + "b." * 9**6 + "@"],
)
def test_a_word_of_absurd_length_takes_no_absurd_time(text):
    assert is_translatable(text)
    assert normalize(text) == text
