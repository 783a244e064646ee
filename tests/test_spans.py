"""Spans are found, and put back character for character, whatever the text."""

import re
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vqnmt.spans import (
    SLOT,
    Protected,
    find_spans,
    invented_spans,
    missing_spans,
    protect,
    protect_like,
    protect_pair,
    restore,
    slot,
)

_BITS = (
    "{",
    "}",
    "{name}",
    "{{ x }}",
    "${x}",
    "%s",
    "%(a)d",
    "%1$s",
    "%",
    "$",
    "#",
    "<b>",
    "</b>",
    '<a href="x">',
    "<",
    ">",
    "&amp;",
    "&",
    "`",
    "`x`",
    "[",
    "](u)",
    "](",
    "https://x.org",
    "a@b.org",
    "10.0.0.1",
    "21.5 °C",
    "1,299.99",
    "12",
    ".",
    ",",
    " ",
    "word",
    "ä",
    "a\u0308",
    "{n, plural, one {# file} other {# files}}",
    "שלום",
    "\u200f",
    "\n",
    slot(0),
    slot(3),
    "🙂",
    "/",
    "~/a",
    "a.txt",
    "--a",
    "f()",
    "+1 234 5678",
    "@a",
)
texts = st.lists(st.sampled_from(_BITS) | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (
            "Do {name} and {0}, {{ x.y }}, ${u}, #{v}, %{w}",
            ["{name}", "{0}", "{{ x.y }}", "${u}", "#{v}", "%{w}"],
        ),
        (
            "%s has %d of %(all)s, %1$s %2$d %.2f %ld %1 100%%",
            ["%s", "%d", "%(all)s", "%1$s", "%2$d", "%.2f", "%ld", "%1", "100", "%%"],
        ),
        ("%s%s, %sx%d and %dx%(a)s of %HOME%", ["%s", "%s", "%s", "%d", "%d", "%(a)s", "%HOME%"]),
        ("in {n, plural, one {# {x}} other {#}} here", ["{n, plural, one {# {x}} other {#}}"]),
        ('A <a href="x?a=1&b=2">page</a><br/>', ['<a href="x?a=1&b=2">', "</a>", "<br/>"]),
        (
            '<a title="a > b" x=\'>\' y>x</a>, <b =>, <i c = "=>"/>, a <b c="d> e <u f=\'"\'>',
            [
                *("<a title=\"a > b\" x='>' y>", "</a>", "<b =>", '<i c = "=>"/>'),
                *('<b c="d>', "<u f='\"'>"),
            ],
        ),
        ("<b don't> isn't> <i it's=it's>", ["<b don't>", "<i it's=it's>"]),
        ("&lt;b&#62; Save &As, &Öffnen & –", ["&lt;", "&#62;", "&", "&"]),
        ("Run `a {b}` or [the docs](/x_(y)) now", ["`a {b}`", "[", "](/x_(y))"]),
        (
            "See https://x.org/a?b=c, www.y.de. (mailto:z)",
            ["https://x.org/a?b=c", "www.y.de", "mailto:z"],
        ),
        ("Ask a.b@x.org, 10.0.0.1:80 or fe80:1:2::3.", ["a.b@x.org", "10.0.0.1:80", "fe80:1:2::3"]),
        (
            "$1,299.99 or 19% at -21.5 °C on 12/05/2026, 10:30.",
            ["$1,299.99", "19%", "-21.5 °C", "12/05/2026", "10:30"],
        ),
        ("an MP3 in 4K, LOG_LEVEL=debug, the 2nd time", ["MP3", "4K", "LOG_LEVEL=debug"]),
        (r"one\ntwo :smile: $name [%key:a::b%]", [r"\n", ":smile:", "$name", "[%key:a::b%]"]),
        ("plain words, a < b & c, 50 %ish }{", ["50", "}", "{"]),
        ("请在3号房间访问https://x.org。开灯{x}个", ["3", "https://x.org", "{x}"]),
        (
            "`{` {name} } %%{x} {open {a} <b never",
            ["`{`", "{name}", "%%", "{x}", "{open", "{a}", "<b"],
        ),
        (
            "Edit /etc/hosts, ~/x/ or ./a.b; C:\\Users\\me\\x.txt. Not and/or, 5 €/day, I/O.",
            ["/etc/hosts", "~/x/", "./a.b", "C:\\Users\\me\\x.txt", "5 €"],
        ),
        (
            "See config.yaml, archive.tar.gz and Node.js. Not e.g. this, done.Next",
            ["config.yaml", "archive.tar.gz", "Node.js"],
        ),
        (
            "Run --dry-run --jobs=4, std::sort() or f(): a >= b && c => d -- e",
            ["--dry-run", "--jobs=4", "std::sort()", "f()", ">=", "&&", "=>"],
        ),
        ("Press Ctrl+Shift+S -> D", []),  # German keyboards have Strg
        (
            "Ask @support, +49 30 123456 or +1 (555) 123-4567, +5 °C",
            ["@support", "+49 30 123456", "+1 (555) 123-4567", "+5 °C"],
        ),
        (
            "id 550e8400-e29b-41d4-a716-446655440000.",
            ["550e8400-e29b-41d4-a716-446655440000"],
        ),
        ("🎉 Done ✅, ⚠️ 👨‍👩‍👧 \ufffd — → ok", ["🎉", "✅", "⚠️", "👨‍👩‍👧", "\ufffd"]),
    ],
)
def test_each_kind_is_found(text: str, spans: list[str]) -> None:
    assert [span.text for span in find_spans(text)] == spans


