"""The model that ships: it is there, small, and translates."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vqnmt
from tests.translate.first_words import LABELS, SENTENCES
from vqnmt.spans import find_spans, invented_spans, missing_spans
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.casing import usual_case

# Of the first words and sentences the share that must be right, in per cent.
RIGHT = 80
ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "pretrained" / "en-de"
TEXTS = [
    "Hi {first_name}, {n} of {total} files are left",
    "Moved %(count)d items to %s",
    "Copied %1$s to %2$s",
    "{n, plural, one {# photo} other {# photos}} by {author}",
    "Read the <a href='/terms' target=\"_blank\">terms</a> before you go on.",
    "Press <kbd>Ctrl</kbd> + <kbd>S</kbd> &amp; wait",
    "Write to admin@example.org or open https://example.org/a?b=1&c=2.",
    "The server 10.0.0.7 answers on port 8080.",
    "Run `make install` first",
    "It is 21.5 °C and 45% at 08:30 on 2026-11-30",
    "See [the manual](https://example.org/manual)!",
    "First line\\nSecond line",
    "${USER} has $5.00 left",
    "{{ count }} results",
    "Version 2.10.3 needs 512 MB",
    "{0}{1}{2}",
    "Delete “{title}” by {{ user.name }}?",
    '<b>{count}</b> new messages from <a href="/users/{id}">{sender}</a>',
    "&Open recent (%d)",
    "🎉 Welcome, @{user}! Call +49 30 123456 if $name does not answer within 5 minutes.",
]


def test_the_model_takes_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 12e6


def test_translations_make_sense() -> None:
    sentences = ["Where is the train station?", "", "Turn off the light in the kitchen."]
    found = [translation.text for translation in vqnmt.load_translator(FOLDER).translate(sentences)]
    assert "Bahnhof" in found[0]
    assert found[1] == ""
    assert "Licht" in found[2] and "Küche" in found[2]


def test_spellings_that_look_alike_and_what_is_no_text(script: Callable) -> None:
    odd = ["The cafe\u0301 is closed", "The ca\u00adf\u00e9 \u200eis\u200b closed"]
    lines = [
        "The caf\u00e9 is closed",
        *odd,
        "...",
        "-",
        "\U0001f642",
        "123",
        "https://a.b/c",
        "a@b.de",
    ]
    found = [translation.text for translation in vqnmt.load_translator(FOLDER).translate(lines)]
    assert found[0] == found[1] == found[2] != lines[0]
    assert found[3:] == lines[3:]
    outcome = script(
        "translate", "--quiet", stdin="".join(f"{line}\r\n" for line in lines).encode()
    )
    assert (outcome.status, outcome.out.splitlines()) == (0, found)


def test_the_script_takes_it_by_default() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "translate.py"],
        input="How are you today?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "heute" in result.stdout


@pytest.fixture(scope="module")
def translator() -> BatchTranslator:
    return vqnmt.load_translator()


@pytest.mark.parametrize("text", TEXTS)
def test_every_span_comes_through_and_none_is_made_up(translator, text) -> None:
    assert find_spans(text)
    found = translator(text)
    assert missing_spans(text, found.text) == [] and invented_spans(text, found.text) == []


def test_first_words_and_sentences(translator) -> None:
    wrong = {
        text: found
        for text, answers in (LABELS | SENTENCES).items()
        for found in [translator(text).text]
        if not re.fullmatch(answers, re.sub(r"[.!?…\s]+$", "", found), re.IGNORECASE)
    }
    right = 100 * (1 - len(wrong) / len(LABELS | SENTENCES))
    assert right >= RIGHT, f"{right:.0f}% are right; wrong: {wrong}"


def test_texts_of_several_lines_keep_their_lines(translator) -> None:
    text = "Turn on the light.\n\n  Open the door. The window is closed.\n"
    lines = translator(text).text.split("\n")
    assert [bool(line.strip()) for line in lines] == [True, False, True]
    assert lines[2].startswith("  ")


@pytest.mark.parametrize(
    ("capitals", "shown"),
    [
        ("DELETE ALL FILES", "Delete all files"),
        ("CAN I OPEN THE USB DEVICE {name}?", "Can I open the USB device {name}?"),
    ],
)
def test_a_text_in_capitals_is_read_as_in_small_letters(translator, capitals, shown) -> None:
    (part,) = translator.cut(capitals)
    assert (part.shown, part.capitals) == (translator.cut(shown)[0].shown, True)
    found, written = translator(capitals), translator(shown).text
    assert found.text == written.upper().replace("{NAME}", "{name}") != written
    assert translator.decode_codes(capitals, found.codes).text == found.text


def test_a_rescorer_does_not_see_text_in_capitals(translator) -> None:
    seen: list[str] = []

    class Rescorer:
        def score(self, sentences: list[str], candidates: list[list[str]]) -> list[list[float]]:
            seen.extend(sentences)
            return [[1.0] * len(some) for some in candidates]

    texts = ["Delete all files", "DELETE ALL FILES"]
    small, capitals = translator.translate(texts, candidates=2, rescorer=Rescorer())
    assert seen == texts[:1]
    assert (small.teacher_score, capitals.teacher_score) == (1.0, None)


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Click Here to Find Boston", "Click here to find Boston"),
        ("The USB Device Was Not Found", "The USB device was not found"),
    ],
)
def test_a_title_is_read_as_a_sentence(translator, title, shown) -> None:
    assert usual_case(title, translator.vocabulary) == shown
    assert translator(title).text == translator(shown).text


@pytest.mark.parametrize(
    "text",
    [
        "OK",
        "PDF",
        "Open the PDF",
        "A",
        "{X}",
        "ÄÖ 12 :",
        "",
        "Add New User",
        "Tom said He saw Mary",
    ],
)
def test_other_texts_stay_in_their_case(translator, text) -> None:
    assert usual_case(text, translator.vocabulary) == text
    assert not any(part.capitals for part in translator.cut(text))
