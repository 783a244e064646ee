"""Whatever a text has, the shipped model keeps what it must keep and does not crash."""

from collections.abc import Callable

import pytest

import vqnmt
from vqnmt.spans import find_spans, missing_spans
from vqnmt.translate.base import BatchTranslator

BAD = {
    "brace never closed": "Delete {name and {other} now",
    "brace never opened": "Delete name} and {other} now",
    "nested icu": "{n, plural, =0 {None in {dir}} one {# by {who, select, m {him} other {it}}} "
    "other {#}} were moved.",
    "icu never closed": "{n, plural, one {# file other {# files} were moved",
    "tag never closed": "Click <b>here <a href='x y to go on",
    "comparison": "If a < b and c > d, stop",
    "code and link never closed": "Run `a b` and `other code, see [the page](https://example.org/x",
    "500 placeholders": "Open " + " ".join(f"{{p{i}}}" for i in range(500)) + " now",
    "500 placeholders that touch": "Open " + "%s" * 500 + " now",
    "right to left": "\u202bשלום\u202c {name}, \u200fopen the window",
    "combining": "Ope\u0301n the do\u0308or {na\u0308me}",
    "combining first": "\u0301\u0308 open the door",
    "many combining": "Open" + "\u0301" * 300 + " the door",
    "emoji among words": "🎉 Open the door, {name} 👨‍👩‍👧!",
    "long word": "a" * 300,
    "long words": " ".join(["supercalifragilisticexpialidocious" * 4] * 6),
    "replacement character": "Open the \ufffd door, do\ufffdor",
    "control characters": "Open\x00 the\x07 door\x1b[31m {now}",
    "odd white space": "Open\x0bthe\x0cdoor\x1cnow\x85then\u2028end\u2029of\u00a0{it}",
    "private characters": "Open \U00100000 the \U00100001 door \ue000",
    "no characters": "Open the \U000e0fff \ufdd0 \uffff door",
    "another script": "打开门 {name}。关门",
    "braces around a word": "{" * 200 + " open " + "}" * 199,
}
SAME = [
    "{a} {b}: %s <br/>",
    "{" * 50,
    "?!... --- ;;; ,,,",
    "\"'“”„‚",
    "🎉 👨‍👩‍👧 🇩🇪",
    "\ufffd\ufffd",
    "{a}\n\n  {b}",
]


@pytest.fixture(scope="module")
def translator() -> BatchTranslator:
    translator = vqnmt.load_translator()
    translator.on_long = "split"
    return translator


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_nothing_is_lost(translator: BatchTranslator, text: str) -> None:
    found = translator(text).text
    assert missing_spans(text, found) == []
    assert any(map(str.isalnum, found))
    assert "\ufffd" in text or "\ufffd" not in found


@pytest.mark.parametrize("text", SAME)
def test_what_has_no_words_comes_back_as_it_is(translator: BatchTranslator, text: str) -> None:
    assert translator(text).text == text


def test_every_line_has_its_own(script: Callable) -> None:
    lines = [text for text in (*BAD.values(), *SAME) if "\n" not in text]
    text = "".join(f"{line}\n" for line in lines).replace("\0", "").encode()  # NUL is refused
    outcome = script("translate", "--quiet", "--on-long", "split", stdin=text)
    assert outcome.status == 0, outcome.err
    found = outcome.out.split("\n")
    assert len(found) == len(lines) + 1 and found.pop() == ""
    for line, translation in zip(lines, found, strict=True):
        assert missing_spans(line, translation) == []


def test_the_list_has_spans() -> None:
    assert sum(bool(find_spans(text)) for text in BAD.values()) >= 15