def test_own_patterns_are_found_before_others() -> None:
    found = find_spans("Ask Home Assistant {x}, x", [r"Home \w+", r"z*"])
    assert [(span.kind, span.text) for span in found] == [
        ("own", "Home Assistant"),
        ("placeholder", "{x}"),
    ]
    with pytest.raises(re.error):
        find_spans("", ["("])


@given(texts)
@example("{" * 50 + "x" + "}" * 49)
@example(slot(7) + "{a}")
@example("{a}" * 500)
@example(" {a}" * 500)
def test_protecting_and_restoring_is_the_identity(text: str) -> None:
    protected = protect(text)
    assert restore(protected.text, protected.spans) == text
    assert SLOT.findall(protected.text) == [slot(i) for i in range(len(protected.spans))]
    spans = find_spans(text)
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert missing_spans(text, text) == invented_spans(text, text) == []


def test_a_slot_beyond_the_spans_is_dropped() -> None:
    assert restore(f"a {slot(0)} b{slot(1)}", ["{x}"]) == "a {x} b"


def test_what_is_missing_or_invented_is_told() -> None:
    assert missing_spans("{a} {a} <b>{c}</b>", "{a} {c}</b>") == ["{a}", "<b>"]
    assert invented_spans("{a}", "{a} {b}") == ["{b}"]
    assert missing_spans("1,299.5 and 45%", "1.299,5 und 45 Prozent") == []
    assert missing_spans("in 21.5 °C", "in 21 °C") == ["21.5 °C"]


def _shown(pair: tuple[Protected, str] | None) -> tuple[str, ...] | None:
    if pair is None:
        return None
    texts = pair[0].text, pair[1]
    return tuple(SLOT.sub(lambda match: f"[{ord(match[0]) - ord(slot(0))}]", s) for s in texts)


@pytest.mark.parametrize(
    ("source", "target", "shown"),
    [
        ("{a} has {b}", "{b} hat {a}", ("[0] has [1]", "[1] hat [0]")),
        ("{x} {x} {y}", "{y} {x} {x}", ("[0] [1] [2]", "[2] [0] [1]")),
        # the other language's spelling of a number, with its unit
        ("21.5 °C in {r}", "In {r} 21,5°C", ("[0] in [1]", "In [1] [0]")),
        ("45% done", "zu 45 Prozent", ("45% done", "zu 45 Prozent")),
        ("3 dogs", "drei Hunde", ("3 dogs", "drei Hunde")),
        # touching spans share a slot if they do so in both
        ("<b>{x}</b> y", "y <b>{x}</b>", ("[0] y", "y [0]")),
        ("<b>{x}</b> y", "<b>y {x}</b>", ("[0][1][2] y", "[0]y [1][2]")),
        ('<a href="/en">', '<a href="/de">', ("[0]", "[0]")),
        ("{n, plural, other {a}} x", "{n, plural, other {b}} y", ("[0] x", "[0] y")),
        ("{a}", "{b}", None),
        ("a", "{b}", None),
        ("a >= b in /a", "/a, wo a => b", ("a >= b in [0]", "[0], wo a => b")),
        ("{a} {b} {c} {d}", "{a} {b} {c} {d}", None),  # more than there are slots
    ],
)
def test_a_pair_shares_its_slots(source: str, target: str, shown: tuple[str, str] | None) -> None:
    assert _shown(protect_pair(source, target, 3)) == shown


def test_slots_can_begin_anywhere() -> None:
    assert _shown(protect_pair("{a} {b}", "{b} {a}", 3, first=2)) == ("[2] [0]", "[0] [2]")


@given(st.permutations(range(4)))
def test_a_pair_of_shuffled_spans_keeps_each(order: list[int]) -> None:
    words = ["{a}", "%s", "<i>", "21.5"]
    source, target = " ".join(words), " ".join(words[i] for i in order)
    pair = protect_pair(source, target, 4)
    assert pair is not None
    protected, other = pair
    assert [restore(side, protected.spans) for side in (protected.text, other)] == [source, target]
    assert Counter(SLOT.findall(protected.text)) == Counter(SLOT.findall(other))
    assert protect_like(target, protected.spans) == other


@pytest.mark.parametrize(
    "unit",
    [
        *("x", "{", "}", "{}", "<a", "&", "1,", "a.a", "`", "](", "%(", "_a", "a@", "//.", ":a"),
        *(
            "/a",
            " /a-",
            " ./",
            " --a",
            "a.txt",
            "a.",
            "a-",
            "a()",
            "a::",
            "a:\\",
            "+1 ",
            "@a",
        ),
        *("[a](", '="', "=\"='", "= ", '<a="', '<a ="b"', '\'="a"'),
    ],
)
def test_no_text_takes_long(unit: str) -> None:
    start = time.process_time()
    protect(unit * (20_000 // len(unit)))
    protect("<a " + unit * (20_000 // len(unit)))
    protect("%s " * 3000 + f"{{{unit * (20_000 // len(unit))}}}")
    assert time.process_time() - start < 5
